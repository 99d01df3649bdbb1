"""What stands beside and below the tables: flags of rows, which noise numbers carry, whether conditions are equal."""

from collections.abc import Iterable, Mapping, Sequence

from rich.text import Text

from vgpt.compare.audit.budgets import confounds
from vgpt.compare.audit.conditions import Audit
from vgpt.compare.audit.runs import origins_of
from vgpt.compare.comparison import Comparison
from vgpt.compare.metrics import cache_disagrees, of_process
from vgpt.compare.rows import Row
from vgpt.compare.statistics.evaluation_noise import CLUSTERS
from vgpt.compare.statistics.margin import Answer, Margin
from vgpt.compare.unfinished import lost
from vgpt.report.sequential import sequential_lines

_FACTS = {
    "n_layer": "{} layer",
    "n_head": "{} head",
    "n_embd": "width {}",
    "block_size": "context {}",
    "tokens": "{} training tokens",
    "dtype": "{}",
    "device": "{}",
    "torch": "torch {}",
}
"""Conditions that are spelled out, with the words around each; a layer and a head are counted."""


def noise_caption(comparison: Comparison) -> Text:
    """Say what the noise beside the losses is and is not, and warn where a difference means nothing yet."""
    rows = comparison.rows
    single = [row.title for row in rows if len(row.runs) == 1]
    uneven = len({row.seeds for row in rows}) > 1
    found = [one.difference for one in comparison.statistics]
    shared = ", over shared seeds" if uneven and any(one and one.method == "paired" for one in found) else ""
    text = Text(f"Δ: against {rows[0].title}{shared}. ", style="dim")
    if single:
        known = {one.clusters for one in comparison.statistics}
        kinds = "; ".join(words for kind, words in CLUSTERS.items() if kind in known)
        text.append(f"± eval SE: standard error over the evaluation windows{kinds and f' ({kinds})'}. ")
        who = "" if len(single) == len(rows) else f" for {', '.join(single)}"
        text.append(f"n=1{who}: differences carry no seed-noise estimate; --seeds 3 gives one. ")
    if len(single) < len(rows):
        text.append("± sd: standard deviation over seeds. ")
    if uneven:
        text.append(f"Seeds are not the same: {'; '.join(f'{row.title} {_seeds(row)}' for row in rows)}. ")
    if any(one.lost for one in comparison.statistics):
        text.append("Seeds that diverged are in no mean: such a row gets no verdict. ")
    text.rstrip()
    return text


def memory_caption(rows: Sequence[Row]) -> list[Text]:
    """Say where memory is not that of training alone."""
    if not any(of_process(row) for row in rows):
        return []
    return [Text("* of the whole process, imports and evaluations included: that of steps is not recorded.", "dim")]


def audit_lines(audit: Audit) -> list[Text]:
    """Return the audit's verdict, and one line per condition that is not equal."""
    return [*_conditions(audit), *_unrecorded(audit), *(Text(f"  note: {note}", "yellow") for note in audit.notes)]


def _unrecorded(audit: Audit) -> list[Text]:
    """Name what no run says anything of: it may be equal or not."""
    return [Text(f"Not recorded by these runs: {', '.join(audit.unrecorded)}", "yellow")] if audit.unrecorded else []


def _conditions(audit: Audit) -> list[Text]:
    if audit.equal:
        tuned = f", but for {', '.join(audit.tuned)}, tuned for each with equal effort" if audit.tuned else ""
        verdict = Text.assemble((f"Conditions: equal{tuned}", "green"), f" ({', '.join(audit.checked)})")
        return [verdict, Text(f"Each run: {_shared(audit.shared)}", "dim")]
    lines = [Text("Conditions: NOT equal; differences between the rows are not due to attention alone", "bold yellow")]
    for difference in audit.differences:
        owners: dict[str, list[str]] = {}
        for label, value in difference.values.items():
            owners.setdefault(value, []).append(label)
        values = "; ".join(f"{_short(value)} in {', '.join(labels)}" for value, labels in owners.items())
        lines.append(Text(f"  {difference.name} ({difference.aspect}): {values}"))
    return lines


def forced_line(comparison: Comparison) -> list[Text]:
    """Say that verdicts were forced across unequal conditions, where they were."""
    if not (comparison.force and comparison.audit.flagged):
        return []
    return [Text("FORCED: verdicts across unequal conditions; attention may not be their cause", "bold yellow")]


def margin_sentence(margin: Margin) -> str:
    """Say what the margin is; it is its user's, and derived from nothing."""
    share = f" is {margin.nats:.4f} nats per token" if margin.text.endswith("%") else " nats per token"
    of = f"{margin.text} of the baseline's mean loss" if margin.text.endswith("%") else margin.text
    return f"Margin, as given: {of}{share}."


def fact_lines(comparison: Comparison) -> list[Text]:
    """Say what verdicts leave out: a plan that added seeds, the sign of a difference within the margin, and so on."""
    found = [
        (row.title, _beside_verdict(said))
        for row, one in zip(comparison.rows, comparison.statistics, strict=True)
        if one.difference is not None and (said := one.difference.answer) is not None
    ]
    facts = [Text(f"  {title}: {sentence}", "dim") for title, sentence in found if sentence]
    return [*sequential_lines(comparison), *facts]


def _beside_verdict(said: Answer) -> str:
    """Return the facts that a verdict does not name, in words; empty for none."""
    if said.margin is None:
        return ""
    margin = said.margin.text
    if said.better:
        return f"better, by less than {margin}" if said.equal else ""
    if said.worse and said.no_worse:
        return f"worse than the baseline, by less than {margin}"
    if said.beyond:
        return f"worse by more than {margin}"
    return f"worse; not decided whether by more than {margin}" if said.worse else ""


def confound_lines(rows: Sequence[Row]) -> list[Text]:
    """Name what variants bring along besides their way of attending."""
    found = [(row.title, confounds(row, rows[0])) for row in rows]
    return [Text(f"  confound of {label}: {'; '.join(names)}", "yellow") for label, names in found if names]


def _shared(values: Mapping[str, str]) -> str:
    """Return the conditions that a reader asks for first, in words."""
    tokens = values.get("tokens", "")
    known = {**values, "tokens": f"{int(tokens):,}" if tokens.isdecimal() else tokens}
    return ", ".join(_fact(words, known[name]) for name, words in _FACTS.items() if known.get(name))


def _fact(words: str, value: str) -> str:
    several = words.endswith(("layer", "head")) and value != "1"
    return words.format(value) + "s" * several


def _seeds(row: Row) -> str:
    return ", ".join(row.seeds)


def _short(value: str) -> str:
    """Shorten fingerprints, which differ from their first digits on."""
    return f"{value[:12]}..." if len(value) >= 32 and _is_hex(value) else value


def _is_hex(value: Iterable[str]) -> bool:
    return all(character in "0123456789abcdef" for character in value)


def flags(comparison: Comparison, row: Row) -> list[str]:
    """Return the flags of a row, in a few words each."""
    found: list[str] = []
    if names := comparison.audit.flagged.get(row.label):
        first, *others = names
        found.append(f"≠ {first} +{len(others)}" if others else f"≠ {first}")
    if origins_of(row):
        found.append("converted")
    if row.label in comparison.unequal_points:
        found.append("≠ point")
    if gone := lost(row):
        found.append(gone)
    if len(row.runs) < row.wanted:
        found.append(f"{len(row.runs)} of {row.wanted} seeds")
    if cache_disagrees(row):
        found.append("KV cache ≠ formula")
    return found
