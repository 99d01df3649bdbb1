"""Cheats that were planted in real runs: each must be named beside the verdict, withhold it, or be refused.

The list is PLANTED plus the tests that stand alone below it. `caught` returns what a reader of the comparison is told.
"""

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch

import vgpt
from vgpt.compare.audit.conditions import audit
from vgpt.compare.rows import make_row
from vgpt.data.prepare import prepare
from vgpt.errors import DataError
from vgpt.settings.commands import PrepareConfig
from vgpt.settings.train import TrainConfig
from vgpt.tracking.mlflow_store.delivery import Delivery
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.run_info import finished
from vgpt.tracking.store import merge_runs, read_local_runs, read_runs
from vgpt.training.display import Quiet
from vgpt.training.records import provenance
from vgpt.training.records.source_code import source_digest
from vgpt.training.run import train_run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus") / "data"
    prepare([str(Path(vgpt.__file__).parent / "attention")], PrepareConfig(out=place, vocab_size=280, workers=1))
    return place


def settings(corpus, runs, attn="mha", **changes):
    tables = {
        "model": {"attn": attn, "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32},
        "train": {"data": str(corpus), "batch_size": 2, "max_steps": 3, "eval_interval": 3, "eval_windows": 4},
        "system": {"device": "cpu", "dtype": "float32"},
        "run": {"runs_dir": str(runs), "tracker": "journal"},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        tables[section][key] = value
    return TrainConfig.model_validate(tables)


@pytest.fixture(scope="module")
def honest(corpus, tmp_path_factory):
    """Runs of mha and mqa under equal conditions, two seeds each."""
    runs = tmp_path_factory.mktemp("honest") / "runs"
    for attn in ("mha", "mqa"):
        for seed in (1, 2):
            train_run(settings(corpus, runs, attn, train__seed=seed, run__run_name=f"{attn}-{seed}"), Quiet())
    return runs


@pytest.fixture
def runs(honest, tmp_path):
    """A copy of the honest runs, to be tampered with."""
    return Path(shutil.copytree(honest, tmp_path / "runs"))


def rows_of(recorded, names):
    return [make_row([run for run in finished(recorded) if run.run_name in group]) for group in names]


def caught(recorded, names=(("mha-1", "mha-2"), ("mqa-1", "mqa-2"))):
    """Return what a comparison of these runs says: names of unequal conditions, their values, and notes."""
    found = audit(rows_of(recorded, names), recorded=recorded)
    said = [f"{one.name}: {'; '.join(one.values.values())}" for one in found.differences]
    return "\n".join([*said, *found.notes])


def test_honest_runs_are_equal_in_everything_that_is_recorded(runs):
    recorded = read_local_runs(runs)
    found = audit(rows_of(recorded, (("mha-1", "mha-2"), ("mqa-1", "mqa-2"))), recorded=recorded)
    assert found.differences == ()
    assert found.unrecorded == ()
    assert found.notes == ()


def edit(path, change):
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def set_in(*keys, value):
    def change(table):
        for key in keys[:-1]:
            table = table[key]
        table[keys[-1]] = value

    return change


def lower_loss_in_journal(runs):
    path = runs / "mqa-1/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "val/loss" in line["metrics"]:
            line["metrics"]["val/loss"] -= 0.5
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def lower_loss_everywhere_but_in_windows(runs):
    lower_loss_in_journal(runs)
    path = runs / "mqa-1/summary.json"
    edit(path, lambda table: table["metrics"].update({"val/loss": table["metrics"]["val/loss"] - 0.5}))


def drop_the_worst_evaluations(runs):
    path = runs / "mqa-1/metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[-1:]))


def borrow_windows(runs):
    shutil.copy(runs / "mha-1/val_windows.json", runs / "mqa-1/val_windows.json")


def call_a_diverged_run_finished(runs):
    def change(table):
        for name in ("vgpt.seal", "vgpt.sealed_metrics"):
            table["tags"].pop(name)
        table["status"] = "finished"

    edit(runs / "mqa-1/tracking.json", change)


def pass_a_good_seed_off_as_another(runs):
    shutil.rmtree(runs / "mqa-2")
    shutil.copytree(runs / "mqa-1", runs / "mqa-2")
    edit(
        runs / "mqa-2/tracking.json",
        lambda table: (table["tags"].update({"vgpt.seed": "2"}), table.update(run_name="mqa-2", id="0" * 32)),
    )


PLANTED = {
    "loss lowered in the journal": (lower_loss_in_journal, "val/loss"),
    "loss lowered in journal and summary": (lower_loss_everywhere_but_in_windows, "windows"),
    "loss lowered in the summary alone": (
        lambda runs: edit(runs / "mqa-1/summary.json", set_in("metrics", "val/loss", value=1.0)),
        "val/loss",
    ),
    "evaluations dropped from the journal": (drop_the_worst_evaluations, "metrics.jsonl was changed"),
    "window losses of another run": (borrow_windows, "val_windows.json was changed"),
    "a param edited after training": (
        lambda runs: edit(runs / "mqa-1/tracking.json", set_in("params", "weight_decay", value="0.3")),
        "sealed",
    ),
    "a seed edited": (pass_a_good_seed_off_as_another, "sealed"),
    "the digest of the conditions edited": (
        lambda runs: edit(runs / "mqa-1/tracking.json", set_in("tags", "vgpt.conditions", value="0" * 64)),
        "sealed",
    ),
    "the batches' hash edited": (
        lambda runs: edit(runs / "mqa-1/tracking.json", set_in("tags", "vgpt.batches", value="0" * 32)),
        "batches",
    ),
    "positions edited to look equal": (
        lambda runs: edit(runs / "mqa-1/tracking.json", set_in("tags", "vgpt.positions", value="rope")),
        "on record",
    ),
    "a diverged run called finished": (call_a_diverged_run_finished, "no seal"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_records_that_were_edited_are_named(runs, name):
    plant, words = PLANTED[name]
    plant(runs)
    assert words in caught(read_local_runs(runs))


TRAINED_OTHERWISE = {
    "longer warm-up": ({"train__warmup_steps": 1}, "warmup_steps"),
    "more evaluations": ({"train__eval_interval": 1}, "eval_interval"),
    "dropout for one": ({"model__dropout": 0.1}, "dropout"),
    "sinks for one": ({"model__sinks": True}, "sinks"),
    "a wider MLP for one": ({"model__mlp_hidden": 80}, "mlp_hidden"),
    "more updates forgiven": ({"train__max_bad_steps": 99}, "max_bad_steps"),
}


@pytest.mark.parametrize("name", TRAINED_OTHERWISE)
def test_settings_that_favor_one_variant_are_named(runs, corpus, name):
    changes, condition = TRAINED_OTHERWISE[name]
    train_run(settings(corpus, runs, "mqa", train__seed=1, run__run_name="tuned", **changes), Quiet())
    assert f"{condition}: " in caught(read_local_runs(runs), (("mha-1",), ("tuned",)))


def test_one_layer_with_positions_of_its_own_is_named(runs, corpus):
    train_run(settings(corpus, runs, "mha+mla", train__seed=1, run__run_name="mixed"), Quiet())
    said = caught(read_local_runs(runs), (("mha-1",), ("mixed",)))
    assert "effective_positions: learned; learned (layers 0), learned+rope:4 (layers 1)" in said


@pytest.mark.parametrize(
    ("variable", "condition"),
    [
        ("MALLOC_ARENA_MAX", "allocator"),
        ("GLIBC_TUNABLES", "allocator"),
        ("DNNL_MAX_CPU_ISA", "kernels"),
        ("ATEN_CPU_CAPABILITY", "kernels"),
    ],
)
def test_an_environment_that_is_not_the_others_is_named(runs, corpus, monkeypatch, variable, condition):
    monkeypatch.setenv(variable, "1")
    train_run(settings(corpus, runs, "mqa", train__seed=1, run__run_name="odd"), Quiet())
    assert f"{condition}: default; {variable}=1" in caught(read_local_runs(runs), (("mha-1",), ("odd",)))


def test_a_setting_from_the_environment_is_named(runs, corpus):
    from vgpt.settings.loader import Sources, load_settings

    plain = settings(corpus, runs, "mqa", train__seed=1).flat()
    names = ("n_layer", "n_head", "n_embd", "block_size", "data", "batch_size", "max_steps", "eval_interval")
    typed = {name: str(plain[name]) for name in (*names, "eval_windows", "device", "dtype", "seed", "tracker")}
    sources = Sources(
        environment={"VGPT_WEIGHT_DECAY": "0"},
        command_line={**typed, "attn": "mqa", "runs_dir": str(runs), "run_name": "quiet"},
    )
    train_run(load_settings(TrainConfig, sources).settings, Quiet())
    assert "weight_decay: 0.1; 0.0" in caught(read_local_runs(runs), (("mha-1",), ("quiet",)))


@pytest.mark.parametrize(
    ("place", "fake"),
    [
        ("vgpt.model.init.STD", None),
        ("vgpt.model.init._fill", lambda name, parameter, *more: parameter.fill_(0.01)),
        ("vgpt.training.step.TrainStep.__call__", None),
        ("torch.optim.AdamW.step", lambda self, closure=None: None),
    ],
)
def test_code_that_is_replaced_at_run_time_is_named(runs, corpus, monkeypatch, place, fake):
    if place.endswith("STD"):
        monkeypatch.setattr(place, 0.04)  # a number is no function: the first weights tell
        words = "first_weights"
    elif place.endswith("__call__"):
        from vgpt.training.step import TrainStep

        real = TrainStep.__call__
        monkeypatch.setattr(place, lambda self, micro, lr: real(self, micro, 2 * lr))
        words = "TrainStep.__call__"
    else:
        monkeypatch.setattr(place, fake)
        words = place.rpartition(".")[2]
    train_run(settings(corpus, runs, "mqa", train__seed=1, run__run_name="patched"), Quiet())
    assert words in caught(read_local_runs(runs), (("mha-1",), ("patched",)))


PLUGIN = '''
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.registry import register_attention
import torch
import vgpt.data.batches as batches
import vgpt.training.build as build
import vgpt.training.optimizer as optimizer

batches.BatchSource.batch = lambda self, *a, **k: None
build.build_optimizer = lambda *a, **k: None
optimizer.learning_rate = lambda *a, **k: 1.0
torch.nn.functional.layer_norm = lambda *a, **k: a[0]

@register_attention("mine", module="vgpt.attention.grouped.module:GroupedAttention")
class MineConfig(MHAConfig):
    """One of mine."""
'''


def test_a_plug_in_that_replaces_code_of_the_backbone_is_named(tmp_path):
    import subprocess
    import sys

    (tmp_path / "mine.py").write_text(PLUGIN)
    code = (
        "import vgpt.training.run\nfrom vgpt.training.records.source_code import replaced_functions as found\n"
        "from vgpt.attention.plugins import load_plugin, named\n"
        "assert found() == '', found()\nload_plugin(named('mine.py'), lambda: None)\nprint(found())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    named = {place.removeprefix("vgpt.") for place in done.stdout.strip().split(", ")}
    assert named == {  # by its module, and where another had taken it from there
        "data.batches.BatchSource.batch",
        "training.build.build_optimizer",
        "training.optimizer.learning_rate",
        "training.trainer.learning_rate",
        "torch.nn.functional.layer_norm",
    }


def test_operators_and_kernels_made_of_vgpts_own_functions_are_its_own():
    import subprocess
    import sys

    pytest.importorskip("triton")
    code = (
        "import vgpt.attention.linear.compiled, vgpt.attention.linear.fused, vgpt.attention.linear.step_kernel\n"
        "import vgpt.attention.linear.kernels as kernels, vgpt.model.loss_kernel\n"
        "from vgpt.training.records.source_code import replaced_functions as found\n"
        "assert found() == '', found()\nkernels.attend.fn = lambda *a: None\nprint(found())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "vgpt.attention.linear.kernels.attend"


def test_a_run_that_was_trained_until_it_looked_good_is_named(runs, corpus, monkeypatch):
    from vgpt.model import init

    real = init.stream_seed
    for number in (1, 2):
        # What a person might do by hand: the same settings, other luck.
        monkeypatch.setattr(init, "stream_seed", lambda seed, name, n=number: real(seed + n, name))
        train_run(settings(corpus, runs, "mqa", train__seed=1, run__run_name=f"again-{number}"), Quiet())
    monkeypatch.undo()
    for number in (1, 2):
        edit(
            runs / f"again-{number}/tracking.json",
            lambda table: table["tags"].update({"vgpt.replaced": "nothing"}),
        )
    said = caught(read_local_runs(runs))
    assert "trained: once; seed 1 3 times" in said


def test_seeds_that_are_left_out_are_named(runs, corpus):
    train_run(settings(corpus, runs, "mqa", train__seed=3, run__run_name="mqa-3"), Quiet())
    assert "on record and not shown: seed 3" in caught(read_local_runs(runs))


@pytest.mark.parametrize(
    ("function", "value", "condition"),
    [
        ("source_digest", "other", "source"),
        ("replaced_functions", "vgpt.model.init.initialize", "replaced_functions"),
    ],
)
def test_a_run_that_was_continued_by_other_code_is_named(runs, corpus, monkeypatch, function, value, condition):
    from tests.training.test_run import StopAt

    config = settings(corpus, runs, "mqa", train__seed=1, run__run_name="continued", run__save_interval=1)
    assert train_run(config, StopAt(1)).status == "stopped"
    monkeypatch.setattr(provenance, function, lambda: value)
    assert train_run(config, Quiet()).status == "finished"
    assert f" then {value}" in caught(read_local_runs(runs), (("mha-1",), ("continued",)))


def test_a_run_that_was_continued_on_another_instruction_set_is_named(runs, corpus, monkeypatch):
    from tests.training.test_run import StopAt

    config = settings(corpus, runs, "mqa", train__seed=1, run__run_name="moved", run__save_interval=1)
    train_run(config, StopAt(1))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NO AVX")
    train_run(config, Quiet())
    assert "cpu_capability: " in caught(read_local_runs(runs), (("mha-1",), ("moved",)))


def test_validation_text_in_the_training_tokens_is_refused_or_named(runs, corpus, tmp_path):
    data = Path(shutil.copytree(corpus, tmp_path / "data"))
    train, val = (np.fromfile(data / name, dtype=np.uint16) for name in ("train.bin", "val.bin"))
    train[: len(val)] = val[: len(train)]
    train.tofile(data / "train.bin")
    config = settings(data, runs, "mqa", train__seed=1, run__run_name="leaky")
    with pytest.raises(DataError, match="was changed"):
        train_run(config, Quiet())
    from vgpt.data.manifest import record_file

    now = record_file(data / "train.bin").sha256
    edit(data / "manifest.json", set_in("files", "train.bin", "sha256", value=now))
    train_run(config, Quiet())
    alone = caught(read_local_runs(runs), (("leaky",),))
    assert "100.00% of" in alone
    assert "training text too" in alone
    assert "data_digest" in caught(read_local_runs(runs), (("mha-1",), ("leaky",)))


def test_the_digest_of_the_source_follows_every_file_that_decides_a_result(tmp_path, monkeypatch):
    ignored = shutil.ignore_patterns("__pycache__")
    package = Path(shutil.copytree(Path(vgpt.__file__).parent, tmp_path / "vgpt", ignore=ignored))
    digest = source_digest.__wrapped__  # once a process is enough for a run, and not for this test
    before = digest()
    monkeypatch.setattr("vgpt.training.records.source_code.PACKAGE", package)
    assert digest() == before
    files = ("attention/grouped/module.py", "model/init.py", "training/optimizer.py", "evaluation/loss.py")
    for path in map(package.joinpath, files):
        kept = path.read_text()
        path.write_text(kept + "\n# edited\n")
        assert digest() != before, path
        path.write_text(kept)
    (package / "report" / "tables.py").write_text("# tables decide nothing\n")
    assert digest() == before


@pytest.mark.slow
def test_what_is_edited_in_mlflow_disagrees_with_the_journal(corpus, empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    runs, uri = tmp_path / "runs", f"sqlite:///{tmp_path}/mlflow.db"
    for attn in ("mha", "mqa"):
        changes = {"train__seed": 1, "run__run_name": f"{attn}-1", "run__tracking_uri": uri}
        train_run(settings(corpus, runs, attn, **changes), Quiet())
        # The mirror may still be at it on a busy machine.
        Delivery(runs / f"{attn}-1", resolve_target(uri), print).step()
    local, stored = read_local_runs(runs), read_runs(tracking_uri=uri)
    assert len(stored) == 2
    names = (("mha-1",), ("mqa-1",))
    assert caught(merge_runs(local, stored), names) == ""
    assert caught(stored, names) == ""
    run_id = next(run.run_id for run in stored if run.run_name == "mqa-1")
    edits = {
        "val/loss": ("metrics latest_metrics", 1.0),
        "train/skipped_steps": ("metrics latest_metrics", 7.0),
        "weight_decay": ("params", "0.0"),
        "train/steps": ("metrics latest_metrics", 99.0),
        "vgpt.git": ("tags", "abc"),
        "vgpt.conditions": ("tags", "0" * 64),
        "vgpt.seed": ("tags", "9"),
    }
    for name, (tables, value) in edits.items():
        for table in tables.split():
            kept = write_in_store(tmp_path / "mlflow.db", table, name, run_id, value)
        now = read_runs(tracking_uri=uri)
        assert f"{name} is " in caught(merge_runs(local, now), names), name
        assert "sealed" in caught(now, names), name
        for table in tables.split():
            write_in_store(tmp_path / "mlflow.db", table, name, run_id, kept)


def write_in_store(path, table, name, run_id, value):
    """Change all values of a name in a table of MLflow's; return the one that was there."""
    store = sqlite3.connect(path)
    with store:
        where = "where key = ? and run_uuid = ?"
        (before,) = store.execute(f"select value from {table} {where}", [name, run_id]).fetchone()
        store.execute(f"update {table} set value = ? {where}", [value, name, run_id])
    store.close()
    return before
