"""A comparison at several sizes: what its differences do from rung to rung, and what they let one expect of the next.

Compute is 6 N D: N the non-embedding parameters of the rung's backbone with multi-head attention, D the training
tokens. It is known before anything is trained, and the same for all variants of a rung.

Source of 6 N D: Kaplan et al. 2020, "Scaling laws for neural language models", arXiv 2001.08361, section 2.1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from vgpt.compare.statistics.differences import LossDifference
from vgpt.compare.statistics.rank_agreement import Agreement
from vgpt.compare.statistics.trend import Point, Trend, fit_trend, point_of
from vgpt.files.digests import json_digest
from vgpt.model.config import GPT2Config
from vgpt.model.costs import count_parameters
from vgpt.settings.model import ModelSettings

FLOPS_PER_PARAMETER = 6
"""Of one training token: two in the forward pass and four in the backward pass."""


@dataclass(frozen=True)
class Rung:
    """One size of a ladder.

    Attributes:
        name: from its file.
        parameters: N, non-embedding ones of its backbone with multi-head attention.
        tokens: D, of each run.
        settings: what sets it apart from the other rungs, by flat name.
        variants: the words of each variant at this rung, with the settings that scale: `mla:kv_lora_rank=64`.
        conditions: digest of everything that its runs have in common.
    """

    name: str
    parameters: int
    tokens: int
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    variants: tuple[str, ...] = ()
    conditions: str = ""

    @property
    def compute(self) -> float:
        """Training FLOPs, 6 N D."""
        return FLOPS_PER_PARAMETER * float(self.parameters) * self.tokens

    @property
    def x(self) -> float:
        """Decades of compute: its logarithm to base 10."""
        return math.log10(self.compute)


def backbone_parameters(model: ModelSettings) -> int:
    """Return the non-embedding parameters of a backbone with multi-head attention, without the output layer."""
    plain = {name: value for name, value in dict(model).items() if not name.startswith("match") and name != "attn"}
    count = count_parameters(GPT2Config(**plain, vocab_size=1))
    return count.attention + count.mlp + count.norms


@dataclass(frozen=True)
class RungDifference:
    """The difference of a variant to the baseline at one rung.

    Attributes:
        rung: where.
        delta: nats per token; None where runs are missing.
        half_width: of its interval, joint over all rows of all rungs; None where there is none.
        verdict: as the rung's own table says.
        seeds: pairs of runs.
        point: what the trend takes of it; None where it gets no verdict, and so no place in a trend.
        labels: the baseline and the variant with all their settings, in a spelling that stays.
    """

    rung: Rung
    delta: float | None = None
    half_width: float | None = None
    verdict: str = ""
    seeds: int = 0
    point: Point | None = None
    labels: tuple[str, str] = ("", "")

    @property
    def conditions(self) -> str:
        """Digest of all that was compared here: what the runs have in common, and both variants."""
        return json_digest([self.rung.conditions, *self.labels])

    @property
    def sign(self) -> int:
        """-1 for a lower loss than the baseline's, 1 for a higher one, 0 where there is none to judge."""
        if self.delta is None or self.point is None or self.delta == 0:
            return 0
        return -1 if self.delta < 0 else 1

    @property
    def shown(self) -> bool:
        """Whether the sign is shown: the interval leaves out zero."""
        return bool(self.sign) and self.half_width is not None and abs(self.delta or 0.0) > self.half_width


def rung_difference(rung: Rung, one: LossDifference | None) -> RungDifference:
    """Return the difference at a rung as its own table has it; an empty one where there is none."""
    if one is None:
        return RungDifference(rung)
    point = point_of(rung.x, one.delta, one.judged.noise) if one.judged is not None else None
    return RungDifference(rung, one.delta, one.half_width, one.verdict, one.seeds, point)


@dataclass(frozen=True)
class Flip:
    """A sign that changes from one rung to the next that has one, and whether each of the two is shown."""

    before: RungDifference
    after: RungDifference

    @property
    def shown(self) -> bool:
        """Whether both signs are shown: the order does change."""
        return self.before.shown and self.after.shown


