"""Speeds measured side by side in place of those of training logs: found by what they are of, shown with intervals."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from vgpt.bench.result import Bench, Case, Machine, Measured, save
from vgpt.bench.statistics import paired_ratio
from vgpt.compare.architecture import architecture_of
from vgpt.compare.choose import compare
from vgpt.compare.request import make_request
from vgpt.model.costs import count_parameters
from vgpt.report.as_json import as_json
from vgpt.report.columns import chosen_columns, row_contexts
from vgpt.report.tables import tables
from vgpt.settings.loader import Sources
from vgpt.study.speeds import find_speeds, wish_of, with_speeds

VOCABULARY = 2048
# Round by round: gqa takes 0.9 of mha's time; whether mqa is faster, nobody can tell.
MHA = (1.0, 1.1, 0.9, 1.3, 1.05, 0.95, 1.2, 1.0)
GQA = tuple(0.9 * t * wobble for t, wobble in zip(MHA, (1, 1.01, 0.99, 1, 1.02, 0.98, 1, 1), strict=True))
MQA = tuple(t * wobble for t, wobble in zip(MHA, (1.1, 0.9, 1.05, 0.95, 1.2, 0.8, 1.01, 0.99), strict=True))
SECONDS = {"mha": MHA, "gqa": GQA, "mqa": MQA}
BUSY = "other processes used 1.0 cores"


@pytest.fixture
def comparison(make_run):
    """Three variants, with the parameters that a vocabulary of 2,048 gives them."""
    runs = []
    for attn in ("mha", "gqa", "mqa"):
        run = make_run(attn)
        config = architecture_of(run)
        assert config is not None
        total = count_parameters(config.model_copy(update={"vocab_size": VOCABULARY})).total
        runs.append(replace(run, metrics={**run.metrics, "params/total": float(total)}))
    return compare(make_request(["mha", "gqa", "mqa"], Sources()), runs)


@pytest.fixture
def wish(comparison):
    found, reason = wish_of(comparison)
    assert reason == ""
    return found


def record(wish, *, disturbed=(), made=1.0):
    """What measuring would have kept."""
    machine = Machine("AMD EPYC", "float32", 1e12, "measured", 1e10, "2.13.0", "0.1.0", "0" * 16, made)

    def measured(label, tokens, read):
        times = tuple(t * tokens / 16_384 for t in SECONDS[label.split(":")[0]])
        return Measured(label, times, tokens, 1e6 * tokens, read, 100 * 2**20)

    cases = (
        Case("train", 16, 128, tuple(measured(label, 2048, 0) for label in wish.variants), 0, disturbed),
        Case("decode", 1, 128, tuple(measured(label, 1, 1000) for label in wish.variants), 0, disturbed),
    )
    settings = {label: config.model_dump(mode="json") for label, config in wish.variants.items()}
    return Bench(machine, {"key": wish.key}, cases, settings)


def printed(parts):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def test_what_is_measured_is_the_shape_the_runs_were_trained_at(wish):
    assert (wish.batch_size, wish.grad_accum, wish.context, wish.dtype) == (16, 1, 128, "float32")
    assert {config.vocab_size for config in wish.variants.values()} == {VOCABULARY}
    assert [config.attn.kind for config in wish.variants.values()] == ["mha", "gqa", "mqa"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"params": {"batch_size": "8"}}, "differ in --batch-size"),
        ({"tags": {"vgpt.dtype": "bfloat16"}}, "differ in dtype"),
        ({"params": {"nproc": "2"}}, "several processes"),
    ],
)
def test_runs_of_unequal_shape_are_not_measured_and_the_reason_is_told(comparison, change, reason):
    first = comparison.rows[0]
    changed = [replace(r, **{name: {**getattr(r, name), **new} for name, new in change.items()}) for r in first.runs]
    rows = (replace(first, runs=tuple(changed)), *comparison.rows[1:])
    found, why = wish_of(replace(comparison, rows=rows))
    assert found is None
    assert reason in why


def test_a_record_answers_for_its_variants_and_for_fewer_of_them(comparison, wish, tmp_path):
    assert find_speeds(wish, tmp_path) is None
    save(record(wish), wish.place(tmp_path))
    assert find_speeds(wish, tmp_path) is not None
    fewer, _ = wish_of(replace(comparison, rows=comparison.rows[1:], statistics=comparison.statistics[1:]))
    assert fewer is not None
    found = find_speeds(fewer, tmp_path)
    assert found is not None
    # Of the new baseline, from the same rounds.
    ratio, expected = found.speedup("train", *comparison.rows[:0:-1]), paired_ratio(GQA, MQA)
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((expected.value, expected.low, expected.high))


@pytest.mark.parametrize("change", ["source", "shape", "variant"])
def test_a_record_of_anything_else_does_not_answer(wish, tmp_path, monkeypatch, change):
    save(record(wish), wish.place(tmp_path))
    asked = wish
    if change == "source":
        monkeypatch.setattr("vgpt.study.speeds.source_digest", lambda: "another")
    elif change == "shape":
        asked = replace(wish, batch_size=8)
    else:
        other = wish.variants["mha"].model_copy(update={"n_layer": 5})
        asked = replace(wish, variants={**wish.variants, "mha": other})
    assert find_speeds(asked, tmp_path) is None


def test_a_record_that_was_left_alone_goes_before_a_newer_disturbed_one(wish, tmp_path):
    save(record(wish, made=1.0), tmp_path / "bench/a.json")
    save(record(wish, made=2.0, disturbed=(BUSY,)), tmp_path / "bench/b.json")
    found = find_speeds(wish, tmp_path)
    assert found is not None
    assert not found.disturbed


def test_tables_show_measured_speeds_with_the_percentages_that_their_intervals_bear(comparison, wish, tmp_path):
    save(record(wish), wish.place(tmp_path))
    found = with_speeds(comparison, tmp_path)
    text = printed(tables(found))
    assert "+11.1% [+10.0 +12.2]" in text
    assert "in one process, in turn" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    columns = chosen_columns(found, ["speed", "speed_delta", "decode", "decode_delta", "memory", "mfu"])
    table = {at.row.attn: {column.name: column.value(at) for column in columns} for at in row_contexts(found)}
    assert table["mha"]["speed"] == pytest.approx(16_384 / 1.025)
    assert table["gqa"]["speed_delta"] == pytest.approx(1 / 0.9 - 1, rel=0.02)
    assert table["gqa"]["decode_delta"] == pytest.approx(-0.1, rel=0.02)
    assert table["mqa"]["speed_delta"] is None  # its interval holds "no difference"
    assert table["mha"]["memory"] == 100 * 2**20
    told = json.loads(json.dumps(as_json(found)))["speeds"]["rows"][found.rows[1].label]
    assert told["train"]["speedup"]["low"] > 1


def test_disturbed_speeds_bear_no_percentage(comparison, wish, tmp_path):
    save(record(wish, disturbed=(BUSY,)), wish.place(tmp_path))
    found = with_speeds(comparison, tmp_path)
    text = " ".join(printed(tables(found)).split())
    assert f"disturbed: {BUSY}; --run-missing measures again." in text
    assert "[+" not in text
    (column,) = chosen_columns(found, ["speed_delta"])
    assert [column.value(at) for at in row_contexts(found)] == [None, "disturbed", "disturbed"]


def test_rows_are_sorted_by_measured_speeds(comparison, wish, tmp_path):
    save(record(wish), wish.place(tmp_path))
    rows, statistics = comparison.rows[::-1], comparison.statistics[::-1]
    other = replace(
        comparison, rows=(rows[0], rows[2], rows[1]), statistics=(statistics[0], statistics[2], statistics[1])
    )
    found = with_speeds(other, tmp_path, by_speed=True)
    assert [row.attn for row in found.rows] == ["mqa", "gqa", "mha"]
    assert found.statistics == statistics


def test_without_a_record_the_comparison_is_as_it_was(comparison, tmp_path):
    assert with_speeds(comparison, tmp_path) is comparison
