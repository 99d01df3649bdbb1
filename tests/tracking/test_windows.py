"""Window losses of runs: written, delivered to a real store, and found again, here or there."""

import json
import shutil
import time
from dataclasses import replace

import pytest

from vgpt.tracking.histories import WindowReader
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.record import WINDOWS_FILE, WindowLosses, parse_window_losses
from vgpt.tracking.store import read_local_run, read_runs
from vgpt.tracking.tracker import open_tracker

LOSSES = WindowLosses(12, "3x16:0123456789ab", (2.25, 2.5, 3.125))


@pytest.fixture
def recorded(start, store_uri):
    """A finished run with window losses, brought to MLflow."""
    begun = start()
    tracker = open_tracker(begun, kind="journal", resume_step=None, notify=pytest.fail)
    tracker.artifact(LOSSES.save(begun.run_dir))
    tracker.finish("finished", {"val/loss": 2.625})
    sync_run(begun.run_dir, tracking_uri=store_uri)
    return begun.run_dir


def test_losses_are_read_as_written_to_seven_digits(tmp_path):
    path = WindowLosses(3, "2x8:ab", (1 / 3, 12345.678901)).save(tmp_path)
    assert parse_window_losses(path.read_bytes()) == WindowLosses(3, "2x8:ab", (0.3333333, 12345.68))


def test_documents_are_kept_and_must_be_as_many_as_the_windows(tmp_path):
    written = WindowLosses(3, "3x8:ab", (1.0, 2.0, 3.0), (), (0, 0, 4))
    path = written.save(tmp_path)
    assert parse_window_losses(path.read_bytes()) == written
    assert parse_window_losses(json.dumps({**json.loads(path.read_text()), "documents": [0, 0]})) is None
    assert json.loads(LOSSES.save(tmp_path).read_text()).keys() == {"step", "windows", "losses"}  # as before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": 1, "windows": "a", "losses": [NaN]}', '{"losses": ["x"]}'])
def test_a_damaged_file_is_no_file(text):
    assert parse_window_losses(text) is None


def test_a_run_of_this_machine_is_read_from_its_directory_wherever_that_was_moved(recorded, tmp_path):
    moved = shutil.move(recorded, tmp_path / "moved")
    assert WindowReader(mlflow=False)(read_local_run(tmp_path / "moved")) == LOSSES, moved


def test_a_run_known_from_mlflow_is_read_from_the_directory_that_it_names(recorded, store_uri):
    (run,) = read_runs(tracking_uri=store_uri)
    assert run.directory is None
    assert WindowReader(mlflow=False)(run) == LOSSES


def test_a_run_of_another_machine_is_read_from_mlflow(recorded, store_uri):
    (run,) = read_runs(tracking_uri=store_uri)
    shutil.rmtree(recorded)
    assert WindowReader(mlflow=False)(run) is None
    assert WindowReader(mlflow=True, tracking_uri=store_uri)(run) == LOSSES


def test_what_was_read_once_is_not_read_again(recorded, store_uri):
    (run,) = read_runs(tracking_uri=store_uri)
    reader = WindowReader(mlflow=False)
    assert reader(run) == LOSSES
    shutil.rmtree(recorded)
    assert reader(run) == LOSSES


def test_a_directory_that_was_given_to_another_run_is_not_read(recorded, store_uri):
    (run,) = read_runs(tracking_uri=store_uri)
    (recorded / WINDOWS_FILE).write_text(json.dumps({"step": 1, "windows": "other", "losses": [9.0]}))
    stranger = replace(run, run_id="", tags={**run.tags, "vgpt.id": "another"})
    assert WindowReader(mlflow=True, tracking_uri=store_uri)(stranger) is None


def test_a_run_without_window_losses_has_none(record, store_uri):
    run_dir = record()
    sync_run(run_dir, tracking_uri=store_uri)
    (run,) = read_runs(tracking_uri=store_uri)
    assert WindowReader(mlflow=True, tracking_uri=store_uri)(run) is None


def test_a_server_that_does_not_answer_is_asked_once(recorded, store_uri, silent_uri):
    (run,) = read_runs(tracking_uri=store_uri)
    shutil.rmtree(recorded)
    reader = WindowReader(mlflow=True, tracking_uri=silent_uri, timeout=0.3)
    before = time.monotonic()
    assert [reader(run) for _ in range(20)] == [None] * 20
    assert time.monotonic() - before < 60