@dataclass(frozen=True)
class Prediction:
    """What the rungs before lead one to expect of a rung, and what it came to.

    Attributes:
        rung: of which it is; one that is in no file is called after its distance.
        x: its decades of compute.
        value: expected difference, nats per token.
        low, high: 95% prediction interval.
        rests_on: names of the rungs before.
        df: degrees of freedom of the scatter between rungs; 0 from two rungs, which show none.
        made: when, seconds since 1970; None for one that is worked out now.
        observed: the difference at that rung; None where it is not known.
        left_out: whether the rung was on record already, and left out to try the rule.
    """

    rung: str
    x: float
    value: float
    low: float
    high: float
    rests_on: tuple[str, ...]
    df: int
    made: float | None = None
    observed: float | None = None
    left_out: bool = False

    @property
    def width(self) -> float:
        """Width of the interval."""
        return self.high - self.low

    @property
    def inside(self) -> bool | None:
        """Whether the rung came out inside; None as long as it is not known."""
        return None if self.observed is None else self.low <= self.observed <= self.high


@dataclass(frozen=True)
class VariantLadder:
    """A variant over all rungs.

    Attributes:
        variant: the word that asked for it.
        rungs: its differences, from small to large.
        trend: over all rungs that have a verdict; None from fewer than two.
        next: what to expect of the next rung; None without a trend.
        predictions: those of rungs that have been run: recorded ones, and the last rung from those before it.
    """

    variant: str
    rungs: tuple[RungDifference, ...]
    trend: Trend | None
    next: Prediction | None
    predictions: tuple[Prediction, ...] = ()

    @property
    def flips(self) -> list[Flip]:
        """Where the sign changes."""
        signed = [one for one in self.rungs if one.sign]
        return [Flip(a, b) for a, b in pairwise(signed) if a.sign != b.sign]


@dataclass(frozen=True)
class Ladder:
    """The whole ladder.

    Attributes:
        name: from its file.
        baseline: the word of the baseline.
        rate: the rule of the learning rate.
        rungs: those that were asked for, from small to large.
        ahead: the rung that predictions are of.
        variants: each but the baseline.
        agreement: of the order of all variants, between rungs.
    """

    name: str
    baseline: str
    rate: str
    rungs: tuple[Rung, ...]
    ahead: Rung
    variants: tuple[VariantLadder, ...]
    agreement: Agreement | None = None


def climb(variant: str, found: Sequence[RungDifference], ahead: Rung) -> VariantLadder:
    """Return the trend of a variant, what it says of the rung ahead, and how well it foretold the last one.

    Args:
        variant: the word that asked for it.
        found: its differences, from small to large.
        ahead: the next rung.
    """
    told = [one for one in found if one.point is not None]
    trend = fit_trend([one.point for one in told if one.point is not None])
    names = tuple(one.rung.name for one in told)
    coming = trend and _predicted(trend, ahead, names)
    tried: list[Prediction] = []
    if told and told[-1] is found[-1] and (last := leave_last_out(told)) is not None:
        tried.append(last)
    return VariantLadder(variant, tuple(found), trend, coming, tuple(tried))


def leave_last_out(told: Sequence[RungDifference]) -> Prediction | None:
    """Predict the last rung from those before it; None where they are fewer than two."""
    earlier = fit_trend([one.point for one in told[:-1] if one.point is not None])
    if earlier is None:
        return None
    last = told[-1]
    found = _predicted(earlier, last.rung, tuple(one.rung.name for one in told[:-1]))
    return replace(found, observed=last.delta, left_out=True)


def _predicted(trend: Trend, rung: Rung, rests_on: tuple[str, ...]) -> Prediction:
    value, half = trend.predict(rung.x)
    return Prediction(rung.name, rung.x, value, value - half, value + half, rests_on, trend.df)


def rung_after(rungs: Sequence[Rung]) -> Rung:
    """Return a rung as far beyond the last one as that is beyond the one before it, for ladders that end there."""
    last, before = rungs[-1], rungs[-2] if len(rungs) > 1 else None
    by = last.parameters / before.parameters if before else 4.0
    longer = last.tokens / before.tokens if before else 1.0
    return Rung(f"{last.name} x{by * longer:.3g}", round(last.parameters * by), round(last.tokens * longer))
