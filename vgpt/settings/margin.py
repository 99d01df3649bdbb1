"""How margins and requirements are written: `0.01`, `0.5%`, `mla no-worse-than 0.01`."""

from dataclasses import dataclass
from typing import Literal, get_args

from vgpt.errors import did_you_mean

Relation = Literal["better-than", "no-worse-than", "equal-within"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)


def parse_margin(text: str) -> tuple[float, bool]:
    """Return the number of a margin, and whether it is a share of the baseline's mean loss (0.005 for `0.5%`).

    Raises:
        ValueError: it is no number above zero.
    """
    share = text.endswith("%")
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError("must be nats above zero, such as 0.01, or a share of the baseline's loss, such as 0.5%")
    return (number / 100, True) if share else (number, False)


@dataclass(frozen=True)
class Requirement:
    """A claim that a script asks for.

    Attributes:
        text: as given.
        variant: the variant, with its settings, or the name of a run.
        relation: what is claimed of it.
        margin: as given; "0" is allowed for "better-than" alone.
    """

    text: str
    variant: str
    relation: Relation
    margin: str


def parse_requirement(text: str) -> Requirement:
    """Read `mla no-worse-than 0.01`.

    Raises:
        ValueError: it does not have three words, no such relation, or no such margin.
    """
    words = text.split()
    if len(words) != 3:
        raise ValueError(f"{text!r} is not of the form 'mla no-worse-than 0.01'")
    variant, relation, margin = words
    if relation not in RELATIONS:
        raise ValueError(f"{relation!r} is none of {', '.join(RELATIONS)}{did_you_mean(relation, RELATIONS)}")
    if not (relation == "better-than" and margin == "0"):
        parse_margin(margin)
    return Requirement(text, variant, relation, margin)
