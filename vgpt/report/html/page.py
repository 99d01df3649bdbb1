"""The report: one file that opens from a mail, without scripts and without a network."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import RenderableType

from vgpt.compare.comparison import Comparison
from vgpt.compare.rows import row_names
from vgpt.errors import VgptError
from vgpt.files.paths import may_replace
from vgpt.report.as_json import as_json
from vgpt.report.captions import audit_lines, confound_lines, forced_line
from vgpt.report.figures.style import Figure
from vgpt.report.formats import notes
from vgpt.report.html.elements import blocks, element, inline_svg, plain, plain_table
from vgpt.report.sealing import unshown_lines
from vgpt.report.significance import verdict_lines
from vgpt.report.tables import number_tables
from vgpt.study.report_data import embedded
from vgpt.study.reproduce import reproduction
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Tag

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 1180px; margin: 2em auto;
  padding: 0 1.2em; }
h1 { font-size: 1.6em; line-height: 1.25; margin-bottom: 0.2em; overflow-wrap: anywhere; }
h2.part { font-size: 1.35em; border-bottom-color: #8a8a8a; }
h2 { font-size: 1.2em; margin: 2em 0 0.6em; padding-bottom: 0.2em; border-bottom: 2px solid #e3e3e3; }
p { margin: 0.4em 0; max-width: 95ch; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 1.2em 0 0.4em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.93em; }
caption { text-align: left; font-weight: 600; padding: 0.3em 0; }
th, td { text-align: left; vertical-align: top; padding: 0.3em 0.9em 0.3em 0; border-bottom: 1px solid #ececec;
  overflow-wrap: anywhere; max-width: 34ch; }
th { vertical-align: bottom; border-bottom: 1px solid #8a8a8a; font-weight: 600; white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
.dim { color: #5c5c5c; } .bold { font-weight: 700; } .green { color: #00694a; } .red { color: #a33200; }
.yellow { color: #7a5200; }
.verdict { padding: 0.6em 0.9em; border-left: 4px solid #00694a; background: #f1f8f5; }
.verdict.unequal { border-color: #b85c00; background: #fdf4e7; }
figure { margin: 1.6em 0; } svg { max-width: 100%; height: auto; }
figcaption { color: #5c5c5c; font-size: 0.93em; max-width: 95ch; overflow-wrap: anywhere; }
pre { background: #f6f6f6; padding: 0.7em 0.9em; overflow-x: auto; font-size: 0.87em; white-space: pre-wrap;
  overflow-wrap: anywhere; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the browser may load: nothing."""

_PROVENANCE = {
    "commit": Tag.GIT,
    "vgpt": Tag.VERSION,
    "torch": Tag.TORCH,
    "device": Tag.DEVICE,
    "precision": Tag.DTYPE,
    "data": Tag.DATA_DIGEST,
    "tokenizer": Tag.TOKENIZER,
    "evaluation": Tag.EVAL_WINDOWS,
}
"""What a run says of where it is from: head of the column -> tag."""


@dataclass(frozen=True)
class ReportSection:
    """A comparison of a report with its figures; `title` tells it from the report's others."""

    comparison: Comparison
    figures: Sequence[Figure]
    title: str = ""


def _title(sections: Sequence[ReportSection], name: str) -> str:
    """Return the title: name and variants; of a study whose variants differ between sections, a ladder, its name."""
    each = [tuple(row_names(one.comparison.rows).values()) for one in sections]
    if name and len(set(each)) > 1:
        return f"vgpt compare: {name}"
    variants = dict.fromkeys(label for one in each for label in one)
    return f"vgpt compare: {f'{name}: ' if name else ''}{', '.join(variants) or 'no runs'}"


@dataclass(frozen=True)
class Together:
    """What all comparisons of a report say together: tables and figures below one title."""

    title: str
    tables: Sequence[RenderableType] = ()
    figures: Sequence[Figure] = ()


def as_html(
    sections: Sequence[ReportSection],
    *,
    name: str = "",
    command: str,
    made: float,
    together: Together | None = None,
) -> str:
    """Return the report as a page: what all sections say together, then each, then where all of it is from.

    Args:
        sections: what it shows: one comparison, or the several of a study.
        name: name of the study.
        command: what makes it again.
        made: when it was made, seconds since 1970.
        together: tables and figures of all sections together.
    """
    title = _title(sections, name)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(made))
    body = [
        element("h1", plain(title)),
        element("p", plain(f"Made {when}."), class_="dim"),
        *(_together(together) if together is not None else []),
        *(_section(one) for one in sections),
        element("h2", "Provenance"),
        _provenance([one.comparison for one in sections], command),
        _data(sections, name),
    ]
    return _page(title, body)


def _data(sections: Sequence[ReportSection], name: str) -> str:
    """Return what the page holds for programs: `vgpt reproduce` trains a row again from it."""
    parts = [{"title": one.title, **as_json(one.comparison)} for one in sections]
    return embedded({"study": name or None, "parts": parts})


