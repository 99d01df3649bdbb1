"""The mirror's process against real stores, silent servers and dead ones."""

import os
import signal
import sqlite3
import time
from pathlib import Path

import psutil
import pytest

from vgpt.errors import TrackingError
from vgpt.tracking.journal import read_events, read_metrics
from vgpt.tracking.mlflow_store.delivery import undelivered
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.store import StoreReader, read_local_run, read_runs
from vgpt.tracking.tracker import open_tracker

ARRIVAL = 240.0
"""Seconds for what does arrive, on however busy a machine: waiting ends with the last point."""
BOUNDED = 60.0
"""Seconds that are fewer than MLflow's own patience with a server, which is minutes."""


def train(tracker, steps, worst=0.0):
    """Log steps and return the longest time that one call took."""
    for step in steps:
        before = time.perf_counter()
        tracker.log({"train/loss": 10.0 / step, "train/lr": 1e-3}, step=step, tokens=10 * step, seconds=0.1 * step)
        worst = max(worst, time.perf_counter() - before)
        time.sleep(0.001)
    return worst


def stored_rows(database: Path) -> list[tuple[str, int, float]]:
    """Read the metrics that MLflow holds without MLflow: duplicates would show."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT key, step, value FROM metrics ORDER BY key, step").fetchall()
    connection.close()
    return rows


def journal_rows(run_dir: Path) -> list[tuple[str, int, float]]:
    return sorted((key, point.step, value) for point in read_metrics(run_dir) for key, value in point.metrics.items())


def test_a_run_reaches_mlflow_whole(start, store_uri, tmp_path):
    said = []
    tracker = open_tracker(
        start(), kind="mlflow", resume_step=None, tracking_uri=store_uri, notify=said.append, deadline=ARRIVAL
    )
    train(tracker, range(1, 101))
    tracker.tag({"vgpt.device": "cpu"})
    (tmp_path / "settings.json").write_text("{}")
    tracker.artifact(tmp_path / "settings.json", "about")
    assert tracker.finish("finished", {"val/best_loss": 0.1}) == []
    assert said == []
    (run,) = read_runs(tracking_uri=store_uri)
    assert (run.status, run.run_name, run.params) == ("finished", "run", {"attn": "mha", "lr": "0.001"})
    assert run.metrics == {"train/loss": 0.1, "train/lr": 1e-3, "val/best_loss": 0.1}
    assert run.tags["vgpt.device"] == "cpu"
    assert StoreReader(store_uri).history(run.run_id, "train/loss") == [(s, 10.0 / s) for s in range(1, 101)]
    assert stored_rows(tmp_path / "mlflow.db") == journal_rows(tmp_path / "runs/run")
    artifacts = {path.name: path.parent.name for path in (tmp_path / "mlruns").rglob("*.json")}
    assert artifacts == {"settings.json": "about", "summary.json": "artifacts"}
    local = read_local_run(tmp_path / "runs/run")
    assert local is not None
    assert (local.run_id, local.metrics, local.id) == (run.run_id, run.metrics, run.id)


@pytest.mark.parametrize("fault", ["silent_uri", pytest.param("refused_uri", marks=pytest.mark.slow)])
def test_a_server_that_does_not_answer_costs_a_note_and_its_points_arrive_later(
    fault, start, store_uri, request, tmp_path
):
    uri = request.getfixturevalue(fault)
    said = []
    tracker = open_tracker(start(), kind="mlflow", resume_step=None, tracking_uri=uri, notify=said.append, deadline=1.5)
    worst = train(tracker, range(1, 501))
    before = time.perf_counter()
    notes = tracker.finish("finished", {"val/best_loss": 0.1})
    assert time.perf_counter() - before < BOUNDED
    assert worst < 2.5  # a request gives up after three
    assert any("1001 points are not yet in MLflow" in note and "vgpt sync run" in note for note in notes)
    run_dir = tmp_path / "runs/run"
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 1001
    assert stored_rows(tmp_path / "mlflow.db") == journal_rows(run_dir)
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 0
    assert read_runs(tracking_uri=store_uri)[0].status == "finished"


def test_a_trainer_killed_by_kill_9_is_marked_killed_and_leaves_no_mirror_behind(start, store_uri, python, tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from vgpt.tracking.tracker import RunStart, open_tracker\n"
        "start = RunStart('run', Path(sys.argv[1]), 'vgpt', {}, {})\n"
        "tracker = open_tracker(start, kind='mlflow', resume_step=None, tracking_uri=sys.argv[2], notify=print)\n"
        "for step in range(1, 51): tracker.log({'train/loss': 1.0 / step}, step=step)\n"
        "print(tracker._mirror._process.pid, flush=True); time.sleep(60)\n"
    )
    run_dir = start().run_dir
    trainer = python(program, run_dir, store_uri)
    mirror = int(trainer.stdout.readline())
    trainer.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + ARRIVAL
    while Path(f"/proc/{mirror}/stat").exists() and Path(f"/proc/{mirror}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "the mirror outlived its trainer"
        time.sleep(0.1)
    (run,) = read_runs(tracking_uri=store_uri)
    assert run.status == "killed"
    assert len(stored_rows(tmp_path / "mlflow.db")) == 50
    local = read_local_run(run_dir)
    assert local is not None
    assert local.status == "killed"


def test_a_resumed_run_continues_its_mlflow_run_and_repeats_no_point(start, store_uri, tmp_path):
    for resume_step, steps, status in ((None, range(1, 31), "killed"), (20, range(21, 41), "finished")):
        tracker = open_tracker(
            start(),
            kind="mlflow",
            resume_step=resume_step,
            tracking_uri=store_uri,
            notify=pytest.fail,
            deadline=ARRIVAL,
        )
        train(tracker, steps)
        assert tracker.finish(status, {}) == []
    (run,) = read_runs(tracking_uri=store_uri)
    assert run.status == "finished"
    assert stored_rows(tmp_path / "mlflow.db") == journal_rows(tmp_path / "runs/run")
    assert len(stored_rows(tmp_path / "mlflow.db")) == 2 * 40
    assert [event["kind"] for event in read_events(tmp_path / "runs/run")] == [
        "started",
        "killed",
        "resumed",
        "finished",
    ]


def test_a_store_that_cannot_be_written_costs_a_note(start, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    said = []
    uri = f"sqlite:///{tmp_path}/file/mlflow.db"
    tracker = open_tracker(start(), kind="mlflow", resume_step=None, tracking_uri=uri, notify=said.append, deadline=1.5)
    train(tracker, range(1, 4))
    notes = tracker.finish("finished", {})
    assert any("6 points" in note for note in notes)
    assert any("file/mlflow.db" in note for note in notes)


def test_a_mirror_that_dies_costs_a_note(start, store_uri, tmp_path):
    tracker = open_tracker(start(), kind="mlflow", resume_step=None, tracking_uri=store_uri, notify=pytest.fail)
    train(tracker, range(1, 2))
    os.kill(tracker._mirror._process.pid, signal.SIGKILL)
    train(tracker, range(2, 4))
    (note,) = tracker.finish("finished", {})
    assert "6 points are not yet in MLflow" in note
    assert undelivered(tmp_path / "runs/run", resolve_target(store_uri)) == 6
    assert sync_run(tmp_path / "runs/run").sent == 6


@pytest.mark.slow
def test_several_processes_may_make_one_store_at_once(race):
    assert race.outputs == ["1\n"] * 2
    assert race.codes == [0, 0]
    assert [path.name for path in race.database.parent.iterdir()] == ["mlflow.db"]


def test_secrets_appear_nowhere(start, refused_uri, monkeypatch, tmp_path):
    Path(".env").write_text("MLFLOW_TRACKING_TOKEN=canary-token\n")
    Path(".env").chmod(0o644)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-aws")
    uri = refused_uri.replace("http://", "http://alice:canary-password@")
    said = []
    params = {"data": "s3://canary-user:canary-password@bucket", "note": "canary-token"}
    tracker = open_tracker(
        start(params=params), kind="mlflow", resume_step=None, tracking_uri=uri, notify=said.append, deadline=1.5
    )
    tracker.log({"train/loss": 1.0}, step=1)
    command = Path(f"/proc/{tracker._mirror._process.pid}/cmdline").read_bytes()
    tracker.tag({"vgpt.group": "canary-aws"})
    tracker.event("failed", error=f"cannot reach {uri}")
    said += tracker.finish("failed", {})
    with pytest.raises(TrackingError) as caught:
        sync_run(tmp_path / "runs/run", tracking_uri=uri)
    with pytest.raises(TrackingError) as refused:
        read_runs(tracking_uri=uri)
    texts = [path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    texts += [command, *(text.encode() for text in said), str(caught.value).encode(), str(refused.value).encode()]
    assert len(said) >= 2
    assert not [text for text in texts if b"canary" in text]


def test_the_mirror_begins_with_the_first_points_and_gives_way_to_training(start, store_uri):
    tracker = open_tracker(
        start(), kind="mlflow", resume_step=None, tracking_uri=store_uri, notify=pytest.fail, deadline=ARRIVAL
    )
    children = psutil.Process().children
    before = {child.pid for child in children()}
    tracker.event("checkpoint", step=0)
    assert {child.pid for child in children()} == before
    train(tracker, range(1, 2))
    (mirror,) = [child for child in children() if child.pid not in before]
    session = Path(f"/proc/{mirror.pid}/autogroup")

    def gives_way():
        own = mirror.nice() == os.getpriority(os.PRIO_PROCESS, 0) + 10
        return own and (not session.exists() or session.read_text().split()[-1:] in ([], ["19"]))

    deadline = time.monotonic() + ARRIVAL
    while not gives_way():  # it sets one after the other
        assert time.monotonic() < deadline, "the mirror runs as if it mattered as much as training"
        time.sleep(0.02)
    assert tracker.finish("finished") == []


@pytest.mark.slow
def test_a_run_without_points_reaches_mlflow_too(start, store_uri):
    tracker = open_tracker(
        start(), kind="mlflow", resume_step=None, tracking_uri=store_uri, notify=pytest.fail, deadline=ARRIVAL
    )
    assert tracker.finish("failed") == []
    assert [run.status for run in read_runs(tracking_uri=store_uri)] == ["failed"]
