"""Runs that gave no loss: unfinished ones are mentioned, diverged ones counted, and neither is averaged in."""

import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from vgpt.compare.metrics import LOSS
from vgpt.compare.rows import Row, like, one_per_seed
from vgpt.tracking.run_info import FINISHED, RunInfo
from vgpt.tracking.schema import Metric, Tag
from vgpt.tracking.store import local_history, read_local_run

DIVERGED = "diverged"


def diverged_beside(runs: Iterable[RunInfo], shown: Collection[RunInfo], seeds: Iterable[int] = ()) -> list[RunInfo]:
    """Return the diverged runs like those that are shown, of seeds that are not among them.

    Args:
        runs: all runs on record.
        shown: the runs of a row, at least one.
        seeds: which seeds were asked for; none = all.
    """
    answered, asked = {run.seed for run in shown}, set(map(str, seeds))
    alike = like([run for run in runs if run.status == DIVERGED], next(iter(shown)))
    return [run for run in one_per_seed(alike) if run.seed not in answered and (not asked or run.seed in asked)]


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


_SHOWN_RUNS = 3
_VERBS = {
    "running": ("is still running", "are still running"),
    "killed": ("was stopped early", "were stopped early"),
    "failed": ("failed", "failed"),
    "diverged": ("diverged", "diverged"),
}


def unfinished_remarks(runs: Iterable[tuple[str, RunInfo]]) -> list[str]:
    """Return one sentence per variant and status, such as `1 run of mqa is still running: my_run, step 300/1000`.

    Args:
        runs: (variant as shown, run); finished runs are passed over.
    """
    groups: dict[tuple[str, str], list[RunInfo]] = {}
    for label, run in runs:
        if run.status != FINISHED:
            groups.setdefault((label, run.status), []).append(run)
    return [_sentence(label, status, found) for (label, status), found in groups.items()]


def progress(run: RunInfo) -> str:
    """Return `step 300/1000` as far as this machine's journal of the run tells; empty where it does not."""
    directory = Path(run.tags.get(Tag.RUN_DIR, ""))
    local = read_local_run(directory) if Tag.RUN_DIR in run.tags else None
    if local is None or local.id != run.id:
        return ""
    steps = local_history(directory, Metric.TRAIN_LOSS)
    return f"step {steps[-1][0]}/{run.params.get('max_steps', '?')}" if steps else ""


def _sentence(label: str, status: str, runs: Sequence[RunInfo]) -> str:
    verb = _VERBS.get(status, (f"is {status}", f"are {status}"))[len(runs) > 1]
    names = [", ".join(filter(None, (run.run_name, progress(run)))) for run in runs[:_SHOWN_RUNS]]
    more = f"; and {len(runs) - _SHOWN_RUNS} more" if len(runs) > _SHOWN_RUNS else ""
    return f"{len(runs)} run{'s' * (len(runs) > 1)} of {label} {verb}: {'; '.join(names)}{more}"
