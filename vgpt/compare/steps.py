"""A staircase answered: the loss of each stair less that of the one before, and the whole, paired by seed throughout.

Over the same seeds the steps add up to the whole exactly. The intervals of all steps and of the whole hold jointly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vgpt.compare.architecture import architecture_of, effective_positions
from vgpt.compare.audit.conditions import audit
from vgpt.compare.metrics import FLOPS, KV_CONTEXT, LOSS, PARAMS, pairing, stat
from vgpt.compare.rows import Row
from vgpt.compare.staircase import Stair, Staircase
from vgpt.compare.statistics.chain import Pairs, adjusted_p, half_width, seed_noise
from vgpt.compare.statistics.differences import LossDifference, row_statistics
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.compare.statistics.family import Noise
from vgpt.compare.statistics.seeds import ALPHA
from vgpt.tracking.run_info import RunInfo

BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference shown"
_POSITIONS = "effective_positions"


@dataclass(frozen=True)
class Step:
    """The difference between two stairs.

    Attributes:
        row: the later stair's runs; None where none is on record.
        before: the earlier one's.
        difference: of their losses by this step's seeds alone; None where a side has no loss.
        noise: of the difference, moderated by the other steps; None where it is not judged.
        half_width: half the width of its interval: joint where it is judged, of this step alone where it is not.
        p: adjusted for all that are judged with it; None where it is not judged.
        verdict: what may be said.
        positions: the effective positions before and after, where the step changes them, in words.
    """

    row: Row | None
    before: Row | None
    difference: LossDifference | None = None
    noise: Noise | None = None
    half_width: float | None = None
    p: float | None = None
    verdict: str = ""
    positions: str = ""

    @property
    def delta(self) -> float | None:
        """The difference, nats per token; lower is better."""
        return None if self.difference is None else self.difference.delta

    @property
    def judged(self) -> bool:
        """Whether it gets a verdict."""
        return self.noise is not None

    def seeds(self) -> tuple[str, ...]:
        """Return the seeds that the difference is over; none where it is not paired."""
        pairs = pairing(self.row, self.before, LOSS) if self.row is not None and self.before is not None else None
        return () if pairs is None or pairs.method == "unpaired" else tuple(run.seed for run, _ in pairs.here)

    def cost(self, metric: str) -> float | None:
        """Return how much a cost changes in this step."""
        here, there = (stat(row, metric) if row is not None else None for row in (self.row, self.before))
        return None if here is None or there is None else here.mean - there.mean


COSTS = {"params": PARAMS, "flops": FLOPS, "kv": KV_CONTEXT}
"""Costs whose changes are told: parameters, FLOPs per token, bytes of the cache at the context length."""


@dataclass(frozen=True)
class Climb:
    """A staircase with what its runs say.

    Attributes:
        staircase: the path.
        steps: one for every stair but the first.
        whole: the last stair against the first, measured directly.
        family: how many differences the intervals hold jointly for; 0 where none is judged.
    """

    staircase: Staircase
    rows: tuple[Row | None, ...]
    steps: tuple[Step, ...]
    whole: Step
    family: int = 0

    @property
    def stairs(self) -> tuple[Stair, ...]:
        """The stairs."""
        return self.staircase.stairs

    @property
    def sum(self) -> float | None:
        """The sum of all steps; None while one is unknown."""
        found = [step.delta for step in self.steps]
        known = [delta for delta in found if delta is not None]
        return sum(known) if len(known) == len(found) else None

    @property
    def exact(self) -> bool:
        """Whether all steps and the whole are over the same seeds, so that the sum is the whole."""
        return bool(self.whole.seeds()) and {step.seeds() for step in self.steps} == {self.whole.seeds()}

    def cumulative(self, number: int) -> float | None:
        """Return the sum of the first `number` steps; None while one of them is unknown."""
        return replace(self, steps=self.steps[:number]).sum

    def title(self, number: int) -> str:
        """Return the name of a stair: that of its row where it has one."""
        row = self.rows[number]
        return row.title if row is not None else self.stairs[number].label


def climb(
    staircase: Staircase,
    rows: Sequence[Row],
    *,
    recorded: Sequence[RunInfo] = (),
    windows: Windows | None = None,
    force: bool = False,
    tuned: Sequence[str] = (),
    no_verdict: Mapping[str, str] | None = None,
) -> Climb:
    """Return the differences between neighbors of a staircase, and the whole, judged together.

    Positions that a step brings along with its setting, as the decoupled rotary part of mla does, are what the step
    changes: they are told, and do not keep it from a verdict.

    Args:
        staircase: the path.
        rows: of a comparison; those that are no stair are passed over.
        recorded: all runs on record.
        windows: finds the losses per window of a run.
        force: give verdicts across unequal conditions too.
        tuned: settings that were tuned for each row.
        no_verdict: label of each row of which nothing may be said -> the words that say so.
    """
    known, unsaid = dict[int, Row](), no_verdict or {}
    for row in rows:
        config = architecture_of(row.runs[0])
        if config is not None and (index := staircase.index(config.attn)) is not None:
            known.setdefault(index, row)

    def step(index: int, earlier: int) -> Step:
        row, before = known.get(index), known.get(earlier)
        if row is None or before is None:
            names = [staircase.stairs[i].label for i in (earlier, index) if i not in known]
            return Step(row, before, verdict=f"no run of {' and '.join(names)} on record")
        audited = audit([before, row], tuned=(_POSITIONS, *tuned), recorded=recorded)
        words = unsaid.get(before.label) or unsaid.get(row.label)
        refused = {row.label: words} if words else {}
        found = row_statistics([before, row], audited, windows=windows, force=force, no_verdict=refused)[1]
        one = found.difference
        verdict = found.lost or "no loss on record" if one is None else one.verdict
        half = None if one is None else one.half_width
        return Step(row, before, one, half_width=half, verdict=verdict, positions=_positions(before, row))

    last = len(staircase.stairs) - 1
    pairs = [(index, index - 1) for index in range(1, last + 1)]
    steps = [step(*pair) for pair in pairs]
    whole = step(last, 0) if last > 1 else steps[0]
    ordered = tuple(known.get(index) for index in range(last + 1))
    return in_family(Climb(staircase, ordered, tuple(steps), whole), None)


def members(found: Climb) -> int:
    """Return how many differences of a staircase get a verdict: those of its steps, and the whole."""
    return sum(_may_judge(one) for one in _all(found))


def in_family(found: Climb, family: int | None) -> Climb:
    """Return the same, judged among `family` differences; None for those of this staircase alone.

    Differences over the same seeds are judged by their joint law; between such groups the level is shared out by their
    sizes (Bonferroni).
    """
    every, pairs = _all(found), _pairs(found)
    groups: dict[object, list[int]] = {}
    for number, one in enumerate(every):
        if one.difference is not None and _may_judge(one):
            paired = one.difference.method == "paired"
            groups.setdefault(one.seeds() if paired else number, []).append(number)
    total = members(found) if family is None else family
    judged = list(every)
    for numbers in groups.values():
        own = [every[number] for number in numbers]
        for number, one in zip(numbers, _judge(own, tuple(pairs[i] for i in numbers), total), strict=True):
            judged[number] = one
    steps = tuple(judged[: len(found.steps)])
    return replace(found, steps=steps, whole=judged[-1] if len(judged) > len(steps) else steps[0], family=total)


def _judge(own: Sequence[Step], pairs: Pairs, total: int) -> list[Step]:
    noises = _noises(own)
    seeds = min(one.difference.seeds for one in own if one.difference is not None)
    share = round(sum(noise.windows_share for noise in noises) / len(noises), 3)
    law = (pairs, seeds, share, len(own) / total)
    found: list[Step] = []
    for one, noise in zip(own, noises, strict=True):
        assert one.delta is not None
        p = adjusted_p(one.delta, noise, *law)
        verdict = NO_DIFFERENCE if p >= ALPHA else BETTER if one.delta < 0 else WORSE
        found.append(replace(one, noise=noise, half_width=half_width(noise, *law), p=p, verdict=verdict))
    return found


def _noises(own: Sequence[Step]) -> list[Noise]:
    """Return the noise of differences over the same seeds, or that of a single one."""
    alone = [one.difference.judged.noise for one in own if one.difference is not None and one.difference.judged]
    if len(own) == 1:
        return alone
    within = [found.within for one in own if one.row and one.before and (found := pairing(one.row, one.before, LOSS))]
    parts = seed_noise(within)
    return [replace(noise, seeds=variance, df=df) for noise, (variance, df) in zip(alone, parts, strict=True)]


def _all(found: Climb) -> tuple[Step, ...]:
    """Return every difference once: the steps, and the whole where it is not the only one of them."""
    return found.steps if len(found.steps) == 1 else (*found.steps, found.whole)


def _pairs(found: Climb) -> list[tuple[int, int]]:
    number = len(found.steps)
    steps = [(index, index - 1) for index in range(1, number + 1)]
    return steps if number == 1 else [*steps, (number, 0)]


def _may_judge(one: Step) -> bool:
    return one.difference is not None and one.difference.judged is not None


def _positions(before: Row, row: Row) -> str:
    there, here = (_said(one, effective_positions) for one in (before, row))
    return "" if there == here else f"positions {there} -> {here}"


def _said(row: Row, read: Callable[[RunInfo], str]) -> str:
    return ", ".join(dict.fromkeys(map(read, row.runs)))
