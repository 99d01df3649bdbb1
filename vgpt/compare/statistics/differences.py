"""Rows against the baseline: the difference of losses, the noise it carries, and what may be said of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from vgpt.compare.audit.conditions import Audit
from vgpt.compare.metrics import LOSS, LOSS_SE, Method, Pairing, pairing, stat
from vgpt.compare.rows import Row
from vgpt.compare.statistics.evaluation_noise import Clusters, EvaluationNoise, Windows, evaluation_noise, loss_error
from vgpt.compare.statistics.family import Block, Judged, Noise, again, block_of, judge
from vgpt.compare.statistics.margin import Answer, Bounds, Margin, answer, margin_of
from vgpt.compare.statistics.pooled import pooled_variance
from vgpt.compare.statistics.seeds import ALPHA, Interval, TTest, mean_interval, paired_t, sign_flip_p, welch_t
from vgpt.compare.unfinished import lost

LEAST_SEEDS = 3
"""With fewer seeds on a side no verdict is given, whatever the p-value: their spread is hardly known."""

UNEQUAL = "unequal conditions: no verdict"


@dataclass(frozen=True)
class LossDifference:
    """The losses of a row minus those of the baseline, nats per token.

    Attributes:
        delta: mean over the pairs of runs with the same seed; where no two seeds are shared, the difference of means.
        method: "paired" by seed; "unpaired", where seeds are not shared; "single", where one run stands alone.
        seeds: how many pairs; unpaired, the runs of the side that has fewer.
        test: t-test of `delta` by this row's seeds alone, Student's within pairs or Welch's; None from a single run.
        p_permutation: by sign flips; None where there are no pairs.
        noise: evaluation noise of `delta`; None where losses per window are not within reach.
        judged: its place in the family of rows that get a verdict; None where it gets none.
        verdict: what may be said: that of `answer`, or why there is none.
        lost_seeds: whether a side has seeds that gave no loss.
        margin: the margin that was asked for; None for none.
    """

    delta: float
    method: Method
    seeds: int
    test: TTest | None = None
    p_permutation: float | None = None
    noise: EvaluationNoise | None = None
    judged: Judged | None = None
    verdict: str = ""
    lost_seeds: bool = False
    margin: Margin | None = None

    @property
    def half_width(self) -> float | None:
        """Half the width of its 95% interval: joint with the other rows that get a verdict; its own where it has none.

        None where seeds were lost: what the survivors say is not what the variant does.
        """
        if self.judged is not None:
            return self.judged.half_width
        return None if self.test is None or self.lost_seeds else self.test.half_width

    @property
    def bounds(self) -> Bounds | None:
        """Its interval and its one-sided bounds, which stand and fall together."""
        half, source = self.half_width, self.judged or self.test
        if half is None or source is None:
            return None
        bound = source.bound
        return Bounds(self.delta - half, self.delta + half, self.delta - bound, self.delta + bound)

    @property
    def answer(self) -> Answer | None:
        """What the interval shows; None where no verdict is given."""
        bounds = self.bounds if self.judged is not None else None
        return None if bounds is None else answer(bounds, self.margin)


@dataclass(frozen=True)
class RowStatistics:
    """What the runs of a row say.

    Attributes:
        label: of the row.
        interval: the mean of its losses with its interval over seeds; None too where seeds were lost.
        difference: to the baseline; None for it, and where there is no loss.
        loss_se: standard error of one run's loss over text, the mean over the runs.
        clusters: what it is clustered by; None where it is as training recorded it.
        lost: which seeds gave no loss, in words; empty for none.
    """

    label: str
    interval: Interval | None
    difference: LossDifference | None
    loss_se: float | None = None
    clusters: Clusters | None = None
    lost: str = ""


def row_statistics(
    rows: Sequence[Row],
    audit: Audit,
    *,
    windows: Windows | None = None,
    force: bool = False,
    no_verdict: Mapping[str, str] | None = None,
    margin: str | None = None,
) -> tuple[RowStatistics, ...]:
    """Return the statistics of every row, the baseline first.

    Rows that get a verdict are a family: their intervals hold jointly. Rows that get none - under unequal conditions,
    with lost seeds, with too few - stay outside and make nobody's interval wider.

    Args:
        rows: the baseline first.
        audit: of these rows; one whose conditions are not the baseline's gets no verdict.
        windows: finds the losses per window of a run.
        force: give verdicts across unequal conditions too.
        no_verdict: label of each row of which nothing may be said, whatever its conditions -> the words that say so.
        margin: largest loss that its user would not mind, as typed: nats, or a percentage of the baseline's mean loss.
    """
    if not rows:
        return ()
    baseline, gone = rows[0], [lost(row) for row in rows]
    loss = stat(baseline, LOSS)
    known = margin_of(margin, loss.mean if loss else None)
    found: list[LossDifference | None] = [None]
    pairs: list[Pairing | None] = [None]
    for row, missing in zip(rows[1:], gone[1:], strict=True):
        pairs.append(pairing(row, baseline, LOSS))
        unequal = not force and (row.label in audit.flagged or baseline.label in audit.flagged)
        refusal = (no_verdict or {}).get(row.label) or _refusal(missing, gone[0], unequal=unequal)
        one = _difference(pairs[-1], windows, refusal)
        found.append(one and replace(one, lost_seeds=bool(missing or gone[0]), margin=known))
    judged = _judged(found, pairs)
    return tuple(
        RowStatistics(
            row.label, None if missing else mean_interval(_losses(row)), one, *_loss_error(row, windows), missing
        )
        for row, one, missing in zip(rows, judged, gone, strict=True)
    )


def members(statistics: Sequence[RowStatistics]) -> int:
    """Return how many rows get a verdict."""
    return sum(one.difference is not None and one.difference.judged is not None for one in statistics)


def undecided(statistics: Sequence[RowStatistics]) -> tuple[str, ...]:
    """Return the labels of the rows of which it is not shown yet on which side of the margin they are.

    Rows that get no verdict are among them. Without a margin, those whose difference has no sign yet.
    """
    return tuple(
        found.label
        for found in statistics[1:]
        if found.difference is None or found.difference.answer is None or not found.difference.answer.decided
    )


def in_family(statistics: Sequence[RowStatistics], rows: int, alpha: float = ALPHA) -> tuple[RowStatistics, ...]:
    """Return the same statistics where the rows that get a verdict are part of a family of `rows` rows.

    Args:
        statistics: of the rows.
        rows: of the family.
        alpha: level at which the whole family errs: smaller where it is looked at several times.
    """
    return rejudged(
        statistics,
        lambda _, one: None if one.judged is None else again(one.delta, one.judged, rows, alpha),
    )


def rejudged(
    statistics: Sequence[RowStatistics], judge_again: Callable[[str, LossDifference], Judged | None]
) -> tuple[RowStatistics, ...]:
    """Return the same statistics with other places in their family, and the verdicts that follow.

    Args:
        statistics: of the rows.
        judge_again: from label and difference of a row that gets a verdict, its place; None takes the verdict away.
    """
    return tuple(
        replace(found, difference=_with(one, judge_again(found.label, one)))
        if (one := found.difference) is not None and one.judged is not None
        else found
        for found in statistics
    )


def _refusal(missing: str, of_baseline: str, *, unequal: bool) -> str:
    """Return why no verdict may be given whatever the losses are; empty where one may."""
    if missing:
        return f"{missing}: no verdict"
    if of_baseline:
        return f"baseline {of_baseline}: no verdict"
    return UNEQUAL if unequal else ""


def _difference(pairs: Pairing | None, windows: Windows | None, refusal: str) -> LossDifference | None:
    if pairs is None:
        return None
    here, there = ([value for _, value in side] for side in (pairs.here, pairs.there))
    test = {"paired": lambda: paired_t(pairs.within), "unpaired": lambda: welch_t(here, there), "single": lambda: None}
    seeds = 1 if pairs.method == "single" else min(len(here), len(there))
    if not refusal and seeds < LEAST_SEEDS:
        refusal = f"n={seeds}: no verdict"
    return LossDifference(
        delta=pairs.delta,
        method=pairs.method,
        seeds=seeds,
        test=test[pairs.method](),
        p_permutation=sign_flip_p(pairs.within) if pairs.method == "paired" else None,
        noise=_noise(pairs, windows),
        verdict=refusal,
    )


def _judged(found: Sequence[LossDifference | None], pairs: Sequence[Pairing | None]) -> list[LossDifference | None]:
    """Judge the differences that no refusal stands against, as one family."""
    blocks: dict[object, list[int]] = {}
    for number, (one, pair) in enumerate(zip(found, pairs, strict=True)):
        if one is None or pair is None or one.verdict:
            continue
        shared = tuple(run.seed for run, _ in pair.here)
        blocks.setdefault(shared if one.method == "paired" else number, []).append(number)
    total = sum(map(len, blocks.values()))
    result = list(found)
    for numbers in blocks.values():
        own = [(one, pair) for i in numbers if (one := found[i]) is not None and (pair := pairs[i]) is not None]
        noises, block = _block(own)
        for i, (one, _), noise in zip(numbers, own, noises, strict=True):
            result[i] = _with(one, judge(one.delta, noise, block, total))
    return result


def _block(own: Sequence[tuple[LossDifference, Pairing]]) -> tuple[list[Noise], Block]:
    """Return the noise of each of the differences over the same seeds, and the block that they are."""
    if len(own) > 1:
        variances, freedoms = pooled_variance(np.array([pair.within for _, pair in own]))
        parts = list(zip(variances.tolist(), freedoms.tolist(), strict=True))
    else:
        test = own[0][0].test
        assert test is not None  # none gets here with fewer than two runs on a side
        parts = [(test.error**2, test.df)]
    noises = [
        Noise(variance, df, one.noise.beyond_seeds**2, one.noise.df) if one.noise is not None else Noise(variance, df)
        for (one, _), (variance, df) in zip(own, parts, strict=True)
    ]
    return noises, block_of(noises, own[0][0].seeds)


def _with(one: LossDifference, judged: Judged | None) -> LossDifference:
    """Return a difference with its verdict, which is its interval's; with none where it has no place in a family."""
    found = replace(one, judged=judged)
    return replace(found, verdict=told.verdict) if (told := found.answer) is not None else found


