"""All rows of all parts of a study as one family: more parts do not make a false verdict more likely."""

from collections.abc import Sequence
from dataclasses import replace

from vgpt.report.comparison import Comparison
from vgpt.report.differences import in_family, members


def as_one_family(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons whose intervals and verdicts hold jointly over all their rows."""
    total = sum(members(one.statistics) for one in comparisons)
    return [replace(one, statistics=in_family(one.statistics, total)) for one in comparisons]
