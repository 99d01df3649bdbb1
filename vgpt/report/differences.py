"""Rows against the baseline: the difference of losses, the noise it carries, and what may be said of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

import numpy as np

from vgpt.report.audit import Audit
from vgpt.report.bootstrap import EvaluationNoise, paired_bootstrap
from vgpt.report.grouping import Row, seed_of
from vgpt.report.numbers import LOSS
from vgpt.report.statistics import (
    ALPHA,
    Interval,
    TTest,
    holm,
    mean_interval,
    paired_t,
    seeds_needed,
    sign_flip_p,
    welch_t,
)
from vgpt.tracking.store import RunInfo
from vgpt.tracking.windows import WindowLosses

LEAST_SEEDS = 3
"""With fewer seeds on a side no verdict is given, whatever the p-value: their spread is hardly known."""

BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference shown"
UNEQUAL = "unequal conditions: no verdict"

Windows = Callable[[RunInfo], WindowLosses | None]
Method = Literal["paired", "unpaired", "single"]


@dataclass(frozen=True)
class Difference:
    """The losses of a row minus those of the baseline, nats per token.

    Attributes:
        delta: mean over the pairs of runs with the same seed; where no two seeds are shared, the difference of means.
        method: "paired" by seed; "unpaired", where seeds are not shared; "single", where one run stands alone.
        seeds: how many pairs; unpaired, the runs of the side that has fewer.
        test: t-test of `delta`, Student's within pairs or Welch's; None from a single run.
        p_permutation: by sign flips; None where there are no pairs.
        p_holm: the t-test's p, adjusted for all rows of the comparison.
        seeds_needed: pairs that would show this difference in 4 of 5 cases, not fewer than a verdict takes; None where
            it is not known or is beyond counting.
        noise: evaluation noise of `delta`; None where losses per window are not within reach.
        verdict: what may be said.
    """

    delta: float
    method: Method
    seeds: int
    test: TTest | None = None
    p_permutation: float | None = None
    p_holm: float | None = None
    seeds_needed: int | None = None
    noise: EvaluationNoise | None = None
    verdict: str = ""


@dataclass(frozen=True)
class RowStatistics:
    """What the runs of a row say: their mean with its interval, and their difference to the baseline (None for it)."""

    label: str
    interval: Interval | None
    difference: Difference | None


def row_statistics(
    rows: Sequence[Row],
    audit: Audit,
    *,
    windows: Windows | None = None,
    force: bool = False,
    no_verdict: Mapping[str, str] | None = None,
) -> tuple[RowStatistics, ...]:
    """Return the statistics of every row, the baseline first.

    Args:
        rows: the baseline first.
        audit: of these rows; one whose conditions are not the baseline's gets no verdict.
        windows: finds the losses per window of a run.
        force: give verdicts across unequal conditions too.
        no_verdict: label of each row of which nothing may be said, whatever its conditions -> the words that say so.
    """
    if not rows:
        return ()
    found = [_difference(row, rows[0], windows) for row in rows[1:]]
    adjusted = holm([None if one is None or one.test is None else one.test.p for one in found])
    differences: list[Difference | None] = [None]
    for row, one, p in zip(rows[1:], found, adjusted, strict=True):
        unequal = not force and (row.label in audit.flagged or rows[0].label in audit.flagged)
        verdict = (no_verdict or {}).get(row.label) or (one and _verdict(one, p, unequal=unequal)) or ""
        differences.append(one and replace(one, p_holm=p, verdict=verdict))
    return tuple(
        RowStatistics(row.label, mean_interval([loss for _, loss in _losses(row)]), difference)
        for row, difference in zip(rows, differences, strict=True)
    )


def _difference(row: Row, baseline: Row, windows: Windows | None) -> Difference | None:
    here, there = _losses(row), _losses(baseline)
    if not here or not there:
        return None
    by_seed = {seed_of(run): (run, loss) for run, loss in there}
    pairs = [(one, by_seed[seed]) for one in here if (seed := seed_of(one[0])) in by_seed and seed != "?"]
    if len(pairs) > 1:
        within = [loss - other for (_, loss), (_, other) in pairs]
        found = Difference(
            delta=fmean(within),
            method="paired",
            seeds=len(pairs),
            test=paired_t(within),
            p_permutation=sign_flip_p(within),
            seeds_needed=(needed := seeds_needed(fmean(within), stdev(within))) and max(needed, LEAST_SEEDS),
        )
        here, there = [one for one, _ in pairs], [other for _, other in pairs]
    elif min(len(here), len(there)) > 1:
        test = welch_t([loss for _, loss in here], [loss for _, loss in there])
        found = Difference(_mean(here) - _mean(there), "unpaired", min(len(here), len(there)), test)
    else:
        if pairs:
            here, there = [pairs[0][0]], [pairs[0][1]]
        found = Difference(_mean(here) - _mean(there), "single", 1)
    return replace(found, noise=_noise(here, there, windows))


def _verdict(difference: Difference, p: float | None, *, unequal: bool) -> str:
    """Say who is better, if that may be said at all; losses are better where they are lower."""
    if unequal:
        return UNEQUAL
    if p is None or difference.seeds < LEAST_SEEDS:
        return f"n={difference.seeds}: no verdict"
    if p >= ALPHA:
        return NO_DIFFERENCE
    return BETTER if difference.delta < 0 else WORSE


def _noise(
    here: Sequence[tuple[RunInfo, float]], there: Sequence[tuple[RunInfo, float]], windows: Windows | None
) -> EvaluationNoise | None:
    """Return the noise of the same difference over the windows, if all runs were evaluated on the same ones."""
    if windows is None:
        return None
    sides: list[list[np.ndarray]] = []
    names: set[tuple[str, int]] = set()
    for side in (here, there):
        found = [windows(run) for run, _ in side]
        names |= {(one.windows, len(one.losses)) if one else ("", 0) for one in found}
        sides.append([np.array(one.losses) for one in found if one])
    if len(names) != 1 or ("", 0) in names:
        return None
    return paired_bootstrap(*sides)


def _losses(row: Row) -> list[tuple[RunInfo, float]]:
    """Return the runs that recorded a finite loss, with it."""
    return [(run, loss) for run in row.runs if math.isfinite(loss := run.metrics.get(LOSS, math.nan))]


def _mean(side: Sequence[tuple[RunInfo, float]]) -> float:
    return fmean(loss for _, loss in side)
