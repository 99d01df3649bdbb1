"""What an audit finds in the runs themselves: batches and first weights by seed, plug-ins, seals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vgpt.compare.audit.unshown import identity
from vgpt.compare.rows import Row, source_of
from vgpt.data.split import NOTABLE, share_of
from vgpt.files.text import table_of
from vgpt.tracking.integrity import faults_of, is_sealed
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Tag

NOT_RECORDED = "not recorded"
Found = tuple[list["UnequalCondition"], list[str]]

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
    shown = {label: listed(found) if found else "agrees with itself" for label, found in faults.items()}
    differences = [UnequalCondition("record", "record", shown, flagged)] if flagged else []
    unsealed = any(not is_sealed(run) for row in rows for run in row.runs)
    return differences, ["seal"] * unsealed


def notes_on(rows: Sequence[Row]) -> list[str]:
    """Return sentences about the runs that belong beside any verdict."""
    runs = [run for row in rows for run in row.runs]
    return [*converted_note(rows), *imported_note(runs), *commit_note(runs), *overlap_note(runs), *replaced_note(runs)]


def imported_note(runs: Sequence[RunInfo]) -> list[str]:
    """Name runs that vgpt did not train: of what made their losses nothing is on record."""
    names = sorted({run.run_name for run in runs if run.imported})
    if not names:
        return []
    said = "was imported: how it was" if len(names) == 1 else "were imported: how they were"
    return [f"{listed(names)} {said} trained is not on record"]


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


def origins_of(row: Row) -> list[str]:
    """Return the attentions that weights of a row's runs were converted from, each once."""
    return sorted({str(source.get("attn", "?")) for run in row.runs if (source := source_of(run))})


def converted_note(rows: Sequence[Row]) -> list[str]:
    """Name rows whose weights were converted from another attention, and what that does to a comparison."""
    found = [f"{row.title} from {', '.join(origins)}" for row in rows if (origins := origins_of(row))]
    if not found:
        return []
    return [
        f"converted, not trained from scratch: {listed(found)}. The weights were learned with another attention: a "
        "biased proxy, and no fair comparison with runs from scratch (Ainslie et al. 2023, arXiv 2305.13245)"
    ]


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


def listed(words: Sequence[str]) -> str:
    """Return words in a row, the first few of them."""
    more = f"; and {len(words) - _MOST_NAMED} more" if len(words) > _MOST_NAMED else ""
    return "; ".join(words[:_MOST_NAMED]) + more
