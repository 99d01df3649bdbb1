"""Sentences about runs that never finished: they are mentioned, and never averaged in."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from vgpt.report.grouping import FINISHED
from vgpt.tracking.schema import TAG_RUN_DIR
from vgpt.tracking.store import RunInfo, local_history, read_local_run

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
    directory = Path(run.tags.get(TAG_RUN_DIR, ""))
    local = read_local_run(directory) if TAG_RUN_DIR in run.tags else None
    if local is None or local.id != run.id:
        return ""
    steps = local_history(directory, "train/loss")
    return f"step {steps[-1][0]}/{run.params.get('max_steps', '?')}" if steps else ""


def _sentence(label: str, status: str, runs: Sequence[RunInfo]) -> str:
    verb = _VERBS.get(status, (f"is {status}", f"are {status}"))[len(runs) > 1]
    names = [", ".join(filter(None, (run.run_name, progress(run)))) for run in runs[:_SHOWN_RUNS]]
    more = f"; and {len(runs) - _SHOWN_RUNS} more" if len(runs) > _SHOWN_RUNS else ""
    return f"{len(runs)} run{'s' * (len(runs) > 1)} of {label} {verb}: {'; '.join(names)}{more}"
