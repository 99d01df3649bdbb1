"""What computes a run's attention on a CPU: measured where the table was not, kept, recorded, and the same for all."""

import json
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

from vgpt.attention.kernels import backends
from vgpt.attention.kernels.backends import attend, choose_backend, naive, use_backend
from vgpt.compare.request import make_request, planned_runs
from vgpt.errors import UsageError
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.train import TrainConfig
from vgpt.study.train_missing import train_missing
from vgpt.tracking.store import read_local_run
from vgpt.training.checkpoints.checkpoint import TrainingState, find_checkpoint
from vgpt.training.display import Quiet
from vgpt.training.hardware import attention_backend
from vgpt.training.hardware.attention_backend import cache_folder, choose, clearly_faster
from vgpt.training.hardware.devices import Compute
from vgpt.training.parallel.distributed import ALONE, World
from vgpt.training.resume import agreed_backend
from vgpt.training.run import train_run

CPU = Compute(torch.device("cpu"), torch.float32, "")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def unknown_processor(monkeypatch):
    monkeypatch.setattr(attention_backend, "cpu_flags", lambda: {"of no processor"})


@pytest.fixture
def timings(monkeypatch):
    """Take the place of the clock alone; every call is noted."""
    asked = []

    def give(rounds):
        monkeypatch.setattr(attention_backend, "time_rounds", lambda *shape: asked.append(shape) or rounds)
        return asked

    return give


def asking(**words):
    config = load_settings(TrainConfig, Sources(command_line={"block_size": "256", **words})).settings
    said = []
    return choose(config.model, config.system, CPU, said.append), said


FASTER, SLOWER = [(1.2, 1.0)] * 5, [(0.8, 1.0)] * 5


@pytest.mark.parametrize(
    ("rounds", "faster"),
    [
        (FASTER, True),
        (SLOWER, False),
        ([(1.15, 1.0), (9.0, 1.0)], True),
        ([(1.14, 1.0), (9.0, 1.0)], False),
        ([], False),
    ],
)
def test_the_other_backend_must_be_clearly_faster_in_every_round(rounds, faster):
    assert clearly_faster(rounds) is faster


@pytest.mark.parametrize(("rounds", "chosen"), [(FASTER, "sdpa"), (SLOWER, "table"), ([*FASTER, (1.0, 1.0)], "table")])
def test_an_unknown_processor_is_measured_once_and_says_so(unknown_processor, timings, rounds, chosen):
    asked = timings(rounds)
    first, said = asking()
    assert first == chosen
    assert "as fast as blockwise" in said[0]
    assert asking() == (chosen, [said[0].partition("(")[0] + f"(measured before on {asked[0][0].processor})"])
    assert len(asked) == 1
    assert asking(n_head="12")[0] == chosen
    assert len(asked) == 2  # another width


@pytest.mark.parametrize("words", [{}, {"attention_backend": "table"}, {"attention_backend": "blockwise"}])
def test_a_processor_that_the_table_was_measured_on_asks_no_clock(monkeypatch, timings, words):
    monkeypatch.setattr(attention_backend, "cpu_flags", lambda: {"avx512_bf16"})
    asked = timings(FASTER)
    assert asking(**words) == ("table", [])  # whose choice for 256 tokens in float32 is blockwise
    assert asked == []
    assert asking(attention_backend="sdpa") == ("sdpa", [])
    assert asking(attention_backend="measure")[0] == "sdpa"


@pytest.mark.parametrize(
    "words", [{"flash": "false"}, {"compile": "true"}, {"block_size": "4096"}, {"attention_backend": "table"}]
)
def test_where_only_one_backend_suits_nothing_is_measured(unknown_processor, timings, words):
    asked = timings(FASTER)
    assert asking(**words)[0] == "table"
    assert asked == []


