"""What one interval says of a difference: better, no worse than a margin, equal within it, worse, or nothing yet.

A margin is the largest loss that its user would not mind, in nats per token. It is derived from nothing: it is chosen.
Every word here is a pure function of four bounds and a margin, so that tables, reports and programs cannot disagree.

Two claims are one-sided tests at 5%: "no worse" (the upper bound is below the margin) and, with both of them, "equal
within" (the two one-sided tests). The others are read from the two-sided interval. Together they still err in at most
5%: of a difference of the margin or more only "no worse" can be false, and what is stronger than it; of one between
zero and the margin, only a claim of the two-sided interval.

Sources: non-inferiority as in ICH E9 1998, section 3.3.2; two one-sided tests as in Schuirmann 1987, "A comparison of
the two one-sided tests procedure and the power approach"; claims that share a level because no two of opposite sides
can be false at once, as in Finner and Strassburger 2002, "The partitioning principle".
"""

from dataclasses import dataclass
from typing import Literal

from vgpt.settings.margin import Relation, parse_margin

Outcome = Literal["shown", "refuted", "undecided"]

BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference shown"
NOT_DECIDED = "not decided"
NO_WORSE, EQUAL = "no worse than", "equal within"
"""Beginnings of verdicts that end with the margin."""


@dataclass(frozen=True)
class Bounds:
    """What is known of a difference, nats per token; losses are better where they are lower.

    Attributes:
        low: lower end of the two-sided 95% interval.
        high: upper end of it.
        at_least: lower one-sided 95% bound; never below `low`.
        at_most: upper one-sided 95% bound, "loses at most"; never above `high`.
    """

    low: float
    high: float
    at_least: float
    at_most: float


@dataclass(frozen=True)
class Margin:
    """A margin as it was given, and what it is in nats.

    Attributes:
        text: as given: `0.01`, or `0.5%` of the baseline's mean loss.
        nats: per token, above zero.
    """

    text: str
    nats: float


@dataclass(frozen=True)
class Answer:
    """What bounds say of a difference and a margin; see `answer`.

    Attributes:
        better: the difference is below zero.
        worse: it is above zero.
        no_worse: it is below the margin.
        equal: it is within the margin, both ways.
        beyond: it is above the margin: "no worse" is refuted.
        margin: the margin; without one the last three are None.
    """

    better: bool
    worse: bool
    no_worse: bool | None = None
    equal: bool | None = None
    beyond: bool | None = None
    margin: Margin | None = None

    @property
    def decided(self) -> bool:
        """Whether it is shown on which side of the margin the difference is; without one, whether it has a sign."""
        return bool(self.better or self.no_worse or self.beyond or (self.margin is None and self.worse))

    @property
    def verdict(self) -> str:
        """The one that is said: the strongest answer to whether the variant may take the baseline's place.

        Where a difference is above zero and within the margin, that is "equal within": `facts` name both.
        """
        if self.better:
            return BETTER
        if self.margin is None:
            return WORSE if self.worse else NO_DIFFERENCE
        if self.equal:
            return f"{EQUAL} {self.margin.text}"
        if self.no_worse:
            return f"{NO_WORSE} {self.margin.text}"
        return WORSE if self.worse else NOT_DECIDED

    @property
    def facts(self) -> tuple[str, ...]:
        """All that is shown, the strongest first; empty where nothing is."""
        margin = self.margin.text if self.margin else ""
        found = {
            "better than the baseline": self.better,
            f"equal within {margin}": self.equal,
            f"no worse than {margin}": self.no_worse,
            "worse than the baseline": self.worse,
            f"worse by more than {margin}": self.beyond,
        }
        return tuple(fact for fact, shown in found.items() if shown)


def answer(bounds: Bounds, margin: Margin | None = None) -> Answer:
    """Return what bounds show; a bound that lies on an edge shows nothing."""
    better, worse = bounds.high < 0, bounds.low > 0
    if margin is None:
        return Answer(better, worse)
    no_worse = bounds.at_most < margin.nats
    equal = no_worse and bounds.at_least > -margin.nats
    return Answer(better, worse, no_worse, equal, bounds.low > margin.nats, margin)


def judge_requirement(bounds: Bounds | None, relation: Relation, nats: float) -> Outcome:
    """Return whether a claim about a difference is shown, refuted or neither.

    "Better than x" is shown where the two-sided interval lies below -x. Refuted is what the two-sided interval leaves
    no room for.

    Args:
        bounds: of the difference; None where no verdict is given, which decides nothing.
        relation: what is claimed.
        nats: the margin, above zero; for "better-than" zero or more.
    """
    if bounds is None:
        return "undecided"
    if relation == "better-than":
        shown, refuted = bounds.high < -nats, bounds.low > -nats
    else:
        shown, refuted = bounds.at_most < nats, bounds.low > nats
    if relation == "equal-within":
        shown, refuted = shown and bounds.at_least > -nats, refuted or bounds.high < -nats
    return "shown" if shown else "refuted" if refuted else "undecided"


def margin_of(text: str | None, baseline_loss: float | None) -> Margin | None:
    """Return a margin in nats; None where none was given, or where it is a share of a loss that is not on record.

    Args:
        text: as given.
        baseline_loss: mean loss of the baseline's runs. Its own noise is not counted: that of half a percent of it is
            a two-hundredth.
    """
    if text is None:
        return None
    number, share = parse_margin(text)
    if share and baseline_loss is None:
        return None
    return Margin(text, number * (baseline_loss or 0.0) if share else number)
