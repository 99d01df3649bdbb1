"""Runs on record under the conditions of a row that the row does not show: further seeds, other draws, failures."""

from collections.abc import Sequence

from vgpt.compare.rows import Row, like
from vgpt.tracking.run_info import FINISHED, RunInfo

_MOST_NAMED = 8


def unshown_runs(rows: Sequence[Row], recorded: Sequence[RunInfo]) -> tuple[RunInfo, ...]:
    """Return every run of the same variants and conditions that stands in no row, whatever became of it."""
    shown = {identity(run) for row in rows for run in (*row.runs, *row.failed)}
    found: dict[str, RunInfo] = {}
    for row in rows:
        if row.runs[0].conditions:
            found |= {identity(run): run for run in like(recorded, row.runs[0]) if identity(run) not in shown}
    return tuple(found.values())


def unshown_notes(rows: Sequence[Row], unshown: Sequence[RunInfo]) -> list[str]:
    """Name the seeds of rows that finished or diverged and are not shown; other draws of shown seeds are told apart."""
    notes: list[str] = []
    for row in rows:
        absent: dict[str, str] = {}
        for run in like(unshown, row.runs[0]):
            if run.seed not in row.seeds and run.status in (FINISHED, "diverged"):
                absent[run.seed] = "" if run.status == FINISHED else absent.get(run.seed, f" ({run.status})")
        if absent:
            seeds = [f"{seed}{absent[seed]}" for seed in sorted(absent, key=_as_number)]
            more = [f"and {len(seeds) - _MOST_NAMED} more"] if len(seeds) > _MOST_NAMED else []
            listed = ", ".join([*seeds[:_MOST_NAMED], *more])
            notes.append(f"{row.title}: on record and not shown: seed{'s' * (len(seeds) > 1)} {listed}")
    return notes


def identity(run: RunInfo) -> str:
    """Return what tells a run from all others."""
    return run.id or run.run_id or run.run_name


def _as_number(seed: str) -> tuple[int, str]:
    return (int(seed) if seed.isdecimal() else -1, seed)
