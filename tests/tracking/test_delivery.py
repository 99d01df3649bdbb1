"""Delivery of journals to a real SQLite store, in this process."""

import json
import math
import sqlite3
from pathlib import Path

import pytest

from vgpt.errors import TrackingError
from vgpt.tracking.lock import FileLock, RunLock
from vgpt.tracking.mlflow_store.delivery import Delivery, undelivered
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.store import StoreReader, read_runs
from vgpt.tracking.tracker import open_tracker


def count(database: Path, table: str) -> int:
    connection = sqlite3.connect(database)
    (found,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    connection.close()
    return found


def test_a_journal_is_delivered_once_however_often_it_is_tried(record, store_uri, tmp_path):
    run_dir = record(steps=range(1, 1001))
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 2000
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 0
    assert count(tmp_path / "mlflow.db", "metrics") == 2000


def test_a_replay_after_lost_marks_makes_no_second_run_and_no_second_point(record, store_uri, tmp_path):
    run_dir = record(steps=range(1, 101))
    first = sync_run(run_dir, tracking_uri=store_uri)
    (run_dir / "mlflow_sync.json").unlink()
    again = sync_run(run_dir, tracking_uri=store_uri)
    assert again.run_id == first.run_id
    assert count(tmp_path / "mlflow.db", "runs") == 1
    assert count(tmp_path / "mlflow.db", "metrics") == 200


def test_repeated_steps_of_a_resumed_run_are_not_delivered_again(record, store_uri, tmp_path):
    record(steps=range(1, 31), status="killed")
    sync_run(tmp_path / "runs/run", tracking_uri=store_uri)
    record(steps=range(21, 41), resume_step=20)
    assert undelivered(tmp_path / "runs/run", resolve_target(store_uri)) == 2 * 10
    assert sync_run(tmp_path / "runs/run", tracking_uri=store_uri).sent == 2 * 10
    (run,) = read_runs(tracking_uri=store_uri)
    assert run.status == "finished"
    assert [step for step, _ in StoreReader(store_uri).history(run.run_id, "train/loss")] == list(range(1, 41))


def test_a_run_begun_anew_under_its_old_name_is_a_new_run(record, store_uri):
    for _ in range(2):
        run_dir = record()
        sync_run(run_dir, tracking_uri=store_uri)
    assert [len(StoreReader(store_uri).history(run.run_id, "train/loss")) for run in read_runs()] == [5, 5]


def test_one_run_can_be_brought_to_two_stores(record, store_uri, tmp_path):
    run_dir = record()
    other = f"sqlite:///{tmp_path}/other.db"
    (tmp_path / "other.db").write_bytes((tmp_path / "mlflow.db").read_bytes())
    assert [sync_run(run_dir, tracking_uri=uri).sent for uri in (store_uri, other, store_uri, other)] == [10, 10, 0, 0]
    assert count(tmp_path / "other.db", "metrics") == 10


def test_not_a_number_and_infinity_arrive_as_what_they_are(start, store_uri):
    tracker = open_tracker(start(), kind="journal", resume_step=None, notify=pytest.fail)
    tracker.log({"a": math.nan, "b": math.inf, "c": -math.inf}, step=1)
    tracker.finish("diverged", {})
    sync_run(start().run_dir, tracking_uri=store_uri)
    (run,) = read_runs(tracking_uri=store_uri)
    assert run.status == "diverged"
    assert math.isnan(run.metrics["a"])
    assert (run.metrics["b"], run.metrics["c"]) == (math.inf, -math.inf)
    summary = json.loads((start().run_dir / "summary.json").read_text())
    assert summary["status"] == "diverged"


def test_a_value_that_mlflow_refuses_is_left_out_alone_and_told_of(start, store_uri):
    tracker = open_tracker(start(), kind="journal", resume_step=None, notify=pytest.fail)
    for step in range(1, 21):
        tracker.log({"train/loss": 1.0, **({"{odd}": 1.0} if step == 7 else {})}, step=step)
    tracker.finish("finished", {})
    said = []
    sync_run(start().run_dir, tracking_uri=store_uri, notify=said.append)
    (run,) = read_runs(tracking_uri=store_uri)
    assert len(StoreReader(store_uri).history(run.run_id, "train/loss")) == 20
    assert run.status == "finished"
    assert len(said) == 1
    assert "'{odd}' at step 7" in said[0]


def test_a_long_param_does_not_stop_a_delivery(record, store_uri):
    run_dir = record(params={"long": "x" * 10_000, "attn": "mha"})
    sync_run(run_dir, tracking_uri=store_uri)
    (run,) = read_runs(tracking_uri=store_uri)
    assert run.params["attn"] == "mha"
    assert run.params["long"].startswith("xxx")


def test_what_grows_while_it_is_delivered_arrives_by_the_next_step(start, store_uri):
    tracker = open_tracker(start(), kind="journal", resume_step=None, notify=pytest.fail)
    delivery = Delivery(start().run_dir, resolve_target(store_uri), pytest.fail)
    sent = []
    for step in range(1, 4):
        tracker.log({"train/loss": 1.0}, step=step)
        sent.append(delivery.step())
    assert sent == [1, 1, 1]
    assert read_runs(tracking_uri=store_uri)[0].metrics == {"train/loss": 1.0}
    tracker.finish("finished", {})


def test_a_run_that_is_being_trained_is_left_to_its_mirror(record, store_uri):
    run_dir = record()
    with RunLock(run_dir), pytest.raises(TrackingError, match="is being trained by process"):
        sync_run(run_dir, tracking_uri=store_uri)
    lock = FileLock(run_dir / "mlflow_sync.lock")
    assert lock.acquire()
    with pytest.raises(TrackingError, match="another process"):
        sync_run(run_dir, tracking_uri=store_uri)
    lock.release()
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 10


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"id": 1}'])
def test_a_directory_without_a_readable_record_is_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / "tracking.json").write_text(content)
    with pytest.raises(TrackingError, match="is no run"):
        sync_run(tmp_path)


def test_a_store_made_by_nobody_that_mlflow_knows_is_an_error_with_a_way_out(record, tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database" * 100)
    with pytest.raises(TrackingError) as caught:
        sync_run(record())
    assert "not a database" in caught.value.message
    assert caught.value.hint