def test_on_cuda_torch_chooses_and_blockwise_is_refused(unknown_processor, timings):
    asked = timings(FASTER)
    config = load_settings(TrainConfig, Sources()).settings
    cuda = Compute(torch.device("cuda"), torch.bfloat16, "")
    assert choose(config.model, config.system, cuda, print) == "table"
    assert asked == []
    system = config.system.model_copy(update={"attention_backend": "blockwise"})
    with pytest.raises(UsageError, match="computes on a CPU"):
        choose(config.model, system, cuda, print)


@pytest.mark.parametrize("damage", [b"{", b"[1]", b'{"shape": {}, "backend": "sdpa"}', b"\xff", b"[" * 100_000])
def test_a_damaged_cache_is_measured_again_with_a_note(unknown_processor, timings, damage):
    asked = timings(FASTER)
    asking()
    (path,) = cache_folder().iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage)
    chosen, said = asking()
    assert chosen == "sdpa"
    assert "cannot be used" in said[0]
    assert path.read_bytes() == whole
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_costs_a_note(unknown_processor, timings, tmp_path):
    timings(FASTER)
    (tmp_path / "cache").write_text("a file")
    chosen, said = asking()
    assert chosen == "sdpa"
    assert any("not kept for other runs" in line for line in said)


def test_the_measurement_itself_runs_and_both_backends_take_their_turns(monkeypatch):
    seen = []
    real = backends.blockwise
    monkeypatch.setattr(backends, "blockwise", lambda *parts, **more: seen.append(1) or real(*parts, **more))
    shape = attention_backend.Shape("this", "float32", 2, 8, 16, 1, "sdpa")
    rounds = attention_backend.time_rounds(shape, torch.float32, "sdpa", "blockwise")
    assert len(rounds) == attention_backend.ROUNDS
    assert all(first > 0 < second for first, second in rounds)
    assert len(seen) == 2 + attention_backend.ROUNDS * attention_backend._MOST_REPEATS
    config = load_settings(TrainConfig, Sources(command_line={"attention_backend": "measure", "block_size": "16"}))
    said = []
    assert choose(config.settings.model, config.settings.system, CPU, said.append) in backends.BACKENDS
    assert "measured" in said[0]


