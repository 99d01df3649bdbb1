"""Runs sorted into the rows of a comparison: one row per variant and settings, one run per seed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vgpt.attention.grammar import attention_label, display_label
from vgpt.compare.architecture import architecture_of
from vgpt.files.text import table_of
from vgpt.formatting import printable, wrapping_label
from vgpt.tracking.run_info import RunInfo, newest_first
from vgpt.tracking.schema import Tag


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
        return tuple(run.seed for run in self.runs)


def source_of(run: RunInfo) -> dict[str, Any]:
    """Return what a run's weights were converted from, as `vgpt convert` records it; empty for all other runs."""
    try:
        return table_of(json.loads(run.tags.get(Tag.CONVERTED, "{}")))
    except (ValueError, RecursionError):
        return {}


def stands_for_variant(run: RunInfo) -> bool:
    """Return whether vgpt trained a run with its own attention from the first step on."""
    return not run.imported and not source_of(run)


def matching(runs: Iterable[RunInfo], kind: str, settings: dict[str, Any]) -> list[RunInfo]:
    """Return the runs of a variant whose recorded settings agree with those given; the others may be anything.

    Imported and converted runs stand for no variant: they are compared where they are named.
    """
    return [
        run
        for run in runs
        for found_kind, found in [run.attention]
        if found_kind == kind and stands_for_variant(run)
        if all(name in found and found[name] == value for name, value in settings.items())
    ]


def like(runs: Iterable[RunInfo], model: RunInfo) -> list[RunInfo]:
    """Return the runs with the variant, variant's settings and conditions of `model`."""
    key = (model.attention, model.conditions)
    return [run for run in runs if (run.attention, run.conditions) == key]


def one_per_seed(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """Return the newest run of each seed, by seed."""
    newest: dict[str, RunInfo] = {}
    for run in newest_first(runs):
        newest.setdefault(run.seed, run)
    return sorted(newest.values(), key=_seed_order)


def make_row(runs: Sequence[RunInfo], *, named: bool = False, wanted: int = 0, failed: Iterable[RunInfo] = ()) -> Row:
    """Return the row of runs that share a variant and its settings.

    Args:
        runs: at least one.
        named: whether the row was asked for by a run's name, which then stands in its label.
        wanted: how many runs were asked for; 0 = as many as there are.
        failed: diverged runs that belong to it.
    """
    kind, settings = runs[0].attention
    label = attention_label(kind, settings)
    if named:
        label = f"{runs[0].run_name} ({label})"
    return Row(label, kind, settings, tuple(sorted(runs, key=_seed_order)), wanted or len(runs), failed=tuple(failed))


def _seed_order(run: RunInfo) -> tuple[int, str]:
    seed = run.seed
    return (int(seed) if seed.isdecimal() else -1, seed)


def row_names(rows: Sequence[Row]) -> dict[str, str]:
    """Return a name for each row by its label: without most settings that are defaults, where that is no other's name.

    Letters that cannot be printed, which a run's name may hold, are shown as `?`.
    """
    short = {row.label: _short(row) for row in rows}
    names = list(short.values())
    chosen = {label: name if names.count(name) == 1 else label for label, name in short.items()}
    return {label: printable(wrapping_label(name)) for label, name in chosen.items()}


def with_names(rows: Iterable[Row]) -> list[Row]:
    """Return rows with their short names."""
    found = list(rows)
    names = row_names(found)
    return [replace(row, name=names[row.label]) for row in found]


def _short(row: Row) -> str:
    config = architecture_of(row.runs[0])
    if config is None:
        return row.label
    before, _, after = row.label.rpartition(attention_label(row.attn, row.settings))
    return f"{before}{display_label(config.attn)}{after}"
