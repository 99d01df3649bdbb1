"""The breakdowns of all runs of a comparison: means over seeds, differences to the baseline, and what is not there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from vgpt.compare.breakdowns.differences import GapShare, PartDifference, Side, difference, gap_share
from vgpt.compare.rows import Row
from vgpt.tracking.breakdowns.record import KINDS, LENGTHS, REACH, RECALL, REPEATED, Breakdown, Part, pooled
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Metric

Reader = Callable[[RunInfo], Mapping[str, Breakdown]]
BEYOND = "beyond"


@dataclass(frozen=True)
class RowPart:
    """A part of a row's losses.

    Attributes:
        name: of the part.
        at: its place on the axis.
        loss: mean over the runs, nats per token.
        lowest: lowest of the runs.
        highest: highest of them.
        loss_se: standard error of one run's loss over windows, the mean over the runs; NaN from one window.
        share: of all tokens.
        difference: to the baseline; None for it.
    """

    name: str
    at: int
    loss: float
    lowest: float
    highest: float
    loss_se: float
    share: float
    difference: PartDifference | None = None


@dataclass(frozen=True)
class RowBreakdown:
    """One way of breaking down the losses of a row.

    Attributes:
        label: of the row.
        runs: of how many of its runs it is known, on these windows.
        parts: in order; empty where it is known of none.
        gap: which share of the row's difference to the baseline the repeated bigrams hold; of recall alone.
        missing: names of the runs that it is not recorded of, or on other windows.
        earlier: names of the runs whose best checkpoint, which it is of, is not their last step, which losses are of.
        bits_per_byte: mean over the runs; NaN where bytes were not counted.
    """

    label: str
    runs: int
    parts: tuple[RowPart, ...] = ()
    gap: GapShare | None = None
    missing: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    bits_per_byte: float = float("nan")

    def part(self, name: str) -> RowPart | None:
        """Return a part by its name."""
        return next((part for part in self.parts if part.name == name), None)


@dataclass(frozen=True)
class KindBreakdown:
    """One way of breaking down the losses of all rows, on the same windows.

    Attributes:
        kind: see `vgpt.tracking.breakdowns.record`.
        windows: number, length and hash of the windows.
        text: what they are of.
        block_size: tokens that the models were trained on at once; 0 where rows differ.
        dtypes: precisions that it was computed in; several where rows differ.
        rows: by label, in the order of the comparison.
    """

    kind: str
    windows: str
    text: str
    block_size: int
    dtypes: tuple[str, ...] = ()
    rows: Mapping[str, RowBreakdown] = field(default_factory=dict[str, RowBreakdown])


def collect(rows: Sequence[Row], read: Reader) -> dict[str, KindBreakdown]:
    """Return the breakdowns of rows by kind; kinds that no run has are left out.

    Runs are held against each other on the windows of the baseline; where it has none, on those that most runs have.
    """
    found: dict[str, KindBreakdown] = {}
    for kind in KINDS:
        known = {row.label: [(run, one) for run in row.runs if (one := read(run).get(kind))] for row in rows}
        every = [one for pairs in known.values() for _, one in pairs]
        if every:
            found[kind] = _of_kind(kind, rows, known, every)
    return found


def _of_kind(
    kind: str, rows: Sequence[Row], known: Mapping[str, list[tuple[RunInfo, Breakdown]]], every: Sequence[Breakdown]
) -> KindBreakdown:
    first = [one.windows for _, one in known[rows[0].label]] or [one.windows for one in every]
    windows = max(first, key=first.count)
    same = {label: [(run, one) for run, one in pairs if one.windows == windows] for label, pairs in known.items()}
    there = same[rows[0].label]
    made = {
        row.label: _row(row, same[row.label], [] if row is rows[0] else there, baseline=row is rows[0]) for row in rows
    }
    of_these = [one for pairs in same.values() for _, one in pairs]
    sizes = {one.block_size for one in of_these}
    dtypes = tuple(sorted({one.dtype for one in of_these}))
    return KindBreakdown(kind, windows, of_these[0].text, sizes.pop() if len(sizes) == 1 else 0, dtypes, made)


def missing_of(row: Row, known: Sequence[tuple[RunInfo, object]]) -> tuple[str, ...]:
    """Return the names of a row's runs of which something is not known."""
    names = {run.run_name for run, _ in known}
    return tuple(run.run_name for run in row.runs if run.run_name not in names)


def earlier_than_the_last_step(evaluated: Iterable[tuple[RunInfo, int]]) -> tuple[str, ...]:
    """Return the names of runs whose evaluated checkpoint, at the given step, is not that of their last step."""
    return tuple(run.run_name for run, step in evaluated if step < run.metrics.get(Metric.TRAIN_STEPS, 0))


def _row(
    row: Row, here: list[tuple[RunInfo, Breakdown]], there: list[tuple[RunInfo, Breakdown]], *, baseline: bool
) -> RowBreakdown:
    missing = missing_of(row, here)
    if not here:
        return RowBreakdown(row.label, 0, missing=missing)
    names = [part.name for part in _parts(here[0][1]) if all(_part(one, part.name) for _, one in here)]
    documents = next((one.documents for _, one in (*here, *there) if one.documents), ())
    parts = [_row_part(name, here, there, documents) for name in names]
    gap = None
    if here[0][1].kind == RECALL and there and not baseline:
        sides = (_side(here, REPEATED), _side(there, REPEATED))
        gap = gap_share(sides, (_whole(here), _whole(there)), documents)
    return RowBreakdown(
        label=row.label,
        runs=len(here),
        parts=tuple(part for part in parts if part),
        gap=gap,
        missing=missing,
        earlier=earlier_than_the_last_step((run, one.step) for run, one in here),
        bits_per_byte=fmean(one.bits_per_byte for _, one in here),
    )


def _row_part(
    name: str,
    here: list[tuple[RunInfo, Breakdown]],
    there: list[tuple[RunInfo, Breakdown]],
    documents: Sequence[int],
) -> RowPart | None:
    side, breakdown = _side(here, name), here[0][1]
    losses = [part.loss for _, part in side]
    first = side[0][1]
    if not first.tokens:
        return None
    # Every length is evaluated on the same tokens.
    share = 1.0 if breakdown.kind == LENGTHS else first.tokens / breakdown.tokens
    return RowPart(
        name=name,
        at=first.at,
        loss=fmean(losses),
        lowest=min(losses),
        highest=max(losses),
        loss_se=fmean(part.loss_se for _, part in side),
        share=share,
        difference=difference(side, _side(there, name), documents) if there else None,
    )


def _parts(one: Breakdown) -> tuple[Part, ...]:
    """Return the parts of a breakdown; of long windows also all that is beyond the training length, as one."""
    beyond = one.beyond if one.kind == REACH else None
    return one.parts if beyond is None else (*one.parts, beyond)


def _part(one: Breakdown, name: str) -> Part | None:
    return one.beyond if name == BEYOND else one.part(name)


def _side(known: Sequence[tuple[RunInfo, Breakdown]], name: str) -> Side:
    return [(run.seed, part) for run, one in known if (part := _part(one, name)) is not None]


def _whole(known: Sequence[tuple[RunInfo, Breakdown]]) -> Side:
    return [(run.seed, pooled("", one.parts)) for run, one in known]
