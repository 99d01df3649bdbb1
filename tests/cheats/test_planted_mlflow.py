"""The same study with its runs in MLflow too: cheats between the two records, and with the plan that it holds."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.cheats.conftest import inside
from tests.cheats.test_planted import rewrite_loss
from vgpt.tracking.mlflow_store.delivery import Delivery
from vgpt.tracking.mlflow_store.target import resolve_target

pytestmark = pytest.mark.slow  # opening MLflow and delivering to it take most of the time

TRACKED = {"tracker": "mlflow", "tracking_uri": "sqlite:///mlflow.db"}


@pytest.fixture(scope="module")
def delivered(original, empty_store, tmp_path_factory):
    place = Path(shutil.copytree(original, tmp_path_factory.mktemp("mlflow") / "world"))
    shutil.copy(empty_store, place / "mlflow.db")
    with inside(place) as world:
        for run in sorted(world.runs.glob("m*")):
            Delivery(run, resolve_target(TRACKED["tracking_uri"]), print).step()
        assert "the plan was not in MLflow yet: logged as run" in world.says(**TRACKED)
    return place


@pytest.fixture
def tracked(delivered, tmp_path):
    with inside(Path(shutil.copytree(delivered, tmp_path / "tracked"))) as world:
        yield world


def change_in_store(name, value, run_name):
    store = sqlite3.connect("mlflow.db")
    with store:
        (run,) = store.execute("select run_uuid from runs where name = ?", [run_name]).fetchone()
        for table in ("metrics", "latest_metrics"):
            store.execute(f"update {table} set value = ? where key = ? and run_uuid = ?", [value, name, run])
    store.close()


def delete_in_store(run_name):
    store = sqlite3.connect("mlflow.db")
    with store:
        store.execute("update runs set lifecycle_stage = 'deleted' where name = ?", [run_name])
    store.close()


def losses_of(said):
    """The table of losses, up to the next one."""
    return said.partition("Quality")[2].partition("Differences")[0]


def test_a_loss_edited_in_mlflow_disagrees_with_the_journal(tracked):
    change_in_store("val/loss", 1.0, "mqa-1")
    assert "val/loss is" in (said := tracked.says(**TRACKED))
    assert "NOT equal" in said


def test_a_loss_edited_alike_in_journal_and_mlflow_is_not_what_was_sealed(tracked):
    change_in_store("val/loss", 1.0, "mqa-1")
    rewrite_loss(tracked.runs / "mqa-1", 1.0)
    assert "not those that were sealed" in (said := tracked.says(**TRACKED))
    assert "NOT equal" in said


def test_a_bad_run_deleted_here_is_still_shown_from_mlflow(tracked):
    before = tracked.says(**TRACKED)
    shutil.rmtree(tracked.runs / "mqa-3")
    after = tracked.says(**TRACKED)
    assert "missing" not in after
    assert losses_of(after) == losses_of(before)


def test_a_bad_run_deleted_in_mlflow_is_still_shown_from_its_journal(tracked):
    delete_in_store("mqa-3")
    said = tracked.says(**TRACKED)
    assert "missing" not in said
    assert "1 of 3 seeds" not in said


def test_a_hidden_seed_deleted_here_is_named_from_mlflow(tracked):
    run = tracked.train("mqa", 4)
    Delivery(run, resolve_target(TRACKED["tracking_uri"]), print).step()
    shutil.rmtree(run)
    assert "on record and not shown: seed 4" in tracked.says(**TRACKED)


def test_a_plan_whose_file_is_deleted_is_missed(tracked):
    (tracked.runs / "plans/pledge.json").unlink()
    said = tracked.says(**TRACKED)
    assert "refused" in said
    assert "is gone, and MLflow holds the plan as run" in said
    assert "sealed already: MLflow holds its plan" in tracked.says(seal=True, **TRACKED)


def test_a_plan_that_replaces_the_one_in_mlflow_is_refused(tracked):
    (tracked.runs / "plans/pledge.json").unlink()
    assert "sealed after 6 of its runs existed" in tracked.says(seal=True)
    said = tracked.says(**TRACKED)
    assert "refused" in said
    assert "MLflow holds another plan of it" in said


def test_looks_that_are_deleted_here_are_known_to_mlflow(tracked):
    assert "looked at 3 times" in tracked.says(**TRACKED)
    assert "looked at 4 times" in tracked.says(**TRACKED)
    for path in tracked.runs.glob("plans/*.looks.*"):
        path.unlink()
    assert "MLflow knows of 4 looks, the journal of 0" in tracked.says(**TRACKED)
