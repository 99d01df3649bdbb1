"""Studies as parents of their runs in a real MLflow store."""

import pytest

from vgpt.errors import TrackingError
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.report_runs import TAG_PARENT, gather_under_study
from vgpt.tracking.store import read_runs


def test_the_runs_of_a_study_are_its_children_and_it_is_never_among_them(record, store_uri):
    for name in ("first", "second", "other"):
        assert sync_run(record(name), tracking_uri=store_uri)
    runs = {run.run_name: run for run in read_runs(tracking_uri=store_uri)}
    parent = gather_under_study("widths", experiment="vgpt", runs=[runs["first"]], tracking_uri=store_uri)
    again = gather_under_study(
        "widths", experiment="vgpt", runs=[runs["first"], runs["second"]], tracking_uri=store_uri
    )
    assert again == parent
    other = gather_under_study("rates", experiment="vgpt", runs=[runs["first"]], tracking_uri=store_uri)
    assert other != parent
    found = {run.run_name: run.tags.get(TAG_PARENT) for run in read_runs(tracking_uri=store_uri)}
    assert found == {"first": parent, "second": parent, "other": None}
    store = MlflowStore(resolve_target(store_uri), write=False)
    studies = store.runs(store.experiment_id("vgpt", create=False), {"vgpt.kind": "study"})
    assert {(run.run_name, run.status) for run in studies} == {("widths", "FINISHED"), ("rates", "FINISHED")}


def test_what_a_ladder_foretold_lies_with_its_study(store_uri):
    parent = ""
    for content in (b"one", b"one\ntwo"):
        files = {"predictions.jsonl": content}
        parent = gather_under_study("sizes", experiment="vgpt", runs=[], files=files, tracking_uri=store_uri)
    assert MlflowStore(resolve_target(store_uri), write=False).download(parent, "predictions.jsonl") == b"one\ntwo"


def test_a_store_that_is_not_there_is_told_in_one_line(refused_uri):
    with pytest.raises(TrackingError, match="cannot be written: connection refused"):
        gather_under_study("widths", experiment="vgpt", runs=[], tracking_uri=refused_uri)
