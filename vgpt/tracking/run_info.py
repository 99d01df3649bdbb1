"""A recorded run, and what its record says of it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vgpt.attention.grammar import attention_label
from vgpt.files.text import table_of
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
    params: dict[str, str] = field(default_factory=dict[str, str])
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    tags: dict[str, str] = field(default_factory=dict[str, str])
    directory: Path | None = None
    conflicts: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The identity that the journal and MLflow share; empty for a run that vgpt did not record."""
        return self.tags.get(Tag.ID, "")

    @cached_property
    def attention(self) -> tuple[str, dict[str, Any]]:
        """The variant and its own settings; a damaged record counts as one without settings."""
        kind = self.tags.get(Tag.ATTN) or self.params.get("attn", "?")
        try:
            settings = table_of(json.loads(self.tags.get(Tag.ATTN_SETTINGS, "{}")))
        except ValueError:
            settings = {}
        return kind, {name: value for name, value in settings.items() if name != "kind"}

    @property
    def attention_label(self) -> str:
        """The variant with its settings as a person would write it."""
        return attention_label(*self.attention)

    @property
    def seed(self) -> str:
        """The seed, or `?` where none is recorded."""
        return self.tags.get(Tag.SEED) or self.params.get("seed", "?")

    @property
    def attention_backend(self) -> str:
        """What computed causal attention on a CPU: the table's choice on runs that record nothing of it."""
        return self.tags.get(Tag.ATTENTION_BACKEND) or "table"

    @property
    def imported(self) -> str:
        """Where its weights are from, if they were trained elsewhere; empty for runs that vgpt trained."""
        return self.tags.get(Tag.IMPORTED, "")

    @property
    def conditions(self) -> str:
        """The hash of everything that a fair comparison holds equal; empty where none is recorded."""
        return self.tags.get(Tag.CONDITIONS, "")

    @property
    def settings_hash(self) -> str:
        """The hash of the settings that decide what the run learns; empty where none is recorded."""
        return self.tags.get(Tag.SETTINGS_HASH, "")


def finished(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """Return the runs that ended as planned: the only ones whose numbers are compared."""
    return [run for run in runs if run.status == FINISHED]


def newest_first(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """Return runs by start time, the newest first."""
    return sorted(runs, key=lambda run: run.start_time, reverse=True)
