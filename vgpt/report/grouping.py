"""Runs sorted into the rows of a comparison: one row per variant and settings, one run per seed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vgpt.attention.mix.grammar import format_variant
from vgpt.tracking.store import RunInfo

FINISHED = "finished"


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    Attributes:
        label: the variant with its settings (`gqa:n_kv_head=2`), preceded by the run's name where a run was named.
        attn: the variant.
        settings: the variant's own settings.
        runs: its finished runs under one set of conditions, by seed.
        wanted: how many runs were asked for; fewer were found where it exceeds `len(runs)`.
        name: a shorter label that no other row of the comparison has; empty for none.
        failed: diverged runs of the same settings, or of the same conditions, whose seeds no finished run has.
    """

    label: str
    attn: str
    settings: dict[str, Any]
    runs: tuple[RunInfo, ...]
    wanted: int = 0
    name: str = ""
    failed: tuple[RunInfo, ...] = ()

    @property
    def title(self) -> str:
        """What people are shown."""
        return self.name or self.label

    @property
    def seeds(self) -> tuple[str, ...]:
        """Seeds of the runs, in their order."""
        return tuple(seed_of(run) for run in self.runs)


def attention_of(run: RunInfo) -> tuple[str, dict[str, Any]]:
    """Return a run's variant and the variant's own settings; a damaged record counts as one without settings."""
    kind = run.tags.get("vgpt.attn") or run.params.get("attn", "?")
    try:
        settings = json.loads(run.tags.get("vgpt.attn_settings", "{}"))
    except ValueError:
        settings = {}
    if not isinstance(settings, dict):
        settings = {}
    return kind, {name: value for name, value in settings.items() if name != "kind"}


def attention_label(kind: str, settings: dict[str, Any]) -> str:
    """Return a variant with its settings as a person would write it: `gqa:n_kv_head=2`, `5xlocal+mha`."""
    if kind == "mix" and "pattern" in settings:
        return str(settings["pattern"])
    return format_variant({"kind": kind, **settings})


def seed_of(run: RunInfo) -> str:
    """Return a run's seed, or `?` where none is recorded."""
    return run.tags.get("vgpt.seed") or run.params.get("seed", "?")


def conditions_of(run: RunInfo) -> str:
    """Return the hash of everything that a fair comparison holds equal."""
    return run.tags.get("vgpt.conditions", "")


def settings_hash_of(run: RunInfo) -> str:
    """Return the hash of the settings that decide what a run learns."""
    return run.tags.get("vgpt.settings_hash", "")


def finished(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """Return the runs that ended as planned: the only ones whose numbers are compared."""
    return [run for run in runs if run.status == FINISHED]


def matching(runs: Iterable[RunInfo], kind: str, settings: dict[str, Any]) -> list[RunInfo]:
    """Return the runs of a variant whose recorded settings agree with those given; the others may be anything."""
    return [
        run
        for run in runs
        for found_kind, found in [attention_of(run)]
        if found_kind == kind and all(name in found and found[name] == value for name, value in settings.items())
    ]


def like(runs: Iterable[RunInfo], model: RunInfo) -> list[RunInfo]:
    """Return the runs with the variant, variant's settings and conditions of `model`."""
    key = (attention_of(model), conditions_of(model))
    return [run for run in runs if (attention_of(run), conditions_of(run)) == key]


def one_per_seed(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """Return the newest run of each seed, by seed."""
    newest: dict[str, RunInfo] = {}
    for run in newest_first(runs):
        newest.setdefault(seed_of(run), run)
    return sorted(newest.values(), key=_seed_order)


def newest_first(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """Return runs by start time, the newest first."""
    return sorted(runs, key=lambda run: run.start_time, reverse=True)


def make_row(runs: Sequence[RunInfo], *, named: bool = False, wanted: int = 0, failed: Iterable[RunInfo] = ()) -> Row:
    """Return the row of runs that share a variant and its settings.

    Args:
        runs: at least one.
        named: whether the row was asked for by a run's name, which then stands in its label.
        wanted: how many runs were asked for; 0 = as many as there are.
        failed: diverged runs that belong to it.
    """
    kind, settings = attention_of(runs[0])
    label = attention_label(kind, settings)
    if named:
        label = f"{runs[0].run_name} ({label})"
    return Row(label, kind, settings, tuple(sorted(runs, key=_seed_order)), wanted or len(runs), failed=tuple(failed))


def _seed_order(run: RunInfo) -> tuple[int, str]:
    seed = seed_of(run)
    return (int(seed) if seed.isdecimal() else -1, seed)
