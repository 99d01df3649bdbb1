"""Speeds of a comparison's variants that were measured side by side, read for its rows."""

from collections.abc import Mapping
from dataclasses import dataclass

from vgpt.bench.result import DECODE, TRAIN, Bench, Case, Measured
from vgpt.bench.statistics import Ratio
from vgpt.compare.metrics import FLOPS, stat
from vgpt.compare.rows import Row
from vgpt.tracking.schema import Metric

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