@pytest.mark.parametrize("name", ["sdpa", "blockwise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_backend_in_use_computes_the_formula_and_is_put_back(name, dtype):
    q, k, v = torch.randn(3, 2, 2, 40, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    with use_backend(name):
        assert choose_backend(q.device, torch.float32, 40) == name
        assert choose_backend(q.device, torch.float64, 40) == "sdpa"
        assert choose_backend(torch.device("cuda"), torch.float32, 40) == "sdpa"
        assert choose_backend(q.device, torch.float32, 40, flash=False) == "naive"
        ours = attend(q, k, v)
    torch.testing.assert_close(ours, naive(q, k, v, torch.ones(40, 40, dtype=torch.bool).tril()))
    assert choose_backend(q.device, torch.float32, 40) == "sdpa"
    assert choose_backend(q.device, torch.float32, 256) == "blockwise"


def weights(config):
    return load_file(find_checkpoint(config.directory, which="last").directory / "model.safetensors")


class Told(Quiet):
    def __init__(self):
        self.lines = []

    def notify(self, text):
        self.lines.append(text)


class Stopped(Told):
    def advance(self, step):
        if step == 4:
            raise KeyboardInterrupt


def test_a_run_goes_on_with_what_it_began_with_in_the_same_bits(settings, unknown_processor, timings):
    timings(FASTER)  # blockwise, at 16 tokens where the table says sdpa
    whole, parts = settings(run__run_name="whole"), settings(run__run_name="parts")
    train_run(whole, Quiet())
    with pytest.raises(KeyboardInterrupt):
        train_run(parts, Stopped())
    timings(SLOWER)
    for path in cache_folder().iterdir():
        path.unlink()
    told = Told()
    train_run(settings(run__run_name="parts", system__attention_backend="sdpa"), told)
    assert any("blockwise, as the run was begun" in line for line in told.lines)
    ours, theirs = weights(parts), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for config in (whole, parts):
        run = read_local_run(config.directory)
        assert run.tags["vgpt.attention_backend"] == run.attention_backend == "blockwise"
        assert json.loads((config.directory / "conditions.json").read_text())["attention_backend"] == "blockwise"
    assert whole.settings_hash == settings(system__attention_backend="measure").settings_hash


def test_a_run_is_evaluated_by_what_trained_it(settings, monkeypatch):
    from vgpt.api.evaluating import evaluate_run
    from vgpt.data.progress import Silent
    from vgpt.evaluation import breakdowns
    from vgpt.settings.commands import EvalConfig

    config = settings(system__attention_backend="blockwise", train__max_steps=2)
    summary = train_run(config, Quiet()).summary
    seen = []
    real = breakdowns.tally_all
    monkeypatch.setattr(breakdowns, "tally_all", lambda *a, **k: seen.append(backends._in_use) or real(*a, **k))
    options = EvalConfig(device="cpu", dtype="float32", windows=8)
    assert evaluate_run(str(config.directory), options, Silent()).loss == summary["val/loss"]
    assert seen == ["blockwise"]


def test_a_checkpoint_that_says_nothing_of_it_was_computed_by_the_table(settings, unknown_processor, timings):
    config = settings(train__max_steps=4, system__attention_backend="table")
    train_run(config, Quiet())
    asked = timings(FASTER)
    checkpoint = find_checkpoint(config.directory, which="last")
    state = json.loads((checkpoint.directory / "state.json").read_text())
    assert state.pop("attention_backend") == "table"
    old = TypeAdapter(TrainingState).validate_json(json.dumps(state))
    again = agreed_backend(settings(), replace(checkpoint, state=old), CPU, ALONE, Quiet())
    assert again == "table"
    assert asked == []


def test_processes_of_one_run_take_what_the_main_one_chose(settings, unknown_processor, timings):
    asked = timings(FASTER)
    config = settings()
    told = []

    class Process(World):
        def agree(self, *values, device):
            told.append(values)
            return [max(column) for column in zip(*told, strict=True)]

    assert agreed_backend(config, None, CPU, Process(0, 2), Quiet()) == "blockwise"
    assert agreed_backend(config, None, CPU, Process(1, 2), Quiet()) == "blockwise"
    assert len(asked) == 1


def test_a_comparison_measures_once_and_hands_it_to_every_run(unknown_processor, timings, tmp_path, monkeypatch):
    asked = timings(FASTER)
    typed = {"runs_dir": str(tmp_path), "device": "cpu", "dtype": "float32", "attention_backend": "measure"}
    request = make_request(["mha", "mla"], Sources(command_line=typed))
    missing = [run for one in request.selectors for run in planned_runs(request, one, [1, 2])]
    lines = []
    monkeypatch.setattr(attention_backend, "_keep", lambda *parts: None)  # nothing to read again
    child = "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(' '.join(sys.argv) + chr(10))"
    import sys

    train_missing(missing, lines.append, program=[sys.executable, "-c", child, str(tmp_path / "words")])
    words = (tmp_path / "words").read_text().splitlines()
    assert len(words) == 4
    assert all(line.split().count("--attention-backend") == 1 for line in words)
    assert all(line.endswith("--attention-backend sdpa") for line in words)
    assert len(asked) == 1


def test_the_audit_names_runs_that_were_computed_otherwise_and_old_ones_are_the_tables(settings):
    from vgpt.compare.audit.conditions import audit
    from vgpt.compare.rows import make_row

    runs = []
    for attn, backend in (("mha", "table"), ("mqa", "blockwise")):
        config = settings(attn, system__attention_backend=backend, train__max_steps=1, run__run_name=attn)
        train_run(config, Quiet())
        runs.append(read_local_run(config.directory))
    (one,) = [one for one in audit([make_row([run]) for run in runs]).differences if one.name == "attention_backend"]
    assert one.aspect == "device"
    assert set(one.values.values()) == {"table", "blockwise"}
    del runs[0].tags["vgpt.attention_backend"], runs[1].tags["vgpt.attention_backend"]
    assert "attention_backend" not in [one.name for one in audit([make_row([run]) for run in runs]).differences]
