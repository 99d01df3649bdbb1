"""What sets two rows apart besides the mixing of tokens and yet is no unequal condition: it comes with the variant."""

from vgpt.report.architecture import confounds_of
from vgpt.report.grouping import Row
from vgpt.report.numbers import PARAMS, START_RMS, relative_change, stat

NEGLIGIBLE = 0.005
"""Share of parameters below which their number explains nothing; matched budgets are nearer."""
NOTABLE_START = 1.5
"""From this ratio on, either way, another size of the attention's branch at the start is named."""


def confounds(row: Row, baseline: Row) -> list[str]:
    """Return the confounds of a row: those that its variant names, its size, and how it starts.

    Another number of parameters is one; so is a branch that adds much more or less to the residual stream at first; and
    MLPs that were widened or narrowed to match budgets are drawn anew, where all others start from the same weights.
    """
    found = confounds_of(row)
    size = relative_change(row, baseline, PARAMS)
    if size is not None and abs(size) > NEGLIGIBLE:
        found = [*found, f"{size:+.1%} parameters against {baseline.title}"]
    here, there = stat(row, START_RMS), stat(baseline, START_RMS)
    if here is not None and there is not None and there.mean > 0:
        ratio = here.mean / there.mean
        if not 1 / NOTABLE_START <= ratio <= NOTABLE_START:
            found = [*found, f"its attention starts {ratio:.2f}x as large as {baseline.title}'s"]
    widths = {run.tags.get("vgpt.mlp_hidden", "") for one in (row, baseline) for run in one.runs} - {""}
    if len(widths) > 1:
        found = [*found, "MLPs of another width start from other weights"]
    return found
