"""The views of `vgpt compare`: tables on the terminal, formats for programs, figures, a report, a run in MLflow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from vgpt.cli.console import notify, out, print_json, print_text, warn
from vgpt.compare.comparison import Comparison
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
from vgpt.report.figures.style import Figure, as_png, as_svg
from vgpt.report.figures.write import save_figures
from vgpt.report.formats import as_latex, as_markdown, compact_table, study_as_csv
from vgpt.report.html.page import save_html
from vgpt.report.ladder_data import ladder_as_csv
from vgpt.report.sealing import sealing_lines
from vgpt.report.study_report import StudyReport
from vgpt.report.study_tables import power_lines
from vgpt.report.tables import tables
from vgpt.study.answers import histories_of
from vgpt.study.study import Answered, Study
from vgpt.tracking.histories import HistoryReader
from vgpt.tracking.report_runs import log_comparison

Writer = Callable[[StudyReport], None]


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
        report, histories = StudyReport(study, answers), histories_of(study.first)
        if self.stdout is not None:
            self.stdout(report)
        for answer in answers:
            self._tell(study, answer, histories)
        if self.stdout is None:
            for part in report.together.tables:
                out().print(part, soft_wrap=False)
        if report.told and (self.plot or self.html or self.log):
            self._draw(report, histories)
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

    def _draw(self, report: StudyReport, histories: HistoryReader) -> None:
        sections = report.sections(histories, self.windows)
        figures = report.figures(sections)
        if self.plot is not None:
            for path in save_figures(figures, self.plot):
                notify(f"wrote {path}")
        page = report.page(sections) if self.html is not None or self.log else ""
        if self.html is not None:
            save_html(page, self.html)
            notify(f"wrote {self.html}")
        if self.log:
            _log(report, figures, page)


def _log(report: StudyReport, figures: Sequence[Figure], page: str) -> None:
    study, answers = report.study, report.answers
    run = study.first.settings.run
    comparisons = [answer.comparison for answer in answers]
    files = {f"{one.name}.png": as_png(one) for one in figures}
    files |= {f"{one.name}.svg": as_svg(one).encode() for one in figures}
    files |= {"report.html": page.encode(), "comparison.csv": study_as_csv(_tables_of(report.told)).encode()}
    if (ladder := report.ladder) is not None:
        files["ladder.csv"] = ladder_as_csv(ladder).encode()
    files["comparison.json"] = to_json(study_as_json(study, answers, report.ladder), indent=1, ascii_only=True).encode()
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


def _tables_of(answers: Sequence[Answered]) -> list[tuple[Mapping[str, str], Comparison]]:
    return [(answer.part.values, answer.comparison) for answer in answers]


def _columns_json(comparison: Comparison, columns: Sequence[str]) -> list[dict[str, Any]]:
    chosen = chosen_columns(comparison, columns)
    return [{"attention": at.row.label} | {c.name: c.value(at) for c in chosen} for at in row_contexts(comparison)]


def _columns(report: StudyReport) -> Sequence[str]:
    """Return the columns that were chosen by name."""
    return report.study.first.settings.compare.columns


def _write_json(report: StudyReport) -> None:
    if not _columns(report):
        print_json(study_as_json(report.study, report.answers, report.ladder))
        return
    print_json(
        [
            dict(one.part.values) | line
            for one in report.answers
            for line in _columns_json(one.comparison, _columns(report))
        ],
    )


def _write_csv(report: StudyReport) -> None:
    if (ladder := report.ladder) is not None and not _columns(report):
        print_text(ladder_as_csv(ladder))
        return
    if told := report.told:
        print_text(study_as_csv(_tables_of(told), _columns(report)))


def _write_each(form: Callable[[Comparison, Sequence[str]], str], title: str) -> Writer:
    """Return what prints the table of each part below its title, which has a form of its own."""

    def write(report: StudyReport) -> None:
        for one in report.answers:
            if one.comparison.rows:
                above = f"{title.format(one.part.title)}\n" if one.part.title else ""
                print_text(above + form(one.comparison, _columns(report)))

    return write


_WRITERS: dict[str, Writer] = {
    "json": _write_json,
    "csv": _write_csv,
    "markdown": _write_each(as_markdown, "### {}\n"),
    "latex": _write_each(as_latex, "% {}"),
}
