"""What a comparison has before it: for each variant the runs that exist, those that are missing, and the time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vgpt.compare.comparison import Comparison
from vgpt.compare.request import PlannedRun
from vgpt.formatting import counted, format_time, wrapping_label
from vgpt.study.estimate import ThroughputEstimate, steps_done, told, total
from vgpt.tracking.run_info import RunInfo

_ELSEWHERE = " at other budgets"


@dataclass(frozen=True)
class Item:
    """The runs of one variant.

    Attributes:
        label: the variant with its settings.
        name: the same in short.
        there: finished runs on record.
        missing: runs to train.
        begun: those of them that were begun, and go on where they were left.
        seconds: how long the missing runs should take; None where that is unknown.
    """

    label: str
    name: str
    there: int
    missing: int
    begun: int
    seconds: float | None


@dataclass(frozen=True)
class LooksAhead:
    """Where a plan that adds seeds stands.

    Attributes:
        seeds: per row at the look at hand.
        look: which it is, the first being 1.
        looks: how many there are at most.
        max_seeds: per row at the last.
        missing: runs that are missing up to the last look: the most that will be trained.
        seconds: how long those should take; None where that is unknown.
        undecided: rows or requirements that are not decided at the look at hand; nothing before its runs are there.
    """

    seeds: int
    look: int
    looks: int
    max_seeds: int
    missing: int
    seconds: float | None
    undecided: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Say it in one line."""
        where = f"look {self.look} of at most {self.looks}, at {self.seeds} seeds"
        if self.missing:
            ahead = f"at most {self.missing} runs up to {self.max_seeds} seeds, time: {format_time(self.seconds)}"
            return f"{where}, may decide; {ahead}"
        return f"{where}: not decided: {', '.join(self.undecided)}" if self.undecided else f"{where}: all is decided"


@dataclass(frozen=True)
class Plan:
    """The whole plan; `missing` holds the runs in the order in which they are trained, each once.

    `expected` are the seconds that each of them should take, None where that is unknown;
    `later` are the fewest and the most runs of a second stage: which they are depends on what these come to; `looks`,
    where seeds are added until all is decided, how far that may go.
    """

    items: tuple[Item, ...]
    missing: tuple[PlannedRun, ...]
    expected: tuple[float | None, ...]
    later: tuple[int, int] = (0, 0)
    looks: "LooksAhead | None" = None

    @property
    def seconds(self) -> float | None:
        """How long all that is missing should take; None where that of any run is unknown."""
        return total(self.expected)

    @property
    def there(self) -> int:
        """Finished runs on record."""
        return sum(item.there for item in self.items)

    def sentence(self) -> str:
        """Return the plan in one line."""
        return f"{self._now()}{self._then()}{f'; {self.looks.sentence}' if self.looks else ''}"

    def _now(self) -> str:
        if not self.missing:
            there = "the run exists" if self.there == 1 else f"all {self.there} runs exist"
            return f"plan: {there}; nothing to train"
        begun = sum(item.begun for item in self.items)
        half = f", {begun} of them begun" if begun else ""
        there = f"{counted(self.there, 'run')} exist{'s' * (self.there == 1)}"
        missing = f"{len(self.missing)} {'is' if len(self.missing) == 1 else 'are'} missing"
        return f"plan: {there}, {missing}{half}; time: {told(self.expected)}"

    def _then(self) -> str:
        if not self.later[1]:
            return ""
        least, most = self.later
        number = f"{least}" if least == most else f"{least} to {most}"
        return (
            f". These choose the learning rates; a second stage of {number} runs at the chosen and the common rate, "
            f"with other seeds, is what is reported"
        )


def make_plan(comparisons: Sequence[Comparison], throughput: ThroughputEstimate) -> Plan:
    """Return the plan of one comparison, or of several that may share runs."""
    there: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    elsewhere = set[str]()
    for comparison in comparisons:
        for row in comparison.sweep.rows if comparison.sweep else comparison.rows:
            names[row.label] = row.title
            there.setdefault(row.label, set()).update(map(_identity, row.runs))
        if comparison.equivalents is not None:
            for run in comparison.equivalents.runs:
                there.setdefault(f"{run.attention_label}{_ELSEWHERE}", set()).add(_identity(run))
            elsewhere |= {planned.config.settings_hash for planned in comparison.equivalents.missing}
    missing = distinct(planned for comparison in comparisons for planned in comparison.missing)
    expected = tuple(map(throughput.seconds, missing))
    items: list[Item] = []
    by_label: dict[str, list[tuple[PlannedRun, float | None]]] = {label: [] for label in there}
    for planned, seconds in zip(missing, expected, strict=True):
        label = f"{planned.label}{_ELSEWHERE * (planned.config.settings_hash in elsewhere)}"
        by_label.setdefault(label, []).append((planned, seconds))
    for label, own in by_label.items():
        begun = sum(steps_done(planned) > 0 for planned, _ in own)
        name = names.get(label) or _name(label, [planned for planned, _ in own])
        time = total(seconds for _, seconds in own)
        items.append(Item(label, name, len(there.get(label, ())), len(own), begun, time))
    stages = [one.sweep.later for one in comparisons if one.sweep]
    later = (sum(least for least, _ in stages), sum(most for _, most in stages))
    return Plan(tuple(items), missing, expected, later)


def _identity(run: RunInfo) -> str:
    return run.id or run.run_id or run.run_name


def _name(label: str, missing: Sequence[PlannedRun]) -> str:
    """Return the name of a variant without a row."""
    if not missing:
        return wrapping_label(label)
    after = _ELSEWHERE if label.endswith(_ELSEWHERE) else ""
    return f"{wrapping_label(missing[0].title)}{after}"


def distinct(missing: Iterable[PlannedRun]) -> tuple[PlannedRun, ...]:
    """Return runs without those that would learn the same as one before them."""
    kept: dict[str, PlannedRun] = {}
    for planned in missing:
        kept.setdefault(planned.config.settings_hash, planned)
    return tuple(kept.values())
