"""The views of `vgpt compare`: tables on the terminal, formats for programs, figures, a report, a run in MLflow."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vgpt.cli.console import out, print_json, print_text, say, warn
from vgpt.errors import TrackingError, UsageError
from vgpt.report.as_json import as_json
from vgpt.report.captions import audit_lines
from vgpt.report.columns import check_columns, chosen_columns, places
from vgpt.report.comparison import Comparison
from vgpt.report.figures.style import Drawn, as_png, as_svg
from vgpt.report.figures.write import draw_all, save_figures
from vgpt.report.formats import as_csv, as_latex, as_markdown, compact_table
from vgpt.report.html.page import as_html, save_html
from vgpt.report.names import row_names
from vgpt.report.plan import Request
from vgpt.report.reproduce import compare_command
from vgpt.report.sparklines import curves_table
from vgpt.report.tables import tables
from vgpt.tracking.comparison_run import log_comparison
from vgpt.tracking.histories import HistoryReader

Writer = Callable[[Comparison, Sequence[str]], None]


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


def histories_of(request: Request, *, details: bool = False) -> HistoryReader:
    """Return what finds the courses of the runs that a request is about."""
    run = request.settings.run
    return HistoryReader(mlflow=run.tracker == "mlflow", tracking_uri=run.tracking_uri, details=details)


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
    """

    stdout: Writer | None
    curves: bool = False
    plot: Path | None = None
    html: Path | None = None
    log: bool = False

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

    def show(self, request: Request, comparison: Comparison) -> None:
        """Print and write everything; what MLflow refuses is a note, and no failure."""
        histories = histories_of(request)
        self._print(request, comparison, histories)
        if comparison.rows and (self.plot or self.html or self.log):
            self._draw(request, comparison, draw_all(comparison, histories))
        mention_failure(histories)

    def _print(self, request: Request, comparison: Comparison, histories: HistoryReader) -> None:
        columns = request.settings.compare.columns
        if self.stdout is None:
            parts = compact_table(comparison, columns) if columns else tables(comparison)
            if self.curves and comparison.rows:
                parts = [*parts, *curves_table(comparison, histories)]
            for part in parts:
                out().print(part, soft_wrap=False)
        elif self.stdout is _write_json:
            _write_json(comparison, columns)
        elif comparison.rows:
            self.stdout(comparison, columns)
            if not comparison.audit.equal:
                for line in audit_lines(comparison.audit):
                    warn(line.plain.strip())

    def _draw(self, request: Request, comparison: Comparison, figures: list[Drawn]) -> None:
        if self.plot is not None:
            for path in save_figures(figures, self.plot):
                say(f"wrote {path}")
        page = ""
        if self.html is not None or self.log:
            page = as_html(comparison, figures, command=compare_command(request), made=time.time())
        if self.html is not None:
            save_html(page, self.html)
            say(f"wrote {self.html}")
        if self.log:
            _log(request, comparison, figures, page)


def _log(request: Request, comparison: Comparison, figures: Sequence[Drawn], page: str) -> None:
    run = request.settings.run
    files = {f"{one.name}.png": as_png(one) for one in figures}
    files |= {f"{one.name}.svg": as_svg(one).encode() for one in figures}
    files |= {"report.html": page.encode(), "comparison.csv": as_csv(comparison).encode()}
    files["comparison.json"] = json.dumps(as_json(comparison), indent=1, allow_nan=False).encode()
    try:
        run_id = log_comparison(
            name=f"compare {', '.join(row_names(comparison.rows).values())}"[:200],
            experiment=run.experiment,
            run_ids=[one.run_id for row in comparison.rows for one in row.runs if one.run_id],
            files=files,
            tracking_uri=run.tracking_uri,
        )
    except TrackingError as error:
        warn(f"the comparison was not logged: {error.message}")
    else:
        say(f"logged as run {run_id} of experiment {run.experiment!r}")


def _write_json(comparison: Comparison, columns: Sequence[str]) -> None:
    if columns:
        chosen = chosen_columns(comparison, columns)
        print_json([{"attention": at.row.label} | {c.name: c.value(at) for c in chosen} for at in places(comparison)])
    else:
        print_json(as_json(comparison))


_WRITERS: dict[str, Writer] = {
    "json": _write_json,
    "csv": lambda comparison, columns: print_text(as_csv(comparison, columns)),
    "markdown": lambda comparison, columns: print_text(as_markdown(comparison, columns)),
    "latex": lambda comparison, columns: print_text(as_latex(comparison, columns)),
}
