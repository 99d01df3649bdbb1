"""The course of runs, from journals and from a real MLflow store: both must tell the same."""

import math
import shutil

import pytest

from vgpt.tracking.histories import HistoryReader
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.store import read_local_run, read_runs
from vgpt.tracking.tracker import open_tracker

PER_STEP = 64


@pytest.fixture
def trained(start, store_uri):
    """A run of 40 steps, logged every 10th and evaluated every 15th, at rates that change."""
    tracker = open_tracker(start("course"), kind="journal", resume_step=None, notify=lambda text: pytest.fail(text))
    seconds = 0.0
    for step in range(1, 41):
        if step % 10 == 0:
            rate = 1000.0 + 50.0 * step
            seconds += 10 * PER_STEP / rate
            numbers = {"train/loss": 5.0 - 0.1 * step, "perf/tokens_per_second": rate}
            tracker.log(numbers, step=step, tokens=step * PER_STEP, seconds=seconds)
        if step in (20, 30, 40):
            numbers = {"val/loss": 6.0 - 0.1 * step, "val/loss_se": 0.01 * step, "val/bits_per_byte": 0.1 * step}
            tracker.log(numbers, step=step, tokens=step * PER_STEP, seconds=seconds)
    tracker.finish(
        "finished", {"train/steps": 40.0, "train/tokens": 40.0 * PER_STEP, "train/seconds": seconds, "val/loss": 99.0}
    )
    return start("course").run_dir


def test_a_journal_tells_losses_with_tokens_and_seconds(trained):
    run = read_local_run(trained)
    found = HistoryReader(mlflow=False)(run)
    assert [(one.step, one.tokens) for one in found.train] == [(step, step * PER_STEP) for step in (10, 20, 30, 40)]
    assert [one.value for one in found.evaluations] == pytest.approx([4.0, 3.0, 2.0])
    assert found.evaluations[-1].seconds == pytest.approx(sum(640 / (1000 + 50 * s) for s in (10, 20, 30, 40)))
    assert found.at("val/loss_se", 30) == pytest.approx(0.3)
    assert found.at("val/loss_se", 31) is None


def test_mlflow_alone_tells_the_same_course_as_the_journal(trained, store_uri):
    assert sync_run(trained, tracking_uri=store_uri)
    local = HistoryReader(mlflow=False)(read_local_run(trained))
    shutil.rmtree(trained)
    (run,) = read_runs(tracking_uri=store_uri)
    run.metrics["val/loss"] = 99.0
    stored = HistoryReader(mlflow=True, tracking_uri=store_uri, details=True)(run)
    for here, there in ((local.train, stored.train), (local.evaluations, stored.evaluations)):
        assert [(one.step, one.tokens) for one in there] == [(one.step, one.tokens) for one in here]
        assert [one.seconds for one in there] == pytest.approx([one.seconds for one in here])
    assert stored.at("val/bits_per_byte", 40) == pytest.approx(4.0)


def test_values_that_are_not_finite_are_left_out(start):
    tracker = open_tracker(start("nan"), kind="journal", resume_step=None, notify=lambda text: None)
    for step, loss in ((1, 3.0), (2, math.nan), (3, math.inf), (4, 2.0)):
        tracker.log({"val/loss": loss}, step=step)
    tracker.finish("finished")
    found = HistoryReader(mlflow=False)(read_local_run(start("nan").run_dir))
    assert [one.step for one in found.evaluations] == [1, 4]
    assert found.evaluations[0].tokens is None


def test_a_store_that_cannot_be_read_is_asked_once_and_the_reason_is_kept(trained, store_uri, refused_uri):
    assert sync_run(trained, tracking_uri=store_uri)
    shutil.rmtree(trained)
    (run,) = read_runs(tracking_uri=store_uri)
    reader = HistoryReader(mlflow=True, tracking_uri=refused_uri, timeout=5)
    assert reader(run).evaluations == ()
    assert "connection refused" in reader.failure
    assert not reader._mlflow
