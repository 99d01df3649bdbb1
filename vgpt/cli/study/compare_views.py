"""The views of `vgpt compare`: tables on the terminal, formats for programs, figures, a report, a run in MLflow."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from vgpt.cli.console import notify, out, print_json, print_text, warn
from vgpt.compare.comparison import Comparison
from vgpt.compare.ladder import Ladder
from vgpt.compare.request import Request
from vgpt.compare.rows import row_names
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.errors import TrackingError, UsageError
from vgpt.files.paths import may_replace
from vgpt.files.text import to_json
from vgpt.report.as_json import study_as_json
from vgpt.report.captions import audit_lines
from vgpt.report.columns import check_columns, chosen_columns, row_contexts
from vgpt.report.curve_tables import curves_table
from vgpt.report.equivalents import equivalent_lines
from vgpt.report.figures.ladder import draw_ladder
from vgpt.report.figures.style import Figure, as_png, as_svg
from vgpt.report.figures.write import draw_all, save_figures
from vgpt.report.formats import as_latex, as_markdown, compact_table, study_as_csv
from vgpt.report.html.page import ReportSection, as_html, save_html
from vgpt.report.ladder import ladder_tables
from vgpt.report.ladder_data import ladder_as_csv
from vgpt.report.sealing import sealing_lines
from vgpt.report.study_tables import power_lines, signs_table
from vgpt.report.tables import tables
from vgpt.study.answers import histories_of
from vgpt.study.ladders.answers import answer_ladder
from vgpt.study.reproduce import study_command
from vgpt.study.study import Answered, Study
from vgpt.tracking.histories import HistoryReader
from vgpt.tracking.report_runs import log_comparison


@dataclass(frozen=True)
class Shown:
    """What is shown: a study with its answers, and what all of its parts say together, computed once for all views."""

    study: Study
    answers: Sequence[Answered]

    @cached_property
    def ladder(self) -> Ladder | None:
        """What the rungs of a ladder together say; None for a study that is none."""
        return answer_ladder(self.study, self.answers)

    @cached_property
    def closing(self) -> list[RenderableType]:
        """The tables of all parts together."""
        return ladder_tables(self.ladder) if self.study.ladder is not None else signs_table(self.answers)

    @property
    def columns(self) -> Sequence[str]:
        """The columns that were chosen by name."""
        return self.study.first.settings.compare.columns


Writer = Callable[[Shown], None]


def chosen_format(**asked: bool) -> Writer | None:
    """Return what prints a comparison for programs; None for tables on the terminal.

    Raises:
        UsageError: two formats were asked for.
    """
    chosen = [name for name, wanted in asked.items() if wanted]
    if len(chosen) > 1:
        flags = " and ".join(f"--{name}" for name in chosen)
        raise UsageError(f"{flags} exclude each other: stdout carries one result", "Choose one of them.")
    return _WRITERS[chosen[0]] if chosen else None


def mention_failure(histories: HistoryReader) -> None:
    """Say why courses of runs are missing, where the store did not tell them."""
    if histories.failure:
        warn(f"losses along the way are missing: {histories.failure}")


@dataclass(frozen=True)
class Views:
    """What is to be made of a comparison.

    Attributes:
        stdout: what prints it for programs; None for tables on the terminal.
        curves: show the losses along the way under the tables.
        plot: directory of figures.
        html: file of the report.
        log: log all of it to MLflow.
        windows: finds the losses of a run per window and position.
    """

    stdout: Writer | None
    curves: bool = False
    plot: Path | None = None
    html: Path | None = None
    log: bool = False
    windows: Windows = lambda run: None

    def check(self, request: Request) -> None:
        """Refuse what cannot come to a good end before anything is read or trained.

        Raises:
            UsageError: a wrong column, or flags that exclude each other.
        """
        check_columns(request.settings.compare.columns)
        if self.curves and self.stdout is not None:
            raise UsageError("--curves draws on the terminal, where stdout carries a result", "Leave one of them out.")
        if self.log and request.settings.run.tracker != "mlflow":
            raise UsageError("--log needs MLflow, which --tracker journal leaves out", "Leave one of them out.")
        if self.html is not None and not may_replace(self.html, ".html"):
            raise UsageError(
                f"--html {self.html} is a file of another kind, which is not replaced", "Name another file."
            )

    def show(self, study: Study, answers: Sequence[Answered]) -> None:
        """Print and write everything; what MLflow refuses is a note, and no failure."""
        shown, histories = Shown(study, answers), histories_of(study.first)
        if self.stdout is not None:
            self.stdout(shown)
        for answer in answers:
            self._tell(study, answer, histories)
        if self.stdout is None:
            for part in shown.closing:
                out().print(part, soft_wrap=False)
        if _told(answers) and (self.plot or self.html or self.log):
            self._draw(shown, histories)
        mention_failure(histories)

    def _tell(self, study: Study, answer: Answered, histories: HistoryReader) -> None:
        """Print a comparison on the terminal, or say there what a format for programs leaves out."""
        comparison, columns = answer.comparison, answer.part.request.settings.compare.columns
        if columns or self.stdout not in (None, _write_json):
            for sentence in [*power_lines(comparison), *equivalent_lines(comparison)]:
                notify(sentence)
        if self.stdout is not None:
            if self.stdout is not _write_json and comparison.rows and not comparison.audit.equal:
                for line in audit_lines(comparison.audit):
                    warn(line.plain.strip())
            if columns or self.stdout is _write_csv:  # which have no place for it
                for line in sealing_lines(comparison):
                    notify(line.plain.strip())
            if self.stdout is not _write_json and comparison.sequential is not None:
                notify(comparison.sequential.sentence)
            return
        parts = compact_table(comparison, columns) if columns else tables(comparison)
        if study.divided and parts:
            out().rule(Text(": ".join(filter(None, [study.name, answer.part.title]))))
        if self.curves and comparison.rows:
            parts = [*parts, *curves_table(comparison, histories)]
        for part in parts:
            out().print(part, soft_wrap=False)

    def _draw(self, shown: Shown, histories: HistoryReader) -> None:
        sections = [
            ReportSection(answer.comparison, _figures_of(answer, histories, self.windows), answer.part.title)
            for answer in _told(shown.answers)
        ]
        together = [figure] if (figure := draw_ladder(shown.ladder)) is not None else []
        if self.plot is not None:
            figures = [*(figure for section in sections for figure in section.figures), *together]
            for path in save_figures(figures, self.plot):
                notify(f"wrote {path}")
        page = ""
        if self.html is not None or self.log:
            page = as_html(
                sections,
                name=shown.study.name,
                command=study_command(shown.study),
                made=time.time(),
                closing=shown.closing,
                together=together,
            )
        if self.html is not None:
            save_html(page, self.html)
            notify(f"wrote {self.html}")
        if self.log:
            figures = [*(figure for section in sections for figure in section.figures), *together]
            _log(shown, figures, page)


def _figures_of(answer: Answered, histories: HistoryReader, windows: Windows) -> list[Figure]:
    """Return the figures of a part, under names that no other part's have."""
    before = f"{answer.part.slug}_" if answer.part.slug else ""
    return [replace(one, name=f"{before}{one.name}") for one in draw_all(answer.comparison, histories, windows)]


