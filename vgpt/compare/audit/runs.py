"""What an audit finds in the runs themselves: batches and first weights by seed, plug-ins, seals, other draws."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vgpt.compare.audit.unshown import identity
from vgpt.compare.rows import Row
from vgpt.data.overlap import NOTABLE, share_of
from vgpt.files.text import table_of
from vgpt.tracking.integrity import faults_of, is_sealed
from vgpt.tracking.run_info import FINISHED, RunInfo, newest_first
from vgpt.tracking.schema import Metric, Tag

NOT_RECORDED = "not recorded"
Found = tuple[list["UnequalCondition"], list[str]]

_LOSS = Metric.VAL_LOSS
_FACTS = (
    "source",
    "replaced",
    "torch",
    "numpy",
    "device",
    "cpu_capability",
    "threads",
    "allocator",
    "kernels",
    "dtype",
)
"""Tags that say by which code and machine a run was computed: under the same ones it must come to the same loss."""
_MOST_NAMED = 4


@dataclass(frozen=True)
class UnequalCondition:
    """One condition that is not equal.

    Attributes:
        aspect: what it is about: data, schedule, trunk, ...
        name: the setting, or the name of the recorded fact.
        values: value by label of the row; rows whose own runs disagree show all their values.
        flagged: labels of the rows that it sets apart; empty: those whose values are not the first row's.
    """

    aspect: str
    name: str
    values: dict[str, str]
    flagged: tuple[str, ...] = ()


def as_recorded(rows: Sequence[Row], recorded: Sequence[RunInfo]) -> list[Row]:
    """Return rows with their runs as they stand on record, where they do."""
    known = {identity(run): run for run in recorded}
    return [replace(row, runs=tuple(known.get(identity(run), run) for run in row.runs)) for row in rows]


def seed_conditions(rows: Sequence[Row]) -> Found:
    """Hold batches and first weights of the runs of one seed against each other.

    The hash of all batches proves the order of the data; the digest of the first weights outside the attention, that
    swapping it changed nothing else. MLPs of another width, as matching makes them, start from other numbers.
    """
    differences: list[UnequalCondition] = []
    unrecorded: list[str] = []
    for aspect, name, tag in _BY_SEED:
        if not any(run.tags.get(tag) for row in rows for run in row.runs if _expects(run, tag)):
            unrecorded += [name] * any(_expects(run, tag) for row in rows for run in row.runs)
            continue
        values: dict[str, dict[str, str]] = {row.label: {} for row in rows}
        for row in rows:
            for run in row.runs:
                if _expects(run, tag):
                    key = f"{run.seed}/{run.tags.get('vgpt.mlp_hidden', '')}" if tag.endswith("_mlp") else run.seed
                    values[row.label][key] = run.tags.get(tag) or NOT_RECORDED
        keys = dict.fromkeys(key for found in values.values() for key in found)
        unequal = [key for key in keys if len({found[key] for found in values.values() if key in found}) > 1]
        if unequal:
            first = {key: next(found[key] for found in values.values() if key in found) for key in unequal}
            flagged = tuple(
                label
                for label, found in values.items()
                if any(found.get(key, first[key]) != first[key] for key in unequal)
            )
            shown = {
                label: ", ".join(f"{found[key]} (seed {key.partition('/')[0]})" for key in unequal if key in found)
                or "-"
                for label, found in values.items()
            }
            differences.append(UnequalCondition(aspect, name, shown, flagged))
    return differences, unrecorded


def plugin_conditions(rows: Sequence[Row]) -> Found:
    """Hold the plug-ins that runs of one variant were made with against each other."""
    recorded: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        for run in row.runs:
            for kind, digest in _plugins(run).items():
                recorded.setdefault(kind, {}).setdefault(row.label, set()).add(digest)
    differences: list[UnequalCondition] = []
    for kind, by_row in recorded.items():
        first = next(iter(by_row.values()))
        flagged = tuple(label for label, found in by_row.items() if len(found) > 1 or found != first)
        if flagged:
            shown = {label: ", ".join(sorted(found)) for label, found in by_row.items()}
            differences.append(UnequalCondition("software", f"plug-in of {kind}", shown, flagged))
    missing = bool(rows) and not any(Tag.PLUGINS in run.tags for row in rows for run in row.runs)
    return differences, ["plug-ins"] * missing


def record_conditions(rows: Sequence[Row]) -> Found:
    """Find runs whose record contradicts itself: no number of theirs can be relied on."""
    faults = {row.label: [fault for run in row.runs for fault in _named_faults(run)] for row in rows}
    flagged = tuple(label for label, found in faults.items() if found)
    shown = {label: _listed(found) if found else "agrees with itself" for label, found in faults.items()}
    differences = [UnequalCondition("record", "record", shown, flagged)] if flagged else []
    unsealed = any(not is_sealed(run) for row in rows for run in row.runs)
    return differences, ["seal"] * unsealed


def trained_again(rows: Sequence[Row], recorded: Sequence[RunInfo]) -> tuple[list[UnequalCondition], list[str]]:
    """Find runs of the same settings and seed that came to other results: of several draws one is shown.

    Under the same code and machine they must come to the same loss; where they do not, or where one diverged, the one
    shown may have been picked. Those of other code or machines are named.
    """
    values: dict[str, str] = {}
    notes: list[str] = []
    draws: dict[tuple[str, str], list[RunInfo]] = {}
    for run in recorded:
        draws.setdefault(_draw(run), []).append(run)
    for row in rows:
        found: list[str] = []
        for run in row.runs:
            alike = draws.get(_draw(run), []) if run.settings_hash else []
            others = [one for one in alike if identity(one) != identity(run)]
            ended = [one for one in others if one.status in (FINISHED, "diverged") and not _equal(one, run)]
            same = [one for one in ended if _same_facts(one, run)]
            if same:
                found.append(f"seed {run.seed} {_times(1 + len(same))}: {_results([run, *same])}")
            if elsewhere := [one for one in ended if one not in same]:
                notes.append(
                    f"{row.title}, seed {run.seed}: trained before by other code or on another machine, with "
                    f"{_results(elsewhere)}; the newest is shown"
                )
            stopped = sum(one.status not in (FINISHED, "diverged") for one in others)
            if stopped:
                notes.append(f"{row.title}, seed {run.seed}: {stopped} more of the same settings did not finish")
        if found:
            values[row.label] = _listed(found)
    if not values:
        return [], notes
    shown = {row.label: values.get(row.label, "once") for row in rows}
    return [UnequalCondition("seeds", "trained", shown, tuple(values))], notes


def commit_note(runs: Sequence[RunInfo]) -> list[str]:
    """Name commits that differ: where the digests of the source agree, their difference decides nothing."""
    commits = sorted({run.tags.get(Tag.GIT, "") for run in runs} - {""})
    return (
        [f"commits differ: {', '.join(commits)}; what decides is the digest of the source"] if len(commits) > 1 else []
    )


def overlap_note(runs: Sequence[RunInfo]) -> list[str]:
    """Name validation text that stands in the training text."""
    found = {run.tags.get(Tag.OVERLAP, "") for run in runs}
    return [
        f"{overlap} of the validation text stand in the training text too: losses measure memory in part"
        for overlap in sorted(found)
        if share_of(overlap) >= NOTABLE
    ]


def replaced_note(runs: Sequence[RunInfo]) -> list[str]:
    """Name functions of vgpt that were replaced in all runs alike: equal conditions, and yet not vgpt's own."""
    found = sorted({run.tags.get(Tag.REPLACED, "nothing") for run in runs} - {"nothing"})
    return [f"not vgpt's own code: {', '.join(found)} were replaced at run time"] if found else []


