"""Whether what a study shows holds in all its settings: in how many a variant is better, and on what that depends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from vgpt.compare.comparison import Comparison
from vgpt.compare.rows import Row, matching
from vgpt.compare.selectors import Selector
from vgpt.compare.statistics.differences import LossDifference
from vgpt.study.study import Answered


@dataclass(frozen=True)
class Sign:
    """The difference of a variant to the baseline in one part of a study.

    Attributes:
        values: what the part has apart from the others.
        delta: the difference in nats per token; None where runs are missing.
        comparable: whether the conditions and the point of the two are equal, or that was forced.
        verdict: as the part's own table says; empty where there is none.
        shown_direction: -1 where the difference is shown to be below zero, 1 above, 0 where neither is.
    """

    values: Mapping[str, str]
    delta: float | None
    comparable: bool
    verdict: str
    shown_direction: int = 0

    @property
    def direction(self) -> int:
        """-1 for a lower loss than the baseline's, 1 for a higher one, 0 where nothing can be compared."""
        if self.delta is None or not self.comparable or self.delta == 0:
            return 0
        return -1 if self.delta < 0 else 1


@dataclass(frozen=True)
class VariantSigns:
    """A variant over all parts of a study, in their order."""

    variant: str
    parts: tuple[Sign, ...]

    @property
    def depends_on(self) -> list[str]:
        """The axes along which alone the difference is shown the other way; all that change with it where none does."""
        opposed = [
            [axis for axis in one.values if one.values[axis] != other.values[axis]]
            for one, other in combinations(self.parts, 2)
            if one.shown_direction * other.shown_direction < 0
        ]
        alone = [axes for axes in opposed if len(axes) == 1]
        return list(dict.fromkeys(axis for axes in alone or opposed for axis in axes))

    def count(self, sign: int, *, shown: bool = False) -> int:
        """Return in how many parts the difference has this sign."""
        return sum((one.shown_direction if shown else one.direction) == sign for one in self.parts)

    @property
    def sentence(self) -> str:
        """What may be said, in words."""
        number = len(self.parts)
        better, worse = self.count(-1, shown=True), self.count(1, shown=True)
        told = [f"{word} in {count} of {number}" for word, count in (("better", better), ("worse", worse)) if count]
        if told:
            told[0] += " settings"
        found = ", ".join(told) or "no difference shown"
        if self.depends_on:
            found += f": depends on {', '.join(self.depends_on)}"
        elif self.count(-1) and self.count(1):
            found += "; the sign is not the same in all, which noise may do"
        unequal = sum(one.delta is not None and not one.comparable for one in self.parts)
        missing = sum(one.delta is None for one in self.parts)
        found += f"; not comparable in {unequal} of {number}" if unequal else ""
        return found + (f"; not on record in {missing} of {number}" if missing else "")


def signs(answers: Sequence[Answered]) -> list[VariantSigns]:
    """Return the signs of every variant but the baseline; none of a single comparison."""
    if len(answers) < 2:
        return []
    by_part = [_differences(answer) for answer in answers]
    variants = dict.fromkeys(name for found in by_part for name in found)
    nothing = (None, True, "", 0)
    return [
        VariantSigns(
            variant,
            tuple(
                Sign(answer.part.values, *found.get(variant, nothing))
                for answer, found in zip(answers, by_part, strict=True)
            ),
        )
        for variant in variants
    ]


def _differences(answer: Answered) -> dict[str, tuple[float | None, bool, str, int]]:
    """Return difference, comparability, verdict and shown direction by variant.

    Nothing where the baseline itself has no runs.
    """
    comparison, selectors = answer.comparison, answer.part.request.selectors
    found: dict[str, tuple[float | None, bool, str, int]] = {}
    for selector in selectors[1:]:
        found.setdefault(selector.text, (None, True, "", 0))
    if not comparison.rows or (selectors and asked_as(comparison.rows[0], selectors) != selectors[0].text):
        return found
    for row, statistics in zip(comparison.rows[1:], comparison.statistics[1:], strict=True):
        one = statistics.difference
        comparable = one is None or _comparable(comparison, row)
        told = (None, True, "", 0) if one is None else (one.delta, comparable, one.verdict, _shown(one))
        found[asked_as(row, selectors)] = told
    return found


def _shown(one: LossDifference) -> int:
    """Return the sign that is shown: within a margin too, where the verdict has another word for it."""
    said = one.answer
    return 0 if said is None else int(said.worse) - int(said.better)


def _comparable(comparison: Comparison, row: Row) -> bool:
    pair = {row.label, comparison.rows[0].label}
    if pair & comparison.unequal_points.keys():
        return False
    return comparison.force or not pair & comparison.audit.flagged.keys()


def asked_as(row: Row, selectors: Sequence[Selector]) -> str:
    """Return the word that asked for a row: matching may give the same variant other settings in each part."""
    own = [
        selector
        for selector in selectors
        if selector.kind and matching(row.runs, selector.kind, selector.typed_settings())
    ]
    named = [selector for selector in selectors if selector.run_name and selector.run_name == row.runs[0].run_name]
    return max([*own, *named], key=lambda selector: len(selector.settings)).text if own or named else row.label
