"""What a comparison holds: rows with audit and statistics, tuned learning rates, speeds measured side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vgpt.bench.result import DECODE, TRAIN, Bench, Case, Measured
from vgpt.bench.statistics import Ratio
from vgpt.compare.audit.conditions import Audit
from vgpt.compare.breakdowns.collect import KindBreakdown
from vgpt.compare.equivalents import Equivalents
from vgpt.compare.metrics import FLOPS, KV_CONTEXT, LOSS, MEMORY, PARAMS, SPEED, stat
from vgpt.compare.request import PlannedRun
from vgpt.compare.rows import Row
from vgpt.compare.sealed import Sealing
from vgpt.compare.snapshot import Snapshot, SnapshotPoint
from vgpt.compare.statistics.differences import RowStatistics, in_family, members
from vgpt.compare.statistics.margin import Margin, margin_of
from vgpt.compare.statistics.sequential import Sequential
from vgpt.compare.steps import Climb
from vgpt.compare.suites.collect import SuiteTask
from vgpt.settings.compare import SortKey
from vgpt.settings.matching import Match
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Metric

TUNED = ("lr", "min_lr")
"""Settings that the choice of a rate sets; what else differs is unequal as ever."""

TUNING_SEEDS = 1000
"""How far the first tuning seed is from the first reported one: as many as can be reported, so that none is both."""


@dataclass(frozen=True)
class Tuned:
    """The rates of one variant.

    Attributes:
        label: the variant with its settings.
        tuning: mean loss of the tuning seeds by rate; infinite where a run diverged; None where runs are missing.
        chosen: the rate with the lowest of them; None while one is missing, or where all diverged.
        at_chosen: mean loss of the reported seeds at that rate.
        at_common: the same at the common rate.
        edge: "lowest" or "highest" where the chosen rate is the grid's; a better one may lie beyond.
        later: the fewest and the most runs that its second stage may take; both 0 once its rate is chosen, since they
            are then among the missing.
    """

    label: str
    tuning: Mapping[float, float | None]
    chosen: float | None
    at_chosen: float | None
    at_common: float | None
    edge: str = ""
    later: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class LearningRateSweep:
    """The grid, lowest rate first, the rate that the others are multiples of, and what came of it.

    Attributes:
        rates: the grid.
        common: the rate in its middle.
        variants: the rates of each.
        rows: those of all rates, of both stages.
        tuning_seeds: the seeds that chose.
    """

    rates: tuple[float, ...]
    common: float
    variants: tuple[Tuned, ...]
    rows: tuple[Row, ...]
    tuning_seeds: tuple[str, ...] = ()

    @property
    def later(self) -> tuple[int, int]:
        """The fewest and the most runs of the second stage that the first has not chosen yet."""
        return sum(one.later[0] for one in self.variants), sum(one.later[1] for one in self.variants)


def grid(lr: float, number: int) -> tuple[float, ...]:
    """Return `number` rates, an odd one, each twice the one before, with `lr` in their middle."""
    return tuple(lr * 2.0**power for power in range(-(number // 2), number // 2 + 1))


FLOPS_PALM = Metric.FLOPS_TRAIN_PER_TOKEN_PALM


@dataclass(frozen=True)
class Speeds:
    """A record, read for the rows of a comparison; `labels` tells which of its variants a row is."""

    bench: Bench
    labels: Mapping[str, str]

    def case(self, phase: str) -> Case | None:
        """Return the case of a phase."""
        return self.bench.case(phase)

    def measured(self, phase: str, row: Row) -> Measured | None:
        """Return a row's figures in a phase."""
        case = self.bench.case(phase)
        return None if case is None else case.of(self.labels[row.label])

    def speedup(self, phase: str, row: Row, baseline: Row) -> Ratio | None:
        """Return how many times as fast a row is as another; None where others disturbed the measuring."""
        case = self.bench.case(phase)
        return None if case is None else case.speedup(self.labels[row.label], self.labels[baseline.label])

    def column(self, name: str, row: Row, baseline: Row) -> float | str | None:
        """Return a row's value of a column of speeds; differences only where an interval supports them."""
        phase = DECODE if name.startswith("decode") else TRAIN
        one, ratio = self.measured(phase, row), self.speedup(phase, row, baseline)
        if one is None:
            return None
        if name.endswith("_delta"):
            if row is baseline:
                return None
            if ratio is None:
                return "disturbed"
            if not ratio.shows:
                return None
            return 1 / ratio.value - 1 if phase == DECODE else ratio.value - 1
        mfu = one.mfu(self.bench.machine)
        figures = {
            "speed": one.tokens_per_second,
            "mfu": mfu,
            "memory": None if one.peak_bytes is None else float(one.peak_bytes),
            "decode": one.spread.median,
        }
        if name == "mfu_palm":
            exact, dense = stat(row, FLOPS), stat(row, FLOPS_PALM)
            return None if exact is None or dense is None else mfu * dense.mean / exact.mean
        return figures[name]

    @property
    def disturbed(self) -> bool:
        """Whether a phase of it bears no claim."""
        return any(case.disturbed for case in self.bench.cases)