_BY_SEED = (
    ("data", "batches", Tag.BATCHES),
    ("start", "first_weights", Tag.START),
    ("start", "first_mlp_weights", Tag.START_MLP),
)


def _expects(run: RunInfo, tag: str) -> bool:
    """Return whether a run would record this: weights that were learned elsewhere have a digest of their own."""
    return tag == str(Tag.BATCHES) or not run.tags.get(Tag.INIT_DIGEST)


def _plugins(run: RunInfo) -> dict[str, str]:
    try:
        found = table_of(json.loads(run.tags.get(Tag.PLUGINS, "{}")))
    except ValueError:
        return {}
    return {str(kind): str(digest) for kind, digest in found.items()}


def _named_faults(run: RunInfo) -> list[str]:
    return [f"{run.run_name}: {fault}" for fault in faults_of(run)]


def _draw(run: RunInfo) -> tuple[str, str]:
    """Return what separate trainings of the same settings, seed and conditions have in common."""
    return run.settings_hash, run.conditions


def _same_facts(one: RunInfo, run: RunInfo) -> bool:
    return all(one.tags.get(f"vgpt.{name}") == run.tags.get(f"vgpt.{name}") for name in _FACTS)


def _equal(one: RunInfo, run: RunInfo) -> bool:
    return one.status == run.status and one.metrics.get(_LOSS) == run.metrics.get(_LOSS)


def _results(runs: Sequence[RunInfo]) -> str:
    shown = [
        f"val loss {one.metrics.get(_LOSS, math.nan):.4f}" if one.status == FINISHED else one.status
        for one in newest_first(runs)
    ]
    return _listed(shown)


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"


def _listed(words: Sequence[str]) -> str:
    more = f"; and {len(words) - _MOST_NAMED} more" if len(words) > _MOST_NAMED else ""
    return "; ".join(words[:_MOST_NAMED]) + more
