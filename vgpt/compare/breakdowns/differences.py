"""A part of two rows' losses held against each other: window by window, and by seed where seeds are shared.

Both sides were evaluated on the same windows, whose parts hold the same tokens. The noise of their difference has two
sources, as that of the whole loss: the seeds, and the text. From one run on a side only the latter is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from vgpt.compare.metrics import Method
from vgpt.compare.statistics.evaluation_noise import Clusters, EvaluationNoise, evaluation_noise
from vgpt.compare.statistics.family import Noise
from vgpt.compare.statistics.seeds import ALPHA, paired_t, welch_t
from vgpt.tracking.breakdowns.record import Part

Over = Literal["seeds and windows", "windows"]
Side = Sequence[tuple[str, Part]]
"""A part of each run, with the run's seed."""


@dataclass(frozen=True)
class PartDifference:
    """A part's loss in a row minus that in the baseline, nats per token.

    Attributes:
        delta: mean over the pairs of runs with the same seed; where no two seeds are shared, the difference of means.
        half_width: half its 95% interval, of this number alone; None where no noise is known.
        over: what the interval is over.
        method: how runs belong together, as in `vgpt.compare.metrics.Pairing`.
        runs: pairs of runs; unpaired, the runs of the side that has fewer.
        eval_se: standard error over the windows alone; None from one window.
        clusters: what windows are taken together by.
    """

    delta: float
    half_width: float | None
    over: Over
    method: Method
    runs: int
    eval_se: float | None
    clusters: Clusters | None

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half_width is None else self.delta - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of it."""
        return None if self.half_width is None else self.delta + self.half_width

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.half_width is not None and abs(self.delta) > self.half_width


@dataclass(frozen=True)
class Paired:
    """The runs of two sides that are compared, and how they belong together."""

    method: Method
    here: tuple[Part, ...]
    there: tuple[Part, ...]


def pair(here: Side, there: Side) -> Paired | None:
    """Return which runs are compared, by the rule of `vgpt.compare.metrics.pairing`; None where a side has none."""
    if not here or not there:
        return None
    by_seed = dict(there)
    pairs = [(part, by_seed[seed]) for seed, part in here if seed in by_seed and seed != "?"]
    if len(pairs) > 1:
        return Paired("paired", tuple(one for one, _ in pairs), tuple(other for _, other in pairs))
    if min(len(here), len(there)) > 1:
        return Paired("unpaired", tuple(part for _, part in here), tuple(part for _, part in there))
    if pairs:
        return Paired("single", (pairs[0][0],), (pairs[0][1],))
    return Paired("single", tuple(part for _, part in here), tuple(part for _, part in there))


def difference(here: Side, there: Side, documents: Sequence[int] = ()) -> PartDifference | None:
    """Return the difference of a part; None where a side has no run, or the part no token.

    Args:
        here: the part in the runs of the row, all on the same windows.
        there: the same of the baseline.
        documents: the document of each window; empty where that is not known.
    """
    found = pair(here, there)
    if found is None or not all(part.tokens for part in (*found.here, *found.there)):
        return None
    losses, baseline = [part.loss for part in found.here], [part.loss for part in found.there]
    noise = noise_of(
        [part.influence for part in found.here], [part.influence for part in found.there], documents, found
    )
    test = None
    if found.method == "paired":
        test = paired_t([one - other for one, other in zip(losses, baseline, strict=True)])
    elif found.method == "unpaired":
        test = welch_t(losses, baseline)
    half = noise.high - noise.delta if noise else None
    if test is not None:
        beyond = (noise.beyond_seeds**2, noise.df) if noise else (0.0, 1.0)
        half = Noise(test.error**2, test.df, *beyond).half_width(ALPHA)
    return PartDifference(
        delta=fmean(losses) - fmean(baseline),
        half_width=half,
        over="windows" if test is None else "seeds and windows",
        method=found.method,
        runs=1 if found.method == "single" else min(len(losses), len(baseline)),
        eval_se=noise.se if noise else None,
        clusters=noise.kind if noise else None,
    )


def noise_of(
    here: Sequence[np.ndarray], there: Sequence[np.ndarray], documents: Sequence[int], found: Paired
) -> EvaluationNoise | None:
    """Return the noise over windows of the difference of two means over runs of values per window."""
    return evaluation_noise(here, there, documents, paired=found.method == "paired")


@dataclass(frozen=True)
class GapShare:
    """Which share of the whole difference of two rows a part of the tokens holds.

    Attributes:
        share: of the difference, 1 for all of it; above 1 where the other tokens go the other way.
        half_width: half its 95% interval over windows; None from one window.
    """

    share: float
    half_width: float | None


def gap_share(part: tuple[Side, Side], whole: tuple[Side, Side], documents: Sequence[int] = ()) -> GapShare | None:
    """Return the share of a part in the whole difference; None where that difference is not shown to be one.

    The share of a gap that may be zero is no number. Its noise is that of a ratio, linearized over the windows.

    Args:
        part: the part in the runs of the row, and of the baseline.
        whole: all tokens of the same runs.
        documents: the document of each window.

    Source: Cochran 1977, "Sampling Techniques", section 2.11.
    """
    gap, parts, all_tokens = difference(*whole, documents), pair(*part), pair(*whole)
    if gap is None or not gap.shown or parts is None or all_tokens is None:
        return None
    amount = _mean_nats(parts.here, all_tokens.here) - _mean_nats(parts.there, all_tokens.there)
    share = float(amount.mean() / gap.delta)

    def values(side: tuple[Part, ...], totals: tuple[Part, ...]) -> list[np.ndarray]:
        pairs = zip(side, totals, strict=True)
        return [(_nats(one, total) - share * total.influence) / gap.delta for one, total in pairs]

    noise = noise_of(values(parts.here, all_tokens.here), values(parts.there, all_tokens.there), documents, all_tokens)
    return GapShare(share, noise.high - noise.delta if noise else None)


def _nats(part: Part, whole: Part) -> np.ndarray:
    """Return what a part's tokens add to the mean loss of all tokens, as values per window whose mean it is."""
    return part.losses * part.counts * len(part.counts) / whole.tokens


def _mean_nats(parts: Sequence[Part], totals: Sequence[Part]) -> np.ndarray:
    return np.mean([_nats(part, total) for part, total in zip(parts, totals, strict=True)], axis=0)
