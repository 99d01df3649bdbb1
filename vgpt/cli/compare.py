"""`vgpt compare`: variants side by side, and the runs that are missing."""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from vgpt.attention.registry import variants
from vgpt.cli.console import out, print_json, print_text, say, warn
from vgpt.cli.options import JsonOption, print_settings, with_settings
from vgpt.errors import TrackingError, UsageError, VgptError
from vgpt.report.as_json import as_json
from vgpt.report.captions import audit_lines
from vgpt.report.columns import check_columns, chosen_columns, places
from vgpt.report.comparison import Comparison, compare
from vgpt.report.formats import as_csv, as_latex, as_markdown, compact_table
from vgpt.report.missing import Failure, TrainingInterrupted, train_missing
from vgpt.report.plan import Request, make_request, settings_of_first
from vgpt.report.sparklines import curves_table
from vgpt.report.tables import tables
from vgpt.settings.compare import CompareConfig
from vgpt.settings.loader import Sources
from vgpt.tracking.histories import HistoryReader
from vgpt.tracking.store import RunInfo, merge_runs, read_local_runs, read_runs
from vgpt.tracking.windows import WindowReader

Writer = Callable[[Comparison, Sequence[str]], None]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("compare")(with_settings(CompareConfig)(compare_runs))


def compare_runs(
    sources: Sources,
    show_settings: bool,
    terms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VARIANT|RUN",
            help="variants (gqa, gqa:n_kv_head=4) or names of runs, the baseline first; none = all that have runs",
            autocompletion=lambda: list(variants()),
        ),
    ] = None,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="print one table as CSV, numbers raw")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print one table as Markdown")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="print one table for LaTeX, with booktabs")] = False,
    curves: Annotated[bool, typer.Option("--curves", help="show the course of the losses under the tables")] = False,
) -> None:
    """Lay variants side by side: loss, cost and cache, with what is equal and what is not.

    With a preset or any setting of the runs, the runs of exactly those settings are shown; without, the newest ones.
    """
    request = make_request(terms or [], sources)
    write = _format(json=json, csv=csv, markdown=markdown, latex=latex)
    check_columns(request.settings.compare.columns)
    if show_settings:
        print_settings(settings_of_first(request), as_json=json)
    comparison = _compare(request)
    failures: list[Failure] = []
    if request.settings.compare.run_missing and comparison.missing:
        failures = _train(comparison)
        comparison = _compare(request)
    _print(request, comparison, write)
    if curves and write is None:
        histories = _histories(request)
        for part in curves_table(comparison, histories):
            out().print(part, soft_wrap=False)
        _mention(histories)
    _conclude(request, comparison, failures)


def _compare(request: Request) -> Comparison:
    run = request.settings.run
    windows = WindowReader(mlflow=run.tracker == "mlflow", tracking_uri=run.tracking_uri)
    histories = _histories(request, details=True)
    try:
        return compare(request, _recorded(request), windows=windows, histories=histories)
    finally:
        _mention(histories)


def _histories(request: Request, *, details: bool = False) -> HistoryReader:
    run = request.settings.run
    return HistoryReader(mlflow=run.tracker == "mlflow", tracking_uri=run.tracking_uri, details=details)


def _mention(histories: HistoryReader) -> None:
    if histories.failure:
        warn(f"losses along the way are missing: {histories.failure}")


def _recorded(request: Request) -> list[RunInfo]:
    """Return all runs on record: those of MLflow, and those of the journals, which are never behind."""
    run = request.settings.run
    local = read_local_runs(run.runs_dir, experiment=run.experiment)
    if run.tracker == "journal":
        return local
    try:
        stored = read_runs(experiment=run.experiment, tracking_uri=run.tracking_uri)
    except TrackingError as error:
        journals = f"`--tracker journal` compares what the journals in {run.runs_dir} hold, without MLflow."
        raise TrackingError(error.message, f"{error.hint}\n{journals}".strip()) from error
    return merge_runs(local, stored)


def _train(comparison: Comparison) -> list[Failure]:
    try:
        return train_missing(comparison.missing, say)
    except TrainingInterrupted as stop:
        warn("stopped; what was trained is saved, and the same command resumes it")
        raise typer.Exit(stop.code) from None


def _format(**asked: bool) -> Writer | None:
    """Return what prints a comparison for programs; None for tables on the terminal.

    Raises:
        UsageError: two formats were asked for.
    """
    chosen = [name for name, wanted in asked.items() if wanted]
    if len(chosen) > 1:
        flags = " and ".join(f"--{name}" for name in chosen)
        raise UsageError(f"{flags} exclude each other: stdout carries one result", "Choose one of them.")
    return _WRITERS[chosen[0]] if chosen else None


def _print(request: Request, comparison: Comparison, write: Writer | None) -> None:
    columns = request.settings.compare.columns
    if write is None:
        parts = compact_table(comparison, columns) if columns else tables(comparison)
        for part in parts:
            out().print(part, soft_wrap=False)
    elif write is _write_json or comparison.rows:
        write(comparison, columns)
        for line in [] if comparison.audit.equal or write is _write_json else audit_lines(comparison.audit):
            warn(line.plain.strip())
    for remark in comparison.remarks:
        warn(remark)
    for wanted in comparison.missing:
        say(f"missing: {wanted.label} with seed {wanted.seed}; this trains it:\n  {wanted.command}")


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


def _conclude(request: Request, comparison: Comparison, failures: Sequence[Failure]) -> None:
    """End with an error where runs failed, or where there is nothing to show."""
    if failures:
        names = ", ".join(f"{failure.wanted.label} (exit code {failure.code})" for failure in failures)
        raise VgptError(f"{len(failures)} of the missing runs failed: {names}", "Their errors stand above the tables.")
    if request.settings.compare.run_missing and comparison.missing:
        names = ", ".join(wanted.label for wanted in comparison.missing)
        raise VgptError(
            f"trained, yet not on record under these conditions: {names}", "Its log in --runs-dir says how it ended."
        )
    if comparison.rows:
        return
    what = ", ".join(term.text for term in request.terms) or "any variant"
    where = " under these conditions" if request.fixed else ""
    remedy = "vgpt compare mha gqa mqa --run-missing --preset demo trains three."
    if comparison.missing:
        remedy = "The commands above train what is missing; the same command with --run-missing runs them."
    raise VgptError(f"no finished run of {what}{where} in experiment {request.settings.run.experiment!r}", remedy)
