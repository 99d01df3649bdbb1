"""A bench from the command line to its tables, with models so small that it takes a moment."""

import csv
import io
import json
import shutil
import statistics

import pytest
import torch

from vgpt.bench.machine import bytes_of, peak_bytes
from vgpt.bench.result import load, save
from vgpt.bench.tables import bench_csv
from vgpt.bench.work import Decoding, Point, Training, build, weight_bytes
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_read_bytes, count_parameters
from vgpt.model.steps import Steps
from vgpt.settings.train import SystemSettings
from vgpt.tracking.store import read_runs
from vgpt.training.hardware.devices import Compute

TINY = ("--n-layer", 2, "--n-head", 2, "--n-embd", 16, "--block-size", 16, "--vocab-size", 40)
SHORT = ("--rounds", 2, "--seconds", 0.002, "--patience", 0, "--dtype", "float32", "--device", "cpu")
NAMES = ["mha", "gqa:n_kv_head=1", "local:window_size=4"]
COMPUTE = Compute(torch.device("cpu"), torch.float32, "as asked")
CONFIG = GPT2Config.model_validate({"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 40})


@pytest.fixture(scope="module")
def outcome(vgpt, tmp_path_factory):
    """A bench of three variants with all phases, and the page it wrote."""
    page = tmp_path_factory.mktemp("bench") / "page.html"
    return vgpt("bench", *NAMES, *TINY, *SHORT, "--batch", "1,3", "--json", "--html", page), page


def test_every_phase_batch_and_variant_is_measured_in_every_round(outcome):
    result, _ = outcome
    assert result.code == 0
    table = json.loads(result.out)
    points = [(case["phase"], case["batch"], case["context"]) for case in table["cases"]]
    assert points == [("train", 16, 16), *((phase, batch, 16) for phase in ("prefill", "decode") for batch in (1, 3))]
    for case in table["cases"]:
        assert [one["label"] for one in case["variants"]] == NAMES
        # Two rounds; more or fewer where the machine was busy.
        assert len({len(one["seconds"]) for one in case["variants"]}) == 1
        assert all(min(one["seconds"]) > 0 for one in case["variants"])
    assert "3 variants, 5 cases, 2 rounds" in result.err


def test_caches_measured_after_decoding_are_of_the_analytic_size(outcome):
    decoding = [case for case in json.loads(outcome[0].out)["cases"] if case["phase"] == "decode"]
    sizes = {(case["batch"], one["label"]): one["cache_bytes"] for case in decoding for one in case["variants"]}
    assert all(one["cache_bytes"] == one["cache_analytic"] for case in decoding for one in case["variants"])
    # Keys and values of 16 numbers, in 2 layers, at 16 positions, of 4 bytes; half the heads; a window of 4.
    assert sizes[1, "mha"] == 2 * 16 * 2 * 16 * 4
    assert sizes[3, "gqa:n_kv_head=1"] == 3 * sizes[1, "mha"] // 2
    assert sizes[1, "local:window_size=4"] == sizes[1, "mha"] // 4


def test_speeds_follow_from_the_median_step(outcome):
    table = json.loads(outcome[0].out)
    for case in table["cases"]:
        tokens = case["batch"] * (1 if case["phase"] == "decode" else 16)
        for one in case["variants"]:
            median = statistics.median(one["seconds"])
            assert one["follows"]["tokens_per_second"] == pytest.approx(tokens / median)
            assert one["follows"]["mfu"] == pytest.approx(one["flops"] / median / table["machine"]["peak_flops"])
            assert (one["follows"]["mbu"] is not None) == (case["phase"] == "decode")


def test_a_page_holds_the_tables(outcome):
    text = outcome[1].read_text()
    assert "Training step: 16 x 16 tokens" in text
    assert "<script" not in text


def test_the_terminal_shows_it_and_a_log_reaches_mlflow(vgpt, empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    shown = vgpt("bench", "mha", "mqa", *TINY, *SHORT, "--phase", "decode", "--log", "--tracking-uri", uri)
    assert (shown.code, "Decoding: 1 x 1 token, context 16" in shown.out) == (0, True)
    assert "Fewer than 6 rounds" in " ".join(shown.out.split())
    assert "logged as run" in shown.err
    # It is no run that was trained: comparisons pass it over.
    assert read_runs(experiment="vgpt", tracking_uri=uri) == []


def test_csv_has_a_line_for_each_case_and_variant(outcome, tmp_path):
    (tmp_path / "record.json").write_text(outcome[0].out)
    bench = load(tmp_path / "record.json")
    assert bench is not None
    lines = list(csv.DictReader(io.StringIO(bench_csv(bench))))
    assert [line["attention"] for line in lines] == NAMES * 5
    assert all(float(line["tokens_per_second"]) > 0 for line in lines)
    assert [line["batch"] for line in lines if line["phase"] == "decode"] == ["1"] * 3 + ["3"] * 3


def test_a_plan_measures_no_variant(vgpt):
    result = vgpt("bench", "mha", "mqa", *TINY, *SHORT, "--plan")
    assert (result.code, result.out) == (0, "")
    assert "2 variants, 3 cases, 2 rounds" in result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mha", "--context", 17), "--context 17 is longer than the 16 learned positions"),
        (("mha", "mha"), "named twice"),
        (("gqa", "gqa:n_kv_head=2"), "would be measured twice"),
        (("some-run",), "is no variant"),
        (("mha", "--n-kv-head", 1), "--n-kv-head belongs to"),
        (("mha", "--json", "--csv"), "exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(vgpt, words, said):
    result = vgpt("bench", *words, *TINY, "--n-head", 4, *SHORT)
    assert result.code == 2
    assert said in " ".join(result.err.replace("│", " ").split())
    assert "plan:" not in result.err


def test_a_record_is_read_back_as_it_was_and_a_damaged_one_is_none(outcome, tmp_path):
    path = tmp_path / "bench" / "record.json"
    path.parent.mkdir()
    path.write_text(outcome[0].out)
    bench = load(path)
    assert bench is not None
    save(bench, path)
    assert load(path) == bench
    table = json.loads(path.read_text())
    table["cases"][0]["variants"][0]["seconds"] = [1.0]  # of another number of rounds
    path.write_text(json.dumps(table))
    assert load(path) is None
    path.write_text("{")
    assert load(path) is None


def test_the_peak_of_memory_is_that_of_the_tensors_which_live_at_once():
    def work():
        first = torch.ones(1000)  # 4,000 bytes
        second = first + 1  # 8,000 at once
        del first
        return second.double().sum()  # 4,000 and 8,000, and the sum

    assert peak_bytes(torch.device("cpu"), 500, work) == pytest.approx(500 + 12_000, abs=64)


def test_training_holds_weights_optimizer_gradients_and_activations():
    work = Training(CONFIG, Point("train", 4, 16), COMPUTE, SystemSettings())
    peak, count = work.peak(), count_parameters(CONFIG).total
    assert peak is not None
    # Weights and two moments; gradients are let go of after a step, with a counter of steps for each tensor.
    assert 12 * count <= bytes_of(work.model, work.optimizer) < 12 * count + 4 * 100
    assert 16 * count < peak < 16 * count + 2_000_000


def test_training_steps_all_do_the_same_work_on_the_same_weights():
    work = Training(CONFIG, Point("train", 2, 16), COMPUTE, SystemSettings())
    before = [p.detach().clone() for p in work.model.parameters()]
    assert work.seconds(3) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, work.model.parameters(), strict=True))


def test_decoding_ends_at_the_context_after_reading_what_is_before():
    lengths = []

    class Noted(Steps):
        def next_logits(self, ids):
            logits = super().next_logits(ids)
            lengths.append((ids.shape[1], self.caches[0].length))
            return logits

    work = Decoding(CONFIG, Point("decode", 2, 16), COMPUTE)
    model = build(CONFIG, COMPUTE.device)
    work.steps = Noted(model, model.logits, 2, 16, dtype=torch.float32)
    work.step(11)
    # Stretches of half the context at most.
    assert lengths == [(8, 8), *[(1, 8 + n) for n in range(1, 9)], (13, 13), (1, 14), (1, 15), (1, 16)]
    weights = weight_bytes(CONFIG, 4)
    assert weights == 4 * (count_parameters(CONFIG).total - 16 * 16)  # rows of the positions are looked up
    assert work.bytes_read == weights + 2 * cache_read_bytes(CONFIG, 12, 4)


def test_the_peak_is_the_larger_of_those_before_and_after(monkeypatch):
    """Of a machine that was busy while it was probed, a share of the peak would read too high."""
    from vgpt.bench import machine
    from vgpt.training.hardware.peak import Peak

    before = machine.machine(COMPUTE)
    monkeypatch.setattr(machine, "peak_again", lambda compute, peak: Peak(2 * peak.flops, peak.source))
    assert machine.measured_again(before, COMPUTE).peak_flops == 2 * before.peak_flops
