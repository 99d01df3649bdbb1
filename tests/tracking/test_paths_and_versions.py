"""Stores in places and states of the world: odd paths, other versions of MLflow, read-only files, deleted runs."""

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from vgpt.errors import TrackingError
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore, open_for_reading
from vgpt.tracking.mlflow_store.reasons import StoreError, reason_of
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.store import StoreReader, read_runs


def stored(database: Path) -> int:
    """Return how many values a database holds, asked without MLflow."""
    with sqlite3.connect(database) as connection:
        return connection.execute("select count(*) from metrics").fetchone()[0]


@pytest.mark.parametrize(
    ("folder", "uri", "file"),
    [
        ("job_feature%2Fnew", None, "mlflow.db"),
        ("a%41b", "sqlite:///50%.db", "50%.db"),
        ("what?/now", None, "mlflow.db"),
        ("a?x=1", "sqlite:///my db?timeout=30", "my db"),
        ("e#1 é", "sqlite:///who?.db", "who?.db"),
        ("b\udcff%41", None, "mlflow.db"),
    ],
)
def test_a_path_is_a_path(record, empty_store, tmp_path, monkeypatch, folder, uri, file):
    run_dir = record()
    place = tmp_path / folder
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    shutil.copy(empty_store, place / file)
    done = sync_run(run_dir, tracking_uri=uri)
    assert done.sent == 10
    assert stored(place / file) == 10
    assert {path.name for path in place.iterdir()} <= {file, "mlruns"}
    assert [run.run_id for run in read_runs(tracking_uri=uri)] == [done.run_id]
    monkeypatch.chdir(tmp_path)
    # Its address as it is recorded leads there from elsewhere too.
    assert len(StoreReader(done.store).history(done.run_id, "train/loss")) == 5


@pytest.mark.slow
def test_a_store_is_made_where_a_path_holds_signs_of_addresses(tmp_path, python):
    place = tmp_path / "j%2Fb ?" / "s.db"
    program = (
        "import sys; from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore\n"
        "from vgpt.tracking.mlflow_store.target import resolve_target\n"
        "print(MlflowStore(resolve_target(sys.argv[1]), write=True).experiment_id('x', create=True))"
    )
    process = python(program, f"sqlite:///{place}?timeout=30")
    assert process.communicate()[0].strip() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["j%2Fb ?"]
    assert {path.name for path in place.parent.iterdir()} == {"s.db"}


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "sqlite:///file:x.db?mode=ro&uri=true", "sqlite:///"])
def test_a_store_that_another_process_could_not_read_is_refused(uri):
    with pytest.raises(TrackingError, match="is no store"):
        resolve_target(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://al:s3cr/et9@host:9",
        "postgresql://al:s3cr/et9@host/db",
        "http://al:s3cr?et9@host:9",
        "http://al:s3cr[et9@host:9",
        "http://[::1",
        "http://al:s3cr-et9",
        "mysql+pymysql://al:s3cr#et9@host/db",
        "http://host:99999999",
        "al:s3cr-et9@host:5000",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_and_shows_no_password(uri):
    with pytest.raises(TrackingError) as caught:
        resolve_target(uri)
    assert "et9" not in str(caught.value)
    assert "s3cr" not in str(caught.value)
    quiet = resolve_target(uri, must_serve=False)
    assert "et9" not in quiet.shown + quiet.redact(f"cannot reach {uri}: {uri!r}, {uri.partition('//')[2]}")


def at_revision(uri: str, revision: str) -> None:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute("update alembic_version set version_num = ?", [revision])


@pytest.mark.parametrize(
    ("revision", "word", "hint"),
    [("451aebb31d03", "older", "mlflow db upgrade"), ("abc1def2", "newer", "pip install --upgrade mlflow")],
)
def test_databases_of_older_and_of_newer_versions_are_told_apart(store_uri, revision, word, hint):
    at_revision(store_uri, revision)
    with pytest.raises(TrackingError, match=f"made by an? {word} MLflow") as caught:
        open_for_reading(resolve_target(store_uri))
    assert hint in caught.value.hint
    with pytest.raises(StoreError, match=f"made by an? {word} MLflow"):
        MlflowStore(resolve_target(store_uri), write=True)


def test_a_read_only_store_is_said_to_be_one(empty_store):
    with tempfile.TemporaryDirectory() as place:
        database = Path(place) / "mlflow.db"
        shutil.copy(empty_store, database)
        target = resolve_target(f"sqlite:///{database}")
        MlflowStore(target, write=True)
        database.chmod(0o444)
        os.chmod(place, 0o555)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65_534)
        try:
            with pytest.raises(StoreError, match="read-only"):
                MlflowStore(target, write=True)
        finally:
            os.seteuid(before)
            os.chmod(place, 0o755)


def test_of_an_error_the_line_that_names_the_cause_is_told():
    told = "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block)\n"
    cause = "(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: INSERT ...]"
    assert reason_of(RuntimeError(told + cause)) == "the database is read-only"
    assert (
        reason_of(RuntimeError(told + "(x.Error) no such thing\n[SQL: ...]")) == "RuntimeError: (x.Error) no such thing"
    )


def test_a_run_deleted_in_mlflow_is_said_to_be_deleted(record, store_uri):
    run_dir = record()
    run_id = sync_run(run_dir, tracking_uri=store_uri).run_id
    with sqlite3.connect(store_uri.removeprefix("sqlite:///")) as connection:
        connection.execute("update runs set lifecycle_stage = 'deleted'")
    with pytest.raises(TrackingError, match=f"deleted in MLflow; `mlflow runs restore --run-id {run_id}`"):
        sync_run(run_dir, tracking_uri=store_uri)


def test_a_store_that_was_emptied_gets_everything_again(record, store_uri, empty_store):
    run_dir = record()
    first = sync_run(run_dir, tracking_uri=store_uri)
    shutil.copy(empty_store, store_uri.removeprefix("sqlite:///"))
    again = sync_run(run_dir, tracking_uri=store_uri)
    assert again.sent == first.sent == 10
    assert again.run_id != first.run_id
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 0
