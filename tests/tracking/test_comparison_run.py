"""Comparisons as runs in a real MLflow store."""

import time

import pytest

from vgpt.errors import TrackingError
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.report_runs import log_comparison
from vgpt.tracking.store import StoreReader, read_runs


def log(uri, **changes):
    known = {"name": "compare mha, mqa", "experiment": "vgpt", "run_ids": ["a", "b"], "files": {"report.html": b"<p>"}}
    return log_comparison(**(known | changes), tracking_uri=uri)


def test_a_comparison_is_a_run_with_its_files_and_is_never_among_the_compared(record, store_uri):
    assert sync_run(record(), tracking_uri=store_uri)
    run_id = log(store_uri, files={"report.html": b"<p>", "cache.svg": b"<svg/>"})
    assert StoreReader(store_uri).artifact(run_id, "report.html") == b"<p>"
    assert StoreReader(store_uri).artifact(run_id, "cache.svg") == b"<svg/>"
    assert [run.run_name for run in read_runs(tracking_uri=store_uri)] == ["run"]
    store = MlflowStore(resolve_target(store_uri), write=False)
    (found,) = store.runs(store.experiment_id("vgpt", create=False), {"vgpt.kind": "comparison"})
    assert (found.run_name, found.status, found.tags["vgpt.compared"]) == ("compare mha, mqa", "FINISHED", "a b")


def test_a_store_that_is_not_there_is_told_in_one_line(refused_uri):
    with pytest.raises(TrackingError, match="cannot be written: connection refused"):
        log(refused_uri)


def test_a_server_that_does_not_answer_is_given_up(silent_uri):
    begun = time.monotonic()
    with pytest.raises(TrackingError):
        log(silent_uri, timeout=0.5)
    assert time.monotonic() - begun < 60


def test_a_store_that_cannot_be_written_costs_nothing_else(store_uri, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, whatever its name may say" * 10)
    with pytest.raises(TrackingError, match="cannot be written"):
        log(store_uri)
