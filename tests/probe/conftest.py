from dataclasses import replace

import pytest

from vgpt.attention.grammar import display_label, resolve_attention
from vgpt.evaluation.tasks.registry import resolve_task
from vgpt.probe.plan import ProbePlan, make_plan
from vgpt.probe.records import Outcome
from vgpt.settings.probe import ProbeConfig


@pytest.fixture
def plan_of(tmp_path):
    """Return the plan of variants on tasks, in a directory of its own."""

    def make(variants, tasks, *, model=None, **probe):
        configs = {}
        for text in variants:
            attn = resolve_attention(text)
            settings = {"model": {**(model or {}), "attn": text}, "probe": probe, "run": {"probe_dir": tmp_path}}
            configs[display_label(attn)] = ProbeConfig.model_validate(settings)
        return make_plan([resolve_task(text) for text in tasks], configs)

    return make


@pytest.fixture
def with_outcomes():
    """Return a plan with made-up outcomes: (label, rate) -> per seed (validation, accuracy at every point)."""

    def fill(plan, found):
        outcomes = {}
        for task in plan.tasks:
            for subject in task.subjects:
                for trial in subject.trials:
                    if (seeds := found.get((subject.label, trial.lr))) is None:
                        continue
                    validation, accuracy = seeds[trial.seed]
                    test = (accuracy,) * len(trial.recipe.points)
                    outcomes[trial] = Outcome(validation, test, 100, 0.1, 2.0, 1_000_000)
        return replace(plan, outcomes=outcomes) if isinstance(plan, ProbePlan) else None

    return fill
