"""What sets two rows apart besides the mixing of tokens and yet is no unequal condition: it comes with the variant."""

from vgpt.report.architecture import confounds_of
from vgpt.report.grouping import Row
from vgpt.report.numbers import PARAMS, relative_change

NEGLIGIBLE = 0.005
"""Share of parameters below which their number explains nothing; matched budgets are nearer."""


def confounds(row: Row, baseline: Row) -> list[str]:
    """Return the confounds of a row: those that its variant names, and another number of parameters."""
    found = confounds_of(row)
    size = relative_change(row, baseline, PARAMS)
    if size is not None and abs(size) > NEGLIGIBLE:
        found = [*found, f"{size:+.1%} parameters against {baseline.title}"]
    return found