def _noise(pairs: Pairing, windows: Windows | None) -> EvaluationNoise | None:
    """Return the noise of the same difference over the windows, if all runs were evaluated on the same ones."""
    if windows is None:
        return None
    sides: list[list[np.ndarray]] = []
    names: set[tuple[str, int]] = set()
    documents: tuple[int, ...] = ()
    for side in (pairs.here, pairs.there):
        found = [windows(run) for run, _ in side]
        names |= {(one.windows, len(one.losses)) if one else ("", 0) for one in found}
        sides.append([np.array(one.losses) for one in found if one])
        documents = next((one.documents for one in found if one and one.documents), documents)
    if len(names) != 1 or ("", 0) in names:
        return None
    return evaluation_noise(sides[0], sides[1], documents, paired=pairs.method == "paired")


def _loss_error(row: Row, windows: Windows | None) -> tuple[float | None, Clusters | None]:
    """Return the standard error of one run's loss over text, by its windows or else as training recorded it."""
    found = [one and loss_error(one) for one in map(windows, row.runs)] if windows is not None else [None]
    known = [one for one in found if one is not None]
    if known and len(known) == len(found):
        return fmean(se for se, _ in known), known[0][1]
    recorded = stat(row, LOSS_SE)
    return (recorded.mean if recorded else None), None


def _losses(row: Row) -> list[float]:
    return [loss for run in row.runs if math.isfinite(loss := run.metrics.get(LOSS, math.nan))]
