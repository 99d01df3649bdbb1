"""Which trainings a probe needs, which of them are on record, and how long the others take."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from vgpt.attention.config import ModelAttention
from vgpt.attention.grammar import display_label, resolve_attention
from vgpt.errors import SettingsError
from vgpt.evaluation.tasks.base import Task
from vgpt.probe.recipe import GRU, Recipe, Trial, trials_of
from vgpt.probe.records import Outcome, on_record
from vgpt.settings.probe import ProbeConfig

_STEP_SECONDS, _TOKEN_SECONDS = 0.0035, 2.1e-6
"""Of a step, and of each of its tokens per layer of width 64, on one core of a processor of 2023: a first guess."""
_USUAL_WIDTH = 64
_USUAL_SHARE = 0.7
"""Of the steps that trainings make before they end early, where nothing is known."""


@dataclass(frozen=True)
class Subject:
    """A variant on a task.

    Attributes:
        label: of the variant; that of a control of another kind is its name.
        trials: its trainings, rate by rate.
        control: whether it is what must learn the task before the failure of others says anything.
        asked: whether it was named; a control that was not is trained all the same.
    """

    label: str
    trials: tuple[Trial, ...]
    control: bool
    asked: bool


@dataclass(frozen=True)
class TaskPlan:
    """A task with everything that is trained on it."""

    task: Task
    recipe: Recipe
    subjects: tuple[Subject, ...]


@dataclass(frozen=True)
class ProbePlan:
    """All of a probe: its tasks in the order asked for, and the outcomes on record by training."""

    tasks: tuple[TaskPlan, ...]
    outcomes: Mapping[Trial, Outcome]

    @property
    def trials(self) -> list[Trial]:
        """Every training once."""
        return list(dict.fromkeys(trial for subject in self._subjects() for trial in subject.trials))

    @property
    def missing(self) -> list[Trial]:
        """What is not on record, the controls first: where one fails, a person may want to stop."""
        ordered = sorted(self._subjects(), key=lambda subject: not subject.control)
        trials = dict.fromkeys(trial for subject in ordered for trial in subject.trials)
        return [trial for trial in trials if trial not in self.outcomes]

    def seconds(self, jobs: int) -> float:
        """Return about how long the missing trainings take: by those on record of the same task, else by a guess."""
        known: dict[str, list[float]] = {}
        for trial, outcome in self.outcomes.items():
            known.setdefault(trial.recipe.task, []).append(outcome.seconds)
        return sum(_expected(trial, known.get(trial.recipe.task, [])) for trial in self.missing) / jobs

    def _subjects(self) -> Iterator[Subject]:
        for task in self.tasks:
            yield from task.subjects


def make_plan(tasks: Sequence[Task], configs: Mapping[str, ProbeConfig]) -> ProbePlan:
    """Return the plan of some variants on some tasks.

    Args:
        tasks: in the order of the card.
        configs: the settings of each variant by its label; they differ in nothing but the variant.

    Raises:
        SettingsError: variants that do not fit the models of a task; all faults at once.
    """
    config = next(iter(configs.values()))
    variants = {label: one.attn for label, one in configs.items()}
    seeds = range(config.probe.seed, config.probe.seed + config.probe.seeds)
    planned: list[TaskPlan] = []
    faults: list[str] = []
    for task in tasks:
        recipe = Recipe.of(task, config)
        try:
            planned.append(TaskPlan(task, recipe, tuple(_subjects(task, recipe, variants, seeds))))
        except SettingsError as error:
            faults += error.faults
    if faults:
        raise SettingsError(faults)
    plan = ProbePlan(tuple(planned), {})
    return ProbePlan(plan.tasks, on_record(config.run.probe_dir, plan.trials))


def with_records(plan: ProbePlan, directory: Path) -> ProbePlan:
    """Return the plan with what is on record now."""
    return ProbePlan(plan.tasks, on_record(directory, plan.trials))


def _subjects(task: Task, recipe: Recipe, variants: Mapping[str, ModelAttention], seeds: range) -> Iterator[Subject]:
    """Yield the control, where it was not named, and every variant."""
    own = task.control.attn
    control = None if own == GRU else resolve_attention(own)
    if control is None or control not in variants.values():
        label = GRU if control is None else display_label(control)
        yield Subject(label, tuple(trials_of(recipe, control, seeds)), control=True, asked=False)
    faults: list[str] = []
    for label, attn in variants.items():
        try:
            yield Subject(label, tuple(trials_of(recipe, attn, seeds)), control=attn == control, asked=True)
        except SettingsError as error:
            faults += error.faults
    if faults:
        raise SettingsError(faults)


def _expected(trial: Trial, known: Sequence[float]) -> float:
    if known:
        return median(known)
    recipe = trial.recipe
    tokens = recipe.batch_size * recipe.made.length * recipe.n_layer * (recipe.n_embd / _USUAL_WIDTH)
    return _USUAL_SHARE * recipe.steps * (_STEP_SECONDS + tokens * _TOKEN_SECONDS)
