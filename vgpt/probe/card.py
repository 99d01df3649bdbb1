"""The card: for each variant and task the rate that validation chose, and its accuracy on the test, seed by seed.

A rate is chosen by the mean accuracy of its seeds on the validation instances; the test is looked at once, at that
rate. Where the control does not learn the task at its best rate, the failure of others says nothing: their training
may have failed, and not their attention. Such a task is inconclusive, and only what passes it counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from vgpt.probe.plan import ProbePlan, Subject, TaskPlan
from vgpt.probe.recipe import Recipe, Trial
from vgpt.probe.records import Outcome

PASSES, FAILS, INCONCLUSIVE, MISSING = "passes", "below", "inconclusive", "missing"
"""What a row says: its accuracy at the training settings is what the control must reach; it is not; it is not, and
that says nothing; trainings are missing."""


@dataclass(frozen=True)
class Spread:
    """Accuracies of the seeds at one point of the test; `state_bytes` is what the mixers keep there."""

    seeds: tuple[float, ...]
    state_bytes: int

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.seeds)

    @property
    def low(self) -> float:
        """The lowest seed."""
        return min(self.seeds)

    @property
    def high(self) -> float:
        """The highest seed."""
        return max(self.seeds)


@dataclass(frozen=True)
class CardRow:
    """A variant on a task.

    Attributes:
        label: of the variant.
        attn: it with all its settings.
        control: whether it is the task's control.
        asked: whether it was named.
        lr: the rate that validation chose; None where trainings are missing.
        validation: mean accuracy at each rate.
        points: accuracies at each point of the test, the training settings first; empty where trainings are missing.
        verdict: one of the words above.
        steps: mean of the steps taken at the chosen rate.
    """

    label: str
    attn: str
    control: bool
    asked: bool
    lr: float | None
    validation: Mapping[float, float]
    points: tuple[Spread, ...]
    verdict: str
    steps: float | None


@dataclass(frozen=True)
class TaskCard:
    """A task.

    Attributes:
        task: it with those of its settings that are not its defaults.
        summary, source: what it asks, and where it is from.
        chance: accuracy of guessing.
        recipe: what all trainings shared.
        seeds: of each variant at each rate.
        points: names of the places of the test, the training settings first.
        lengths: tokens there.
        needed: accuracy that the control must reach on validation.
        control: accuracy that it reached at its chosen rate, mean over seeds; None where trainings are missing.
        control_label: what the control is.
        rows: the variants in the order asked for; a control that was not asked for comes first.
    """

    task: str
    summary: str
    source: str
    chance: float
    recipe: Recipe
    seeds: int
    points: tuple[str, ...]
    lengths: tuple[int, ...]
    needed: float
    control: float | None
    control_label: str
    rows: tuple[CardRow, ...]

    @property
    def conclusive(self) -> bool:
        """Whether the control has learned the task."""
        return self.control is not None and self.control >= self.needed

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        table = asdict(self)
        table["recipe"] = {**asdict(self.recipe), "options": dict(self.recipe.options)}
        table["conclusive"] = self.conclusive
        for row, written in zip(self.rows, table["rows"], strict=True):
            written["validation"] = [{"lr": lr, "accuracy": value} for lr, value in row.validation.items()]
            for point, line in zip(row.points, written["points"], strict=True):
                line["mean"] = point.mean
        return table


@dataclass(frozen=True)
class Card:
    """All tasks, with where and when; `facts` are for people: versions, processor."""

    tasks: tuple[TaskCard, ...]
    facts: Mapping[str, str]
    made: float

    @property
    def labels(self) -> list[str]:
        """The variants of all tasks, once each: those that were asked for first."""
        rows = [row for task in self.tasks for row in task.rows]
        return list(dict.fromkeys(row.label for row in sorted(rows, key=lambda row: not row.asked)))

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "format": 1,
            "made": self.made,
            "facts": dict(self.facts),
            "tasks": [task.as_json() for task in self.tasks],
        }


def make_card(plan: ProbePlan, *, facts: Mapping[str, str], made: float) -> Card:
    """Return the card of what is on record; rows whose trainings are missing say so."""
    return Card(tuple(_task(one, plan.outcomes) for one in plan.tasks), facts, made)


def _task(plan: TaskPlan, outcomes: Mapping[Trial, Outcome]) -> TaskCard:
    task, recipe = plan.task, plan.recipe
    points = recipe.points
    lengths = tuple(point.task.length for point in points)
    needed = task.control.accuracy
    drafts = [_row(subject, recipe, lengths, outcomes) for subject in plan.subjects]
    control = next(row for row in drafts if row.control)
    reached = None if control.lr is None else control.validation[control.lr]
    conclusive = reached is not None and reached >= needed
    rows = tuple(_judged(row, needed, conclusive=conclusive) for row in drafts)
    seeds = len(plan.subjects[0].trials) // len(recipe.lrs)
    return TaskCard(
        recipe.task,
        task.summary,
        task.source,
        task.chance(),
        recipe,
        seeds,
        tuple(point.label for point in points),
        lengths,
        needed,
        reached,
        control.label,
        rows,
    )


def _row(subject: Subject, recipe: Recipe, lengths: Sequence[int], outcomes: Mapping[Trial, Outcome]) -> CardRow:
    """Return a variant's row, before anybody knows whether the control has passed."""
    attn = subject.trials[0].attn
    row = CardRow(subject.label, attn, subject.control, subject.asked, None, {}, (), MISSING, None)
    if any(trial not in outcomes for trial in subject.trials):
        return row
    by_rate: dict[float, list[Outcome]] = {}
    for trial in subject.trials:
        by_rate.setdefault(trial.lr, []).append(outcomes[trial])
    validation = {lr: fmean(one.validation for one in found) for lr, found in by_rate.items()}
    chosen = max(validation, key=lambda lr: (validation[lr], -lr))
    best = by_rate[chosen]
    points = tuple(
        Spread(tuple(one.test[at] for one in best), recipe.state_bytes(attn, length))
        for at, length in enumerate(lengths)
    )
    steps = fmean(one.steps for one in best)
    return CardRow(row.label, attn, row.control, row.asked, chosen, validation, points, FAILS, steps)


def _judged(row: CardRow, needed: float, *, conclusive: bool) -> CardRow:
    if row.verdict == MISSING:
        return row
    below = FAILS if conclusive else INCONCLUSIVE
    verdict = PASSES if row.points[0].mean >= needed else below
    return CardRow(**{**vars(row), "verdict": verdict})
