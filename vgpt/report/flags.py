"""What a reader must know of a row before its numbers: unequal conditions, lost and missing seeds, a wrong cache."""

from vgpt.report.comparison import Comparison
from vgpt.report.failed import lost
from vgpt.report.grouping import Row
from vgpt.report.numbers import cache_disagrees


def flags(comparison: Comparison, row: Row) -> list[str]:
    """Return the flags of a row, in a few words each."""
    found: list[str] = []
    if names := comparison.audit.flagged.get(row.label):
        first, *others = names
        found.append(f"≠ {first} +{len(others)}" if others else f"≠ {first}")
    if row.label in comparison.unequal_points:
        found.append("≠ point")
    if gone := lost(row):
        found.append(gone)
    if len(row.runs) < row.wanted:
        found.append(f"{len(row.runs)} of {row.wanted} seeds")
    if cache_disagrees(row):
        found.append("KV cache ≠ formula")
    return found