def simple_page(
    title: str,
    parts: Sequence[RenderableType],
    *,
    made: float,
    figures: Sequence[Figure] = (),
    closing: Sequence[RenderableType] = (),
) -> str:
    """Return a page of tables and lines of the terminal under a title; `made` is in seconds since 1970.

    Args:
        title: what it shows.
        parts: what stands before the figures.
        made: when it was made.
        figures: with their texts below them.
        closing: what stands behind them.
    """
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(made))
    head = [element("h1", plain(title)), element("p", plain(f"Made {when}."), class_="dim")]
    return _page(title, [*head, blocks(parts), *_figures(figures), blocks(closing)])


def _page(title: str, body: Sequence[str]) -> str:
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        element("title", plain(title)),
        element("style", _STYLE),
    ]
    return "\n".join(
        ["<!DOCTYPE html>", '<html lang="en">', element("head", *head), element("body", "\n".join(body)), "</html>", ""]
    )


def _together(found: Together) -> list[str]:
    if not found.tables and not found.figures:
        return []
    title = element("h2", plain(found.title), class_="part")
    return [title, *map(_figure, found.figures), blocks(found.tables)]


def _section(one: ReportSection) -> str:
    title = [element("h2", plain(one.title), class_="part")] if one.title else []
    if not one.comparison.rows:
        return "\n".join([*title, element("p", "No run of these settings has finished.", class_="yellow")])
    return "\n".join(
        [
            *title,
            *_verdict(one.comparison),
            element("h2", "Conditions"),
            _conditions(one.comparison),
            element("h2", "Results"),
            blocks(number_tables(one.comparison)),
            *_figures(one.figures),
        ]
    )


def save_html(text: str, path: Path) -> None:
    """Write a report.

    Raises:
        VgptError: it cannot be written.
    """
    if not may_replace(path, ".html"):
        raise VgptError(f"--html {path} is a file of another kind, which is not replaced", "Name another file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise VgptError(
            f"--html {path} cannot be written: {error.strerror or error}", "Choose another file."
        ) from error


def _verdict(comparison: Comparison) -> list[str]:
    lines = [blocks(verdict_lines(comparison)), *(element("p", plain(note)) for note in notes(comparison))]
    kind = "verdict" if comparison.audit.equal else "verdict unequal"
    remarks = [element("p", plain(f"Note: {remark}."), class_="yellow") for remark in comparison.remarks]
    return [element("div", *lines, class_=kind), *remarks]


def _conditions(comparison: Comparison) -> str:
    lines = [*audit_lines(comparison.audit), *forced_line(comparison), *confound_lines(comparison.rows)]
    shared = comparison.audit.shared
    head, unshown = unshown_lines(comparison)
    text = blocks(lines)
    if unshown:
        text += plain_table("On record under these conditions and in no row", head, unshown)
    if not shared:
        return text
    table = plain_table("Equal in all runs", ["condition", "value"], list(shared.items()))
    return text + element("details", element("summary", f"All {len(shared)} equal conditions"), table)


def _figures(figures: Sequence[Figure]) -> list[str]:
    return [element("h2", "Figures"), *map(_figure, figures)] if figures else []


def _figure(one: Figure) -> str:
    return element("figure", inline_svg(one), element("figcaption", plain(one.alt)))


def _provenance(comparisons: Sequence[Comparison], command: str) -> str:
    every = [run for one in comparisons for row in one.rows for run in row.runs]
    every += [run for one in comparisons if one.equivalents for run in one.equivalents.runs]
    runs = list({run.id or run.run_id or run.run_name: run for run in every}.values())
    parts = [element("p", "This report is made again by"), element("pre", plain(command))]
    head = ["run", "seed", "started", *_PROVENANCE, "MLflow run"]
    parts.append(plain_table("Runs", head, [_line(run) for run in runs]))
    commands: list[str] = []
    for run in runs:
        again = reproduction(run)
        mark = "" if again.exact else "  # not exact: this version reads the recorded settings otherwise"
        commands.append(f"{again.command}{mark}")
    parts += [element("p", "Each run is trained again, in this order, by"), element("pre", plain("\n".join(commands)))]
    if missing := dict.fromkeys(wanted.command for one in comparisons for wanted in one.missing):
        parts += [element("p", "Wanted, and not on record:"), element("pre", plain("\n".join(missing)))]
    return "\n".join(parts)


def _line(run: RunInfo) -> list[str]:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(run.start_time / 1000))
    told = [_shortened(run.tags.get(tag, "-")) for tag in _PROVENANCE.values()]
    return [run.run_name, run.seed, started, *told, run.run_id or "-"]


def _shortened(value: str) -> str:
    """Shorten digests, which differ from their first digits on."""
    plainly = value.isalnum() and len(value) >= 32
    return f"{value[:12]}" if plainly else value
