"""Runs and checkpoints that were made before runs were sealed: they load, continue, and are compared."""

import shutil
from pathlib import Path

import pytest

from vgpt.compare.audit.conditions import audit
from vgpt.compare.rows import make_row
from vgpt.settings.train import TrainConfig
from vgpt.tracking.integrity import faults_of
from vgpt.tracking.store import read_local_run, read_local_runs
from vgpt.training.checkpoints.checkpoint import find_checkpoint
from vgpt.training.display import Quiet
from vgpt.training.run import train_run

MADE_BEFORE = Path(__file__).parents[1] / "golden" / "before_seals"


@pytest.fixture
def before(tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(MADE_BEFORE, tmp_path / "before"))
    return Path("runs")


def test_they_compare_and_what_they_lack_is_named(before):
    recorded = {run.run_name: run for run in read_local_runs(before)}
    rows = [make_row([recorded[name]]) for name in ("old-mha", "old-mla")]
    found = audit(rows, recorded=list(recorded.values()))
    assert [one.name for one in found.differences] == ["effective_positions"]
    assert {"source", "numpy", "batches", "first_weights", "plug-ins", "seal"} <= set(found.unrecorded)
    assert not set(found.unrecorded) & set(found.shared)
    assert [faults_of(run) for run in recorded.values()] == [[], [], []]


def test_their_checkpoints_load(before):
    checkpoint = find_checkpoint("old-mha", runs_dir=before)
    assert checkpoint.state.step == 6
    assert checkpoint.load_model().config.attn.kind == "mha"


def test_one_that_was_stopped_goes_on_under_its_name_and_is_sealed(before):
    settings = TrainConfig.model_validate_json((before / "old-part" / "settings.json").read_bytes())
    table = settings.model_dump(mode="json")
    table["run"] |= {"run_name": "old-part", "runs_dir": str(before)}
    result = train_run(TrainConfig.model_validate(table), Quiet())
    whole, part = (read_local_run(before / name) for name in ("old-mha", "old-part"))
    assert result.status == "finished"
    assert part.metrics["val/loss"] == pytest.approx(whole.metrics["val/loss"], rel=1e-5)
    assert part.id == "00000000000000000000000000000001"
    assert faults_of(part) == []
