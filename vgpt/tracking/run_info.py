"""A recorded run, and what its record says of it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgpt.tracking.schema import Tag

FINISHED = "finished"


@dataclass(frozen=True)
class RunInfo:
    """A recorded run.

    Args:
        run_id: MLflow's id; empty for a run that is in its journal alone.
        run_name: its name.
        experiment: its experiment.
        status: "finished", "running", "failed", "killed" or "diverged". A run that ended without saying so is "killed".
        start_time: milliseconds since 1970.
        params: flattened settings as text.
        metrics: the last value of every metric.
        tags: see `vgpt.tracking.schema`.
        directory: where its record was read; None for a run read from MLflow.
        conflicts: what its copies in the journal and in MLflow say differently.
    """

    run_id: str
    run_name: str
    experiment: str
    status: str
    start_time: int
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    directory: Path | None = None
    conflicts: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The identity that the journal and MLflow share; empty for a run that vgpt did not record."""
        return self.tags.get(Tag.ID, "")


def attention_of(run: RunInfo) -> tuple[str, dict[str, Any]]:
    """Return a run's variant and the variant's own settings; a damaged record counts as one without settings."""
    kind = run.tags.get(Tag.ATTN) or run.params.get("attn", "?")
    try:
        settings = json.loads(run.tags.get(Tag.ATTN_SETTINGS, "{}"))
    except ValueError:
        settings = {}
    if not isinstance(settings, dict):
        settings = {}
    return kind, {name: value for name, value in settings.items() if name != "kind"}


def seed_of(run: RunInfo) -> str:
    """Return a run's seed, or `?` where none is recorded."""
    return run.tags.get(Tag.SEED) or run.params.get("seed", "?")


def conditions_of(run: RunInfo) -> str:
    """Return the hash of everything that a fair comparison holds equal."""
    return run.tags.get(Tag.CONDITIONS, "")


def settings_hash_of(run: RunInfo) -> str:
    """Return the hash of the settings that decide what a run learns."""
    return run.tags.get(Tag.SETTINGS_HASH, "")


def finished(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """Return the runs that ended as planned: the only ones whose numbers are compared."""
    return [run for run in runs if run.status == FINISHED]


def newest_first(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """Return runs by start time, the newest first."""
    return sorted(runs, key=lambda run: run.start_time, reverse=True)
