"""What a comparison is: its rows, their audit, what is missing, and what else is to be said."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vgpt.compare.audit import Audit
from vgpt.compare.bench_speeds import Speeds
from vgpt.compare.differences import RowStatistics, in_family, members
from vgpt.compare.learning_rates import LearningRateSweep
from vgpt.compare.metrics import FLOPS, KV_CONTEXT, LOSS, MEMORY, PARAMS, SPEED, stat
from vgpt.compare.request import PlannedRun
from vgpt.compare.rows import Row
from vgpt.compare.snapshot import Snapshot, SnapshotPoint
from vgpt.settings.compare import SortKey
from vgpt.settings.matching import Match
from vgpt.tracking.run_info import RunInfo

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
        speeds: what was measured of the rows side by side; None where nothing was, and training logs alone tell.
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
    speeds: "Speeds | None" = None

    @property
    def recorded(self) -> list[RunInfo]:
        """All runs that it rests on, those of a sweep's other rates among them."""
        return [run for row in (self.sweep.rows if self.sweep else self.rows) for run in row.runs]


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
