import sqlite3
import time
from dataclasses import replace

import pytest

from vgpt.errors import TrackingError
from vgpt.tracking.integrity import faults_of, is_sealed
from vgpt.tracking.lock import RunLock
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.store import StoreReader, local_history, merge_runs, read_local_runs, read_runs
from vgpt.tracking.tracker import open_tracker


def test_a_store_that_was_never_made_holds_no_runs_and_is_not_made_by_looking(tmp_path):
    assert read_runs() == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_experiment_holds_no_runs(store_uri):
    assert read_runs(experiment="nothing", tracking_uri=store_uri) == []


def test_many_runs_are_read_newest_first_and_filtered_by_tags(store_uri, monkeypatch):
    monkeypatch.setattr("vgpt.tracking.mlflow_store.mlflow_client._PAGE", 90)
    store = MlflowStore(resolve_target(store_uri), write=True)
    experiment = store.experiment_id("vgpt", create=True)
    for n in range(200):
        tags = {"vgpt.attn": ["mha", "mqa", "it's"][n % 3], "vgpt.seed": str(n % 2)}
        store.create_run(experiment, name=f"run-{n}", started=1_700_000_000_000 + n, tags=tags)
    runs = read_runs(tracking_uri=store_uri)
    assert [run.run_name for run in runs] == [f"run-{n}" for n in reversed(range(200))]
    chosen = read_runs(tracking_uri=store_uri, where={"vgpt.attn": "mqa", "vgpt.seed": "1"})
    assert [run.run_name for run in chosen] == [f"run-{n}" for n in reversed(range(200)) if n % 3 == 1 and n % 2]
    quoted = read_runs(tracking_uri=store_uri, where={"vgpt.attn": "it's"})
    assert {run.tags["vgpt.attn"] for run in quoted} == {"it's"}
    assert len(quoted) == 66


@pytest.mark.parametrize("fault", ["silent_uri", "refused_uri"])
def test_a_server_that_does_not_answer_is_given_up_within_seconds(fault, request):
    uri = request.getfixturevalue(fault)
    before = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        read_runs(tracking_uri=uri)
    assert time.monotonic() - before < 60
    assert uri in caught.value.message
    assert "MLFLOW_TRACKING_URI" in caught.value.hint


def test_a_reader_waits_no_longer_than_it_is_told(silent_uri):
    before = time.monotonic()
    with pytest.raises(TrackingError, match=r"no answer within 0\.2 s"):
        read_runs(tracking_uri=silent_uri, timeout=0.2)
    assert time.monotonic() - before < 60


def test_a_store_of_another_version_is_not_migrated_by_reading_it(store_uri, tmp_path):
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    connection.commit()
    connection.close()
    copy = f"sqlite:///{(tmp_path / 'mlflow.db').rename(tmp_path / 'old.db')}"
    with pytest.raises(TrackingError) as caught:
        read_runs(tracking_uri=copy)
    assert "mlflow db upgrade" in caught.value.hint


def test_a_file_that_is_no_database_is_an_error_with_a_way_out(tmp_path):
    (tmp_path / "mlflow.db").write_text("plain text " * 100)
    with pytest.raises(TrackingError, match="not a database"):
        read_runs()


def test_an_unknown_run_has_no_history(store_uri):
    assert StoreReader(store_uri).history("0" * 32, "train/loss") == []


def test_journals_are_read_without_mlflow(record, tmp_path):
    record("first", steps=range(1, 4), tags={"vgpt.attn": "mha"})
    time.sleep(0.005)
    record("second", steps=range(1, 3), tags={"vgpt.attn": "gqa"}, experiment="other", status="failed")
    (tmp_path / "runs/not-a-run").mkdir()
    runs = read_local_runs(tmp_path / "runs")
    assert [(run.run_name, run.status, run.experiment, run.run_id) for run in runs] == [
        ("second", "failed", "other", ""),
        ("first", "finished", "vgpt", ""),
    ]
    assert runs[1].metrics == {"train/loss": 10.0 / 3, "train/lr": 1e-3}
    assert local_history(tmp_path / "runs/first", "train/loss") == [(1, 10.0), (2, 5.0), (3, 10.0 / 3)]
    assert [run.run_name for run in read_local_runs(tmp_path / "runs", experiment="vgpt")] == ["first"]
    assert [run.run_name for run in read_local_runs(tmp_path / "runs", where={"vgpt.attn": "gqa"})] == ["second"]
    assert read_local_runs(tmp_path / "absent") == []


def test_a_run_that_nobody_trains_any_more_is_killed_in_both_places(start, store_uri, tmp_path):
    tracker = open_tracker(start(), kind="journal", resume_step=None, notify=pytest.fail)
    tracker.log({"train/loss": 1.0}, step=1)
    run_dir = start().run_dir
    with RunLock(run_dir):
        store = MlflowStore(resolve_target(store_uri), write=True)
        experiment = store.experiment_id("vgpt", create=True)
        tags = {"vgpt.run_dir": str(run_dir), "vgpt.id": tracker.id}
        store.create_run(experiment, name="run", started=2, tags=tags)
        store.create_run(experiment, name="elsewhere", started=1, tags={"vgpt.run_dir": "/on/another/machine"})
        assert [run.status for run in read_runs(tracking_uri=store_uri)] == ["running", "running"]
        assert [run.status for run in read_local_runs(tmp_path / "runs")] == ["running"]
    assert [run.status for run in read_runs(tracking_uri=store_uri)] == ["killed", "running"]
    assert [run.status for run in read_local_runs(tmp_path / "runs")] == ["killed"]
    tracker.finish("killed", {})


def test_a_run_that_is_in_both_places_is_shown_once(record, store_uri, tmp_path):
    sync_run(record("both"), tracking_uri=store_uri)
    record("local")
    sync_run(record("stored"), tracking_uri=store_uri)
    (tmp_path / "runs/stored/tracking.json").unlink()
    runs = merge_runs(read_local_runs(tmp_path / "runs"), read_runs(tracking_uri=store_uri))
    assert sorted(run.run_name for run in runs) == ["both", "local", "stored"]
    assert [run.start_time for run in runs] == sorted((run.start_time for run in runs), reverse=True)


def test_a_text_that_mlflow_cuts_or_cannot_hold_is_no_disagreement(record, store_uri, tmp_path):
    tags = {"vgpt.plugins": "p" * 5_001, "vgpt.forked_from": "caf\udce9/step-00000006", "vgpt.attn": "mha"}
    sync_run(record("run", tags=tags, params={"data": "d" * 6_001}, summary={"val/loss": 2.0}), tracking_uri=store_uri)
    (stored,) = read_runs(tracking_uri=store_uri)
    (local,) = read_local_runs(tmp_path / "runs")
    (merged,) = merge_runs([local], [stored])
    assert (len(stored.tags["vgpt.plugins"]), len(stored.params["data"])) == (5_000, 6_000)
    assert merged.conflicts == ()
    assert (is_sealed(local), faults_of(local)) == (is_sealed(stored), faults_of(stored)) == (True, [])
    changed = replace(stored, params=stored.params | {"data": "d" * 5_999 + "e"})
    (merged,) = merge_runs([local], [changed])
    assert [conflict.split(" is ")[0] for conflict in merged.conflicts] == ["data"]