_SORTED_BY = {
    "loss": (LOSS, 1),
    "params": (PARAMS, 1),
    "flops": (FLOPS, 1),
    "speed": (SPEED, -1),
    "memory": (MEMORY, 1),
    "kv": (KV_CONTEXT, 1),
}


@dataclass(frozen=True)
class Comparison:
    """What there is to show.

    Attributes:
        rows: the baseline first; may be empty.
        audit: equal and unequal conditions of the rows.
        missing: runs that were wanted and are not there.
        remarks: sentences about what is not in the rows.
        kv_at: tokens of context for the second column of cache sizes.
        statistics: of each row, in the same order.
        force: whether verdicts across unequal conditions were asked for.
        match: by which rule budgets were matched: as asked for, otherwise as the runs record it; None without one.
        snapshot_point: the point at which losses are compared; None at the end of each run.
        snapshots: by label, what each run of the row had at that point.
        unequal_points: label of each row that could not be read there -> why; it has no verdict.
        power: the difference for which the seeds of a new study are wanted, nats; None where that was not asked.
        sweep: the learning rates that each variant was tuned over; None where they were not.
        margin: the largest loss that its user would not mind, as typed; None where none was given.
        sequential: the plan that added its seeds, and the look at hand; None where none did.
        speeds: what was measured of the rows side by side; None where nothing was, and training logs alone tell.
        sealing: how it stands to the sealed plan of its study; None where nobody asked.
        equivalents: what training of the baseline the rows are worth; None where that was not asked.
        climb: the staircase whose stairs the rows are, step by step; None where variants were named one by one.
        breakdowns: by kind, the losses of the rows broken down by their tokens, as far as runs have them on record.
        suites: by task, what came of standard suites, as far as runs have them on record.
    """

    rows: tuple[Row, ...]
    audit: Audit
    missing: tuple[PlannedRun, ...]
    remarks: tuple[str, ...]
    kv_at: int
    statistics: tuple[RowStatistics, ...]
    force: bool
    match: Match | None = None
    snapshot_point: SnapshotPoint | None = None
    snapshots: dict[str, tuple[Snapshot, ...]] = field(default_factory=dict[str, tuple[Snapshot, ...]])
    unequal_points: dict[str, str] = field(default_factory=dict[str, str])
    sweep: "LearningRateSweep | None" = None
    power: float | None = None
    margin: str | None = None
    sequential: Sequential | None = None
    speeds: "Speeds | None" = None
    sealing: Sealing | None = None
    climb: Climb | None = None
    equivalents: Equivalents | None = None
    breakdowns: Mapping[str, KindBreakdown] = field(default_factory=dict[str, KindBreakdown])
    suites: Mapping[str, SuiteTask] = field(default_factory=dict[str, SuiteTask])

    @property
    def known_margin(self) -> Margin | None:
        """The margin in nats; None where none was given, or where it is a share of a loss that is not on record."""
        return margin_of(self.margin, self.baseline_loss)

    @property
    def baseline_loss(self) -> float | None:
        """Mean loss of the baseline's runs, nats per token; None where none is on record."""
        loss = stat(self.rows[0], LOSS) if self.rows else None
        return loss.mean if loss else None

    @property
    def recorded(self) -> list[RunInfo]:
        """All runs that it rests on, those of a sweep's other rates and of the baseline's other budgets among them."""
        own = [run for row in (self.sweep.rows if self.sweep else self.rows) for run in row.runs]
        return [*own, *(self.equivalents.runs if self.equivalents else ())]


def sorted_rows(rows: list[Row], key: SortKey) -> list[Row]:
    """Return rows in an order that was asked for, the first one, the baseline, in its place."""
    if key == "given" or not rows:
        return rows
    metric, sign = _SORTED_BY[key]

    def rank(row: Row) -> tuple[bool, float]:
        value = stat(row, metric)
        return value is None, sign * value.mean if value is not None else 0.0

    return [rows[0], *sorted(rows[1:], key=rank)]


def as_one_family(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons whose intervals and verdicts hold jointly over all their rows."""
    total = sum(members(one.statistics) for one in comparisons)
    return [replace(one, statistics=in_family(one.statistics, total)) for one in comparisons]
