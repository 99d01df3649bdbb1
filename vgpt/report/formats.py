"""The compact table of a comparison: on a terminal, and as CSV, Markdown and LaTeX."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import RenderableType
from rich.text import Text

from vgpt.compare.comparison import Comparison
from vgpt.compare.rows import row_names
from vgpt.formatting import printable
from vgpt.report.captions import audit_lines, confound_lines, fact_lines, forced_line, margin_sentence
from vgpt.report.column import Column, Value
from vgpt.report.columns import chosen_columns, row_contexts, usual_columns
from vgpt.report.curve_tables import snapshot_table, unequal_lines
from vgpt.report.layout import add_row, new_table
from vgpt.report.sealing import sealing_lines, sealing_sentences

_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "≠": r"$\neq$",
}
_MARKDOWN = "\\`*_{}[]<>#|~$!&"


def compact_table(comparison: Comparison, chosen: Sequence[str]) -> list[RenderableType]:
    """Return one table of the chosen columns for a terminal, with the point it is of, the audit and the confounds."""
    if not comparison.rows:
        return []
    columns = chosen_columns(comparison, chosen)
    table = new_table("", [_wrapped(column.title) for column in columns])
    table.title = None
    names = row_names(comparison.rows)
    for context in row_contexts(comparison):
        add_row(
            table,
            replace(context.row, name=names[context.row.label]),
            *[Text(printable(column.format(context))) for column in columns],
        )
    margin = comparison.known_margin
    lines = [
        *([Text(margin_sentence(margin), "dim")] if margin else []),
        *fact_lines(comparison),
        *forced_line(comparison),
        *audit_lines(comparison.audit),
        *confound_lines(comparison.rows),
        *sealing_lines(comparison),
    ]
    return [*snapshot_table(comparison), table, Text(), *lines]


def as_csv(comparison: Comparison, names: Sequence[str] = ()) -> str:
    """Return the table as CSV (RFC 4180): raw numbers, names of columns as `--columns` takes them, nothing rounded.

    An empty field is no value. A text that a spreadsheet would run as a formula is preceded by an apostrophe.
    """
    return study_as_csv([({}, comparison)], names)


def study_as_csv(parts: Sequence[tuple[Mapping[str, str], Comparison]], names: Sequence[str] = ()) -> str:
    """Return several comparisons as one table, which begins with the columns of what tells them apart."""
    text = io.StringIO()
    writer = csv.writer(text)
    columns = chosen_columns(parts[0][1], names or usual_columns(parts[0][1]))
    writer.writerow([*parts[0][0], "attention", *(column.name for column in columns)])
    for values, comparison in parts:
        apart = [_field(value) for value in values.values()]
        for context in row_contexts(comparison):
            writer.writerow([*apart, _field(context.row.label), *(_field(column.value(context)) for column in columns)])
    return text.getvalue()


def as_markdown(comparison: Comparison, names: Sequence[str] = ()) -> str:
    """Return the table in GitHub's Markdown, with the notes of `notes` below."""
    columns, cells = _cells(comparison, names)
    lines = [["attention", *(column.title for column in columns)], *cells]
    escaped = [[_escape_markdown(cell) for cell in line] for line in lines]
    widths = [max(3, *(len(line[i]) for line in escaped)) for i in range(len(escaped[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in escaped
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])
    return f"{table}\n\n{_escape_markdown(' '.join(notes(comparison)))}\n"


def as_latex(comparison: Comparison, names: Sequence[str] = ()) -> str:
    """Return the table for LaTeX with booktabs, with the notes of `notes` as its caption."""
    columns, cells = _cells(comparison, names)
    lines = [["attention", *(column.title for column in columns)], *cells]
    head, *body = [" & ".join(map(_escape_latex, line)) + r" \\" for line in lines]
    caption = _escape_latex(" ".join(notes(comparison)))
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{caption}}}",
            rf"  \begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"    \toprule",
            f"    {head}",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def notes(comparison: Comparison) -> list[str]:
    """Return what a table must not go without, in sentences: baseline, point, margin, lost seeds, force, conditions."""
    rows = comparison.rows
    if not rows:
        return []
    names = row_names(rows)
    found = [f"Differences are against {names[rows[0].label]}."]
    if comparison.snapshot_point is not None:
        found.append(f"Losses at {comparison.snapshot_point}, read between evaluations.")
        found += [f"{line.plain.strip()}." for line in unequal_lines(comparison)]
    if (margin := comparison.known_margin) is not None:
        found.append(margin_sentence(margin))
    found += [f"{line.plain.strip()}." for line in fact_lines(comparison)]
    found += [f"{names[one.label]}: {one.lost}, no verdict." for one in comparison.statistics if one.lost]
    found += [f"{line.plain.strip()}." for line in forced_line(comparison)]
    if comparison.audit.equal:
        found.append(f"Conditions are equal ({', '.join(comparison.audit.checked)}).")
    else:
        unequal = ", ".join(difference.name for difference in comparison.audit.differences)
        found.append(f"Conditions are NOT equal: {unequal}.")
    if comparison.sealing is not None:
        found += [f"{sentence}." for sentence in sealing_sentences(comparison.sealing)]
    return found


def _cells(comparison: Comparison, names: Sequence[str]) -> tuple[list[Column], list[list[str]]]:
    columns, labels = chosen_columns(comparison, names or usual_columns(comparison)), row_names(comparison.rows)
    return columns, [
        [labels[context.row.label], *(printable(column.format(context)) for column in columns)]
        for context in row_contexts(comparison)
    ]


def _wrapped(title: str) -> str:
    """Break a title of two words or more into two lines, since numbers are narrow."""
    first, _, rest = title.partition(" ")
    return f"{first}\n{rest}" if rest else title


def _field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if value.startswith(_FORMULA_SIGNS) else text
    return repr(value) if math.isfinite(value) else ""


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _escape_markdown(text: str) -> str:
    """Escape what Markdown or the HTML in it would read as more than a letter."""
    return "".join(f"\\{letter}" if letter in _MARKDOWN else letter for letter in text)