def _log(shown: Shown, figures: Sequence[Figure], page: str) -> None:
    study, answers = shown.study, shown.answers
    run = study.first.settings.run
    comparisons = [answer.comparison for answer in answers]
    files = {f"{one.name}.png": as_png(one) for one in figures}
    files |= {f"{one.name}.svg": as_svg(one).encode() for one in figures}
    files |= {"report.html": page.encode(), "comparison.csv": study_as_csv(_tables_of(_told(answers))).encode()}
    if (ladder := shown.ladder) is not None:
        files["ladder.csv"] = ladder_as_csv(ladder).encode()
    files["comparison.json"] = to_json(study_as_json(study, answers, shown.ladder), indent=1, ascii_only=True).encode()
    names = dict.fromkeys(name for one in comparisons for name in row_names(one.rows).values())
    compared = [one.run_id for found in comparisons for row in found.rows for one in row.runs if one.run_id]
    try:
        run_id = log_comparison(
            name=f"compare {study.name or ', '.join(names)}"[:200],
            experiment=run.experiment,
            run_ids=list(dict.fromkeys(compared)),
            files=files,
            tracking_uri=run.tracking_uri,
        )
    except TrackingError as error:
        warn(f"the comparison was not logged: {error.message}")
    else:
        notify(f"logged as run {run_id} of experiment {run.experiment!r}")


def _told(answers: Sequence[Answered]) -> list[Answered]:
    """Return the parts that have anything to show."""
    return [answer for answer in answers if answer.comparison.rows]


def _tables_of(answers: Sequence[Answered]) -> list[tuple[Mapping[str, str], Comparison]]:
    return [(answer.part.values, answer.comparison) for answer in answers]


def _columns_json(comparison: Comparison, columns: Sequence[str]) -> list[dict[str, Any]]:
    chosen = chosen_columns(comparison, columns)
    return [{"attention": at.row.label} | {c.name: c.value(at) for c in chosen} for at in row_contexts(comparison)]


def _write_json(shown: Shown) -> None:
    if not shown.columns:
        print_json(study_as_json(shown.study, shown.answers, shown.ladder))
        return
    print_json(
        [
            dict(one.part.values) | line
            for one in shown.answers
            for line in _columns_json(one.comparison, shown.columns)
        ],
    )


def _write_csv(shown: Shown) -> None:
    if (ladder := shown.ladder) is not None and not shown.columns:
        print_text(ladder_as_csv(ladder))
        return
    if told := _told(shown.answers):
        print_text(study_as_csv(_tables_of(told), shown.columns))


def _write_each(form: Callable[[Comparison, Sequence[str]], str], title: str) -> Writer:
    """Return what prints the table of each part below its title, which has a form of its own."""

    def write(shown: Shown) -> None:
        for one in shown.answers:
            if one.comparison.rows:
                above = f"{title.format(one.part.title)}\n" if one.part.title else ""
                print_text(above + form(one.comparison, shown.columns))

    return write


_WRITERS: dict[str, Writer] = {
    "json": _write_json,
    "csv": _write_csv,
    "markdown": _write_each(as_markdown, "### {}\n"),
    "latex": _write_each(as_latex, "% {}"),
}
