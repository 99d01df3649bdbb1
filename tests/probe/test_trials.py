import json
import os

import pytest

from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.data.progress import Silent
from vgpt.probe.logged import is_logged, log_probe
from vgpt.probe.plan import with_records
from vgpt.probe.recipe import Trial
from vgpt.probe.records import OUTCOME_FILE, read_outcome
from vgpt.probe.run import run_trials
from vgpt.probe.train import train_trial
from vgpt.probe.worker import settle
from vgpt.tracking.journal import read_metrics
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.store import read_runs

SHORT = {"lrs": (1e-2,), "seeds": 1, "steps": 4, "test_instances": 16, "validation_instances": 16, "batch_size": 4}


@pytest.fixture
def trial(plan_of):
    plan = plan_of(["linear"], ["parity:length=16,test_lengths=32"], **SHORT)
    return plan.tasks[0].subjects[1].trials[0]


def test_the_same_trial_gives_the_same_numbers_and_its_journal_says_how_it_went(trial, tmp_path):
    settle(tmp_path, trial)
    first = read_outcome(tmp_path, trial)
    points = read_metrics(tmp_path / trial.folder)
    assert [point.step for point in points] == [1, 2, 3, 4]
    assert points[-1].metrics["probe/validation"] == first.validation
    again = train_trial(trial, lambda point: None)
    assert (again.validation, again.test, again.loss) == (first.validation, first.test, first.loss)
    assert len(first.test) == len(trial.recipe.points) == 2


def test_what_is_finished_is_not_trained_again_and_what_was_torn_is(trial, tmp_path):
    settle(tmp_path, trial)
    file = tmp_path / trial.folder / OUTCOME_FILE
    os.utime(file, (1, 1))
    settle(tmp_path, trial)
    assert file.stat().st_mtime == 1
    file.write_text(file.read_text()[:40])
    assert read_outcome(tmp_path, trial) is None
    settle(tmp_path, trial)
    assert read_outcome(tmp_path, trial) is not None


def test_an_outcome_of_another_number_of_points_is_none(trial, tmp_path):
    settle(tmp_path, trial)
    file = tmp_path / trial.folder / OUTCOME_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"test": [0.5]}))
    assert read_outcome(tmp_path, trial) is None


def test_a_trial_survives_its_way_to_a_worker(trial):
    back = Trial.of_table(json.loads(json.dumps(trial.as_table())))
    assert back.digest == trial.digest
    assert back.folder == trial.folder


@pytest.mark.parametrize("change", [{"steps": 5}, {"seed": 7}, {"lrs": (2e-2,)}, {"test_instances": 17}])
def test_other_settings_are_another_trial(plan_of, trial, change):
    other = plan_of(["linear"], ["parity:length=16,test_lengths=32"], **{**SHORT, **change}).tasks[0].subjects[1]
    assert other.trials[0].digest != trial.digest


def test_more_rates_and_seeds_leave_the_trials_there_are(plan_of, trial):
    more = {**SHORT, "lrs": (1e-2, 3e-2), "seeds": 2}
    other = plan_of(["linear"], ["parity:length=16,test_lengths=32"], **more).tasks[0].subjects[1]
    assert trial.digest in {one.digest for one in other.trials}


def test_training_ends_where_validation_is_good_enough(plan_of):
    easy = {**SHORT, "steps": 64, "stop_at": 0.2}
    plan = plan_of(["mha"], ["parity:length=16,test_lengths="], **easy)
    outcome = train_trial(plan.tasks[0].subjects[1].trials[0], lambda point: None)
    assert outcome.steps == 4


def test_a_training_that_diverges_ends_at_once_and_says_so(plan_of, register):
    class Config(MHAConfig):
        pass

    class Broken(GroupedAttention):
        def forward(self, x, cache=None):
            return super().forward(x, cache) * float("nan")

    register(Config, Broken)
    plan = plan_of(["planted"], ["parity:length=16,test_lengths="], **{**SHORT, "steps": 64})
    outcome = train_trial(plan.tasks[0].subjects[1].trials[0], lambda point: None)
    assert outcome.loss is None
    assert outcome.steps == 4


@pytest.mark.slow
def test_a_training_that_cannot_be_made_leaves_the_others(plan_of, register, tmp_path):
    class Config(MHAConfig):
        pass

    register(Config, GroupedAttention)  # in this process only
    plan = plan_of(["planted", "mha"], ["mqar:test_lengths="], **SHORT)
    failures = run_trials(plan.missing, tmp_path, 1, Silent())
    assert [failure.trial.attn for failure in failures] == ["planted"]
    assert "unknown attention 'planted'" in failures[0].reason
    assert [trial.attn for trial in with_records(plan, tmp_path).outcomes] == ["mha"]


def test_a_probe_in_mlflow_is_a_card_with_its_trainings_and_no_run_of_a_comparison(plan_of, tmp_path, empty_store):
    plan = plan_of(["linear"], ["parity:length=16,test_lengths=32"], **SHORT)
    for one in plan.trials:
        settle(tmp_path, one)
    plan = with_records(plan, tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    place = {"experiment": "e", "tracking_uri": uri}
    assert not is_logged(plan, tmp_path, **place)
    parent = log_probe(plan, tmp_path, name="probe linear", files={"probe.json": b"{}"}, **place)
    assert is_logged(plan, tmp_path, **place)
    store = MlflowStore(resolve_target(uri), write=False)
    found = list(store.runs(store.experiment_id("e", create=False), {}))
    (card,) = [run for run in found if run.run_id == parent]
    assert store.download(card.run_id, "probe.json") == b"{}"
    (linear,) = [run for run in found if run.params.get("attn", "").startswith("linear")]
    assert linear.tags["mlflow.parentRunId"] == parent
    outcome = next(outcome for one, outcome in plan.outcomes.items() if one.attn == linear.params["attn"])
    assert store.history(linear.run_id, "probe/test") == list(enumerate(outcome.test))
    assert read_runs(experiment="e", tracking_uri=uri) == []
    log_probe(plan, tmp_path, name="again", files={}, **place)
    assert len(list(store.runs(store.experiment_id("e", create=False), {}))) == len(found) + 1
