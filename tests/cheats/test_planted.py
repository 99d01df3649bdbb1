"""Cheats planted in a sealed study of real runs: each is refused, or the output names it plainly.

`docs/sealing.md` holds the table of them; a test below holds that to this list.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cheats.conftest import edit
from vgpt.data.manifest import record_file
from vgpt.data.prepare import prepare
from vgpt.settings.commands import PrepareConfig
from vgpt.tracking import integrity
from vgpt.tracking.record import read_record
from vgpt.tracking.store import read_local_run
from vgpt.training.records import provenance, source_code

CHEATS = {}
DOCS = Path(__file__).parents[2] / "docs" / "sealing.md"


def cheat(name, *words):
    """Register a cheat: what it is called in the table, and what must be said of it."""

    def register(plant):
        CHEATS[name] = plant, words
        return plant

    return register


def test_an_honest_study_is_sealed_and_nothing_is_said_against_it(world):
    said = world.says()
    assert re.search(r"Sealed plan [0-9a-f]{12} of \d{4}-\d\d-\d\d \d\d:\d\d UTC; looked at 2 times", said)
    assert "Conditions: equal" in said
    for word in ("changed", "CHANGED", "note:", "NOT equal", "gone", "plan:", "refused", "exploratory", "missing"):
        assert word not in said


# What is chosen after looking.


@cheat("a bad seed left out of the study file", "refused", "mha: seeds: 1, 2, 3 when sealed, 1, 2 now")
def fewer_seeds(world, patch):
    replace_in_study(world, "seeds = 3", "seeds = 2")
    return world.says()


@cheat("a bad seed left out on the command line", "on record and not shown: seed 3", "shows runs of the sealed study")
def seeds_picked_without_the_file(world, patch):
    return world.says("mha", "mqa", seeds="2", seed="1")


@cheat("seeds added until it shows", "refused", "compare.seeds: 3 when sealed, 5 now")
def more_seeds(world, patch):
    return world.says(seeds="5")


@cheat("the same, by --exploratory", "CHANGED AFTER SEALING", "compare.seeds: 3 when sealed, 5 now")
def more_seeds_openly(world, patch):
    return world.says(seeds="5", exploratory=True)


@cheat("the way of judging changed after looking", "refused", "compare.at_tokens: none when sealed, 128 now")
def other_rule(world, patch):
    return world.says(at_tokens="128")


@cheat("a margin chosen after looking", "refused", "compare.margin: none when sealed, 0.5 now")
def other_margin(world, patch):
    return world.says(margin="0.5")


@cheat("verdicts across unequal conditions asked for after looking", "refused", "compare.force: false when sealed")
def forced(world, patch):
    return world.says(force=True)


@cheat("evaluated at the best moment", "metrics.jsonl was changed after the run finished")
def best_of_many(world, patch):
    run = world.runs / "mqa-1"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min(line["metrics"]["val/loss"] for line in lines if "val/loss" in line["metrics"])
    rewrite_loss(run, best - 1e-3)
    return world.says()


@cheat("a seed trained three times, the newest shown", "trained (seeds): once in mha; seed 1 3 times")
def rolled_again(world, patch):
    from vgpt.model import init

    real = init.stream_seed
    for number in (1, 2):
        patch.setattr(init, "stream_seed", lambda seed, name, n=number: real(seed + n, name))
        run = world.train("mqa", 1, f"again-{number}")
        patch.undo()
        edit(run / "tracking.json", lambda table: table["tags"].update({"vgpt.replaced": "nothing"}))
    return world.says()


@cheat("a seed rolled again, the old run deleted", "mqa, seed 1: a run that had val loss", "is gone")
def rolled_again_and_deleted(world, patch):
    shutil.rmtree(world.runs / "mqa-1")
    world.train("mqa", 1, "mqa-better")
    return world.says()


@cheat("a diverged run deleted", "mqa, seed 3: a run that had diverged at look 2 is gone")
def dropped_divergence(world, patch):
    edit(world.runs / "mqa-3/tracking.json", lambda table: table.update(status="diverged"))
    assert "diverged 1/3: no verdict" in world.says()
    shutil.rmtree(world.runs / "mqa-3")
    return world.says()


@cheat("a diverged run called finished", "it is called finished, and carries no seal")
def divergence_renamed(world, patch):
    def change(table):
        for name in ("vgpt.seal", "vgpt.sealed_metrics"):
            table["tags"].pop(name)

    edit(world.runs / "mqa-3/tracking.json", change)
    return world.says()


@cheat("a further seed that turned out badly, not shown", "on record and not shown: seed 4")
def hidden_seed(world, patch):
    world.train("mqa", 4)
    return world.says()


# What is written into records.


@cheat("the loss lowered in the journal", "val/loss is", "in summary.json")
def journal_edited(world, patch):
    rewrite_loss(world.runs / "mqa-1", 1.0, summary=False)
    return world.says()


@cheat("the loss lowered in the summary", "val/loss is", "1.0 in summary.json")
def summary_edited(world, patch):
    edit(world.runs / "mqa-1/summary.json", lambda table: table["metrics"].update({"val/loss": 1.0}))
    return world.says()


@cheat("the loss lowered in all files of the run", "not those that were sealed")
def all_copies_edited(world, patch):
    rewrite_loss(world.runs / "mqa-1", 1.0)
    return world.says()


@cheat("the loss lowered everywhere, and the run sealed anew", "mqa, seed 1: val loss", "at look 1, val loss 1.000000")
def sealed_anew(world, patch):
    run = world.runs / "mqa-1"
    rewrite_loss(run, 1.0)
    shift = 1.0 - np.mean(json.loads((run / "val_windows.json").read_text())["losses"])
    edit(run / "val_windows.json", lambda table: table.update(losses=[one + shift for one in table["losses"]]))
    seal_again(run)
    said = world.says()
    assert "was changed after the run finished" not in said
    return said


@cheat("the tag of the seed edited", "not those that were sealed")
def seed_edited(world, patch):
    edit(world.runs / "mqa-3/tracking.json", lambda table: table["tags"].update({"vgpt.seed": "4"}))
    return world.says()


@cheat("a failed run called finished", "carries no seal")
def status_edited(world, patch):
    run = world.train("mqa", 3, "mqa-again")

    def change(table):
        table["tags"] = {n: v for n, v in table["tags"].items() if n not in ("vgpt.seal", "vgpt.sealed_metrics")}

    edit(run / "tracking.json", change)
    return world.says()


@cheat("settings.json edited", "settings.json was changed after the run finished")
def settings_edited(world, patch):
    edit(world.runs / "mqa-1/settings.json", lambda table: table["train"].update(lr=0.001))
    return world.says()


@cheat("the digest of the conditions edited", "not those that were sealed")
def conditions_edited(world, patch):
    other = json.loads((world.runs / "mha-1/tracking.json").read_text())["tags"]["vgpt.conditions"]
    run = world.train("mqa", 1, "mqa-other", train__lr=3e-4)
    edit(run / "tracking.json", lambda table: table["tags"].update({"vgpt.conditions": other}))
    return world.says("mha-1", "mqa-other")


@cheat("the losses per window of another run", "val_windows.json was changed after the run finished")
def windows_swapped(world, patch):
    shutil.copy(world.runs / "mha-1/val_windows.json", world.runs / "mqa-1/val_windows.json")
    return world.says()


@cheat("a run copied under another seed", "copies", "seeds 1 and 3 have the same batches, first weights, losses")
def copied(world, patch):
    run = world.runs / "mqa-3"
    shutil.rmtree(run)
    shutil.copytree(world.runs / "mqa-1", run)
    hashed = world.config("mqa", 3).settings_hash

    def change(table):
        table.update(id="0" * 32, run_name="mqa-3")
        table["params"]["seed"] = "3"
        table["tags"].update({"vgpt.seed": "3", "vgpt.run_name": "mqa-3", "vgpt.settings_hash": hashed})

    edit(run / "tracking.json", change)
    seal_again(run)
    return world.says()


# What was trained otherwise.

TRAINED_OTHERWISE = {
    "a longer warm-up for one": ({"train__warmup_steps": 2}, "warmup_steps (schedule):"),
    "another learning rate for one": ({"train__lr": 2e-3}, "lr (schedule):"),
    "more training tokens for one": ({"train__max_steps": 5}, "tokens (budget):"),
    "early stopping for one": ({"train__patience": 1}, "patience (evaluation):"),
    "more evaluations for one": ({"train__eval_interval": 1}, "eval_interval (evaluation):"),
    "other evaluation windows for one": ({"train__eval_windows": 8}, "eval_windows (evaluation):"),
    "a wider MLP for one": ({"model__mlp_hidden": 80}, "mlp_hidden (trunk):"),
    "other threads for one": ({"system__threads": 2}, "threads (device):"),
}


def trained_otherwise(changes):
    def plant(world, patch):
        world.train("mqa", 1, "other", **changes)
        return world.says("mha-1", "other")

    return plant


for _name, (_changes, _words) in TRAINED_OTHERWISE.items():
    cheat(_name, "NOT equal", _words)(trained_otherwise(_changes))


@cheat("another instruction set for one", "NOT equal", "cpu_capability (device):")
def other_instructions(world, patch):
    import torch

    patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NO AVX")
    world.train("mqa", 1, "other")
    return world.says("mha-1", "other")


@cheat("another tokenizer", "NOT equal", "tokenizer (data):")
def other_tokenizer(world, patch):
    import vgpt

    folder = str(Path(vgpt.__file__).parent / "attention")
    prepare([folder], PrepareConfig(out=Path("wide"), vocab_size=300))
    world.train("mqa", 1, "other", train__data="wide")
    return world.says("mha-1", "other")


@cheat("other data of the same size", "refused", "train.data:")
def other_data(world, patch):
    train = np.fromfile("data/train.bin", dtype=np.uint16)
    train[::-1].tofile("data/train.bin")
    now = record_file(Path("data/train.bin")).sha256
    edit(Path("data/manifest.json"), lambda table: table["files"]["train.bin"].update(sha256=now))
    return world.says()


@cheat("other code for one run", "NOT equal", "source (software):", "source:", "CHANGED AFTER SEALING")
def other_source(world, patch):
    shutil.rmtree(world.runs / "mqa-3")
    patch.setattr(provenance, "source_digest", lambda: "f" * 16)
    world.train("mqa", 3)
    return world.says()


@cheat("vgpt itself changed after sealing", "refused", "source:")
def source_changed(world, patch):
    patch.setattr("vgpt.study.sealing.source_digest", lambda *rooms: "f" * 16)
    return world.says()


@cheat("the rule that adds seeds changed after sealing", "refused", "source of verdicts:")
def rule_changed(world, patch):
    ignored = shutil.ignore_patterns("__pycache__")
    package = Path(shutil.copytree(source_code.PACKAGE, world.place / "vgpt", ignore=ignored))
    rule = package / "study" / "sequential.py"
    rule.write_text(rule.read_text() + "\n# one more look\n")
    patch.setattr(source_code, "PACKAGE", package)
    patch.setattr("vgpt.study.sealing.source_digest", source_code.source_digest.__wrapped__)
    said = world.says()
    assert " source:" not in said
    return said


@cheat("a run continued by other code", "NOT equal", "source (software):", "then ffff")
def continued(world, patch):
    from tests.training.test_run import StopAt
    from vgpt.training.display import Quiet
    from vgpt.training.run import train_run

    config = world.config("mqa", 1, run__run_name="continued", run__save_interval=1)
    assert train_run(config, StopAt(1)).status == "stopped"
    patch.setattr(provenance, "source_digest", lambda: "f" * 16)
    assert train_run(config, Quiet()).status == "finished"
    return world.says("mha-1", "continued")


PLUGIN = '''
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.registry import register_attention


@register_attention("mended", module="vgpt.attention.grouped.module:GroupedAttention")
class MendedConfig(MHAConfig):
    """One of mine."""
'''


@cheat("a plug-in mended between seeds", "NOT equal", "plug-in of mended (software):")
def mended(world, patch):
    import sys

    from vgpt.attention import plugins, registry
    from vgpt.attention.plugins import load_plugin, named

    for name in ("_configs", "_modules"):
        patch.setattr(registry, name, dict(getattr(registry, name)))
    patch.setattr(plugins, "_origins", dict(plugins._origins))
    file = Path("mended.py")
    file.write_text(PLUGIN)
    plugin = named("mended.py")
    load_plugin(plugin, lambda: None)
    for seed in (1, 2):
        run = world.config("mha", seed).model_dump()
        run["model"]["attn"], run["run"]["run_name"] = "mended", f"mended-{seed}"
        from vgpt.settings.train import TrainConfig
        from vgpt.training.display import Quiet
        from vgpt.training.run import train_run

        train_run(TrainConfig.model_validate(run), Quiet())
        file.write_text(PLUGIN + "\n# mended\n")
    said = world.says("mha", "mended")
    sys.modules.pop(plugin.module, None)
    return said


# What is done to the plan and its clock.


@cheat("the study file edited", "refused", "file:")
def file_edited(world, patch):
    replace_in_study(world, "max_steps = 4", "max_steps = 4  # enough")
    return world.says()


@cheat("the plan edited", "refused", "its hash is not that of its content")
def plan_edited(world, patch):
    edit(world.runs / "plans/pledge.json", lambda table: table["fixed"].update({"compare.seeds": "2"}))
    return world.says()


@cheat("the plan sealed again under another name, after looking", "sealed after 6 runs existed")
def sealed_late(world, patch):
    replace_in_study(world, 'name = "pledge"', 'name = "promise"')
    return world.says(seal=True)


@cheat("the plan deleted and sealed again", "sealed after 6 runs existed", "looked at 1 time before it was sealed")
def sealed_twice(world, patch):
    (world.runs / "plans/pledge.json").unlink()
    return world.says(seal=True)


@cheat("a look removed from the journal of looks", "journal of looks was changed")
def look_removed(world, patch):
    world.says()
    world.says()
    path = world.runs / "plans/pledge.looks.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[2]]))
    return world.says()


@cheat("the last look removed", "the last of 2 looks is not in their journal")
def last_look_removed(world, patch):
    world.says()
    path = world.runs / "plans/pledge.looks.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    return world.says()


@cheat("the clock set back for a run", "its clock says that it began before the plan, and it was not there then")
def clock_set_back(world, patch):
    shutil.rmtree(world.runs / "mqa-3")
    for place in ("vgpt.tracking.tracker.now_ms", "vgpt.tracking.journal.now_ms"):
        patch.setattr(place, lambda: 1_000_000_000_000)
    world.train("mqa", 3)
    patch.undo()
    patch.chdir(world.place)
    return world.says()


@cheat("the clock set back to look", "the clock was set back between looks")
def clock_set_back_to_look(world, patch):
    patch.setattr("vgpt.study.keeping.now_ms", lambda: 1_000_000_000_000)
    return world.says()


def replace_in_study(world, old, new):
    path = world.place / "study.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def rewrite_loss(run, loss, *, summary=True):
    """Write another final loss into a run's journal, and into its summary."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    last = max(line["step"] for line in lines)
    for line in lines:
        if "val/loss" in line["metrics"] and line["step"] == last:
            line["metrics"]["val/loss"] = loss
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if summary:
        edit(run / "summary.json", lambda table: table["metrics"].update({"val/loss": loss}))


def seal_again(run):
    """Give a run the seal that it would have had if it had been so."""
    record, info = read_record(run), read_local_run(run)
    names = [name for name in record.tags["vgpt.sealed_metrics"].split(",") if name]
    files = {"vgpt.journal": "metrics.jsonl", "vgpt.windows": "val_windows.json", "vgpt.settings": "settings.json"}
    record.tags |= {tag: integrity.digest_if_there(run / name) for tag, name in files.items()}
    metrics = {name: info.metrics[name] for name in names}
    record.tags["vgpt.seal"] = integrity.seal_of(record.id, record.params, record.tags, metrics)
    record.save(run)


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_caught(world, monkeypatch, name):
    plant, words = CHEATS[name]
    said = plant(world, monkeypatch)
    for word in words:
        assert word in said


def test_the_table_in_the_documentation_lists_every_cheat():
    rows = re.findall(r"^\| ([^|]+?) \|", DOCS.read_text(), re.MULTILINE)
    assert [row for row in rows if row in CHEATS] == list(CHEATS)
