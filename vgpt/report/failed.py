"""Seeds that were tried and gave no loss: a mean of the survivors alone says nothing of the variant."""

import math
from collections.abc import Collection, Iterable

from vgpt.report.grouping import Row, like, one_per_seed, seed_of
from vgpt.report.numbers import LOSS
from vgpt.tracking.store import RunInfo

DIVERGED = "diverged"


def diverged_beside(runs: Iterable[RunInfo], shown: Collection[RunInfo], seeds: Iterable[int] = ()) -> list[RunInfo]:
    """Return the diverged runs like those that are shown, of seeds that are not among them.

    Args:
        runs: all runs on record.
        shown: the runs of a row, at least one.
        seeds: which seeds were asked for; none = all.
    """
    answered, asked = {seed_of(run) for run in shown}, set(map(str, seeds))
    alike = like([run for run in runs if run.status == DIVERGED], next(iter(shown)))
    return [run for run in one_per_seed(alike) if seed_of(run) not in answered and (not asked or seed_of(run) in asked)]


def lost(row: Row) -> str:
    """Return how many of the seeds that were tried gave no finite loss: `diverged 2/5`; empty where all did."""
    without = [run for run in row.runs if not math.isfinite(run.metrics.get(LOSS, math.nan))]
    broken = [run for run in without if LOSS in run.metrics]
    tried = max(row.wanted, len(row.runs) + len(row.failed))
    parts: list[str] = []
    if count := len(row.failed) + len(broken):
        parts.append(f"{DIVERGED} {count}/{tried}")
    if count := len(without) - len(broken):
        parts.append(f"no loss on record {count}/{tried}")
    return ", ".join(parts)


def lost_runs(row: Row) -> tuple[RunInfo, ...]:
    """Return the runs that `lost` counts."""
    return (*row.failed, *(run for run in row.runs if not math.isfinite(run.metrics.get(LOSS, math.nan))))
