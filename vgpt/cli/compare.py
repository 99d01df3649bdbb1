"""`vgpt compare`: variants side by side, and the runs that are missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vgpt.attention.registry import variants
from vgpt.cli.compare_views import Views, chosen_format, histories_of, mention_failure
from vgpt.cli.console import say, warn
from vgpt.cli.options import JsonOption, print_settings, with_settings
from vgpt.errors import TrackingError, VgptError
from vgpt.report.comparison import Comparison, compare
from vgpt.report.missing import Failure, TrainingInterrupted, train_missing
from vgpt.report.plan import Request, make_request, settings_of_first
from vgpt.settings.compare import CompareConfig
from vgpt.settings.loader import Sources
from vgpt.tracking.store import RunInfo, merge_runs, read_local_runs, read_runs
from vgpt.tracking.windows import WindowReader


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
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="draw figures, as PNG and SVG, into a directory")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="write a report of one file for a browser")
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="log figures, tables and report to MLflow, as a run of their own")
    ] = False,
) -> None:
    """Lay variants side by side: loss, cost and cache, with what is equal and what is not.

    With a preset or any setting of the runs, the runs of exactly those settings are shown; without, the newest ones.
    """
    request = make_request(terms or [], sources)
    stdout = chosen_format(json=json, csv=csv, markdown=markdown, latex=latex)
    views = Views(stdout, curves=curves, plot=plot, html=html, log=log)
    views.check(request)
    if show_settings:
        print_settings(settings_of_first(request), as_json=json)
    comparison = _compare(request)
    failures: list[Failure] = []
    if request.settings.compare.run_missing and comparison.missing:
        failures = _train(comparison)
        comparison = _compare(request)
    views.show(request, comparison)
    for remark in comparison.remarks:
        warn(remark)
    for wanted in comparison.missing:
        say(f"missing: {wanted.label} with seed {wanted.seed}; this trains it:\n  {wanted.command}")
    _conclude(request, comparison, failures)


def _compare(request: Request) -> Comparison:
    run = request.settings.run
    windows = WindowReader(mlflow=run.tracker == "mlflow", tracking_uri=run.tracking_uri)
    histories = histories_of(request, details=True)
    try:
        return compare(request, _recorded(request), windows=windows, histories=histories)
    finally:
        mention_failure(histories)


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
