"""Which runs of a row are held against which of the baseline: by seed where seeds are shared."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from vgpt.report.grouping import Row, seed_of
from vgpt.tracking.store import RunInfo

Method = Literal["paired", "unpaired", "single"]


@dataclass(frozen=True)
class Pairing:
    """Runs with their values of a metric on two sides; paired, they belong together one by one.

    Attributes:
        method: "paired" by seed; "unpaired", where seeds are not shared; "single", where one run stands alone.
        here: runs of the row.
        there: runs of the baseline.
    """

    method: Method
    here: tuple[tuple[RunInfo, float], ...]
    there: tuple[tuple[RunInfo, float], ...]

    @property
    def delta(self) -> float:
        """The difference of the two sides: paired, its mean within pairs."""
        return fmean(value for _, value in self.here) - fmean(value for _, value in self.there)

    @property
    def within(self) -> list[float]:
        """The differences within pairs."""
        return [value - other for (_, value), (_, other) in zip(self.here, self.there, strict=True)]


def pairing(row: Row, baseline: Row, metric: str) -> Pairing | None:
    """Return which finite values of a metric are compared; None where a side has none."""
    here, there = _values(row, metric), _values(baseline, metric)
    if not here or not there:
        return None
    by_seed = {seed_of(run): (run, value) for run, value in there}
    pairs = [(one, by_seed[seed]) for one in here if (seed := seed_of(one[0])) in by_seed and seed != "?"]
    if len(pairs) > 1:
        return Pairing("paired", tuple(one for one, _ in pairs), tuple(other for _, other in pairs))
    if min(len(here), len(there)) > 1:
        return Pairing("unpaired", tuple(here), tuple(there))
    if pairs:
        return Pairing("single", (pairs[0][0],), (pairs[0][1],))
    return Pairing("single", tuple(here), tuple(there))


def _values(row: Row, metric: str) -> list[tuple[RunInfo, float]]:
    return [(run, value) for run in row.runs if math.isfinite(value := run.metrics.get(metric, math.nan))]
