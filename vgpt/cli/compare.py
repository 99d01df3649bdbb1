"""`vgpt compare`: variants side by side, and the runs that are missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgpt.cli.console import notify, out, print_json, warn
from vgpt.cli.found import mention_data
from vgpt.cli.options import JsonOption, print_settings, variant_argument, with_settings
from vgpt.errors import DivergedError, TrackingError, VgptError
from vgpt.files.paths import user_path
from vgpt.settings.compare import CompareConfig
from vgpt.settings.loader import Sources
from vgpt.settings.prepared import PREPARED

# What reads, compares and draws takes a third of a second to import, which other commands and --help are spared.
if TYPE_CHECKING:
    from vgpt.compare.comparison import Comparison
    from vgpt.compare.request import Request
    from vgpt.study.estimate import ThroughputEstimate
    from vgpt.study.plan import Plan
    from vgpt.study.study import Answered, Study
    from vgpt.study.train_missing import Failure
    from vgpt.tracking.histories import WindowReader
    from vgpt.tracking.run_info import RunInfo


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("compare")(with_settings(CompareConfig)(compare_runs))


def compare_runs(
    sources: Sources,
    show_settings: bool,
    terms: Annotated[
        list[str] | None,
        variant_argument(
            "variants (gqa, gqa:n_kv_head=4) or names of runs, the baseline first; none = all that have runs",
            metavar="VARIANT|RUN",
        ),
    ] = None,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="print one table as CSV, numbers raw")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print one table as Markdown")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="print one table for LaTeX, with booktabs")] = False,
    curves: Annotated[bool, typer.Option("--curves", help="show loss curves under the tables")] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="DIR", parser=user_path, help="draw figures, as PNG and SVG, into a directory"),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", parser=user_path, help="write a report of one file for a browser"),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="log figures, tables and report to MLflow, as a run of their own")
    ] = False,
) -> None:
    """Lay variants side by side: loss, cost and cache, with what is equal and what is not.

    With a preset or any setting of the runs, the runs of exactly those settings are shown; without, the newest ones.
    A list of values for --pos, --lr, --match or --max-tokens makes a comparison for each: --pos learned,rope.
    """
    from vgpt.cli.compare_speeds import attach_speeds, measure_speeds
    from vgpt.cli.compare_views import Views, chosen_format
    from vgpt.compare.request import settings_of_first
    from vgpt.study.estimate import ThroughputEstimate
    from vgpt.study.plan import distinct, make_plan
    from vgpt.study.study import make_study
    from vgpt.tracking.histories import WindowReader

    study = make_study(terms or [], sources)
    stdout = chosen_format(json=json, csv=csv, markdown=markdown, latex=latex)
    run = study.first.settings.run
    # One reader for tables and figures: each run's losses may have to come from a server.
    windows = WindowReader(mlflow=run.tracker == "mlflow", tracking_uri=run.tracking_uri)
    views = Views(stdout, curves=curves, plot=plot, html=html, log=log, windows=windows)
    views.check(study.first)
    if show_settings:
        print_settings(settings_of_first(study.first), as_json=json)
    options = study.first.settings.compare
    origin = study.first.origins["data"]
    if origin.startswith(PREPARED) and (study.first.fixed or options.run_missing):
        mention_data(study.first.settings.train.data, origin)
    runs = _recorded(study.first)
    answers = _answers(study, runs, windows)
    throughput = ThroughputEstimate(runs)
    plan = make_plan([answer.comparison for answer in answers], throughput)
    if options.plan:
        _print_plan(plan, as_json=json)
        return
    failures: list[Failure] = []
    stages = 2 if options.sweep_lr else 1  # the second trains what the first has chosen
    while options.run_missing and plan.missing and stages and not failures:
        failures = _train(plan, throughput)
        if options.sweep_lr:  # a rate that is too high is an answer, and no failure
            failures = [failure for failure in failures if failure.code != DivergedError.exit_code]
        answers = _answers(study, _recorded(study.first), windows)
        plan, stages = make_plan([answer.comparison for answer in answers], throughput), stages - 1
        _gather(study, answers)
    if options.run_missing and options.bench and not failures:
        measure_speeds(answers)
    answers = attach_speeds(answers)
    views.show(study, answers)
    for answer in answers:
        for remark in answer.comparison.remarks:
            warn(f"{answer.part.title}: {remark}" if answer.part.title else remark)
    comparisons = [answer.comparison for answer in answers]
    for wanted in distinct(wanted for comparison in comparisons for wanted in comparison.missing):
        notify(f"missing: {wanted.label} with seed {wanted.seed}; this trains it:\n  {wanted.command}")
    _conclude(study.first, comparisons, failures)


def _answers(study: "Study", runs: "Sequence[RunInfo]", windows: "WindowReader") -> "list[Answered]":
    from vgpt.cli.compare_views import histories_of, mention_failure
    from vgpt.compare.comparison import as_one_family
    from vgpt.study.study import Answered

    histories = histories_of(study.first, details=True)
    try:
        found = as_one_family([part.answer(runs, windows, histories) for part in study.parts])
    finally:
        mention_failure(histories)
    return [Answered(part, one) for part, one in zip(study.parts, found, strict=True)]


def _recorded(request: "Request") -> "list[RunInfo]":
    """Return all runs on record: those of MLflow, and those of the journals, which are never behind."""
    from vgpt.tracking.store import merge_runs, read_local_runs, read_runs

    run = request.settings.run
    local = read_local_runs(run.runs_dir, experiment=run.experiment, say=warn)
    if run.tracker == "journal":
        return local
    try:
        stored = read_runs(experiment=run.experiment, tracking_uri=run.tracking_uri)
    except TrackingError as error:
        journals = f"`--tracker journal` compares what the journals in {run.runs_dir} hold, without MLflow."
        raise TrackingError(error.message, f"{error.hint}\n{journals}".strip()) from error
    return merge_runs(local, stored)


def _train(plan: "Plan", throughput: "ThroughputEstimate") -> "list[Failure]":
    from vgpt.study.train_missing import TrainingInterrupted, train_missing

    notify(plan.sentence())
    try:
        return train_missing(plan.missing, notify, throughput=throughput)
    except TrainingInterrupted as stop:
        warn("stopped; what was trained is saved, and the same command resumes it")
        raise typer.Exit(stop.code) from None


def _gather(study: "Study", answers: "Sequence[Answered]") -> None:
    """Put the runs of a study under its name in MLflow; what MLflow refuses is a note, and no failure."""
    from vgpt.tracking.report_runs import gather_under_study

    run = study.first.settings.run
    if not study.name or run.tracker != "mlflow":
        return
    runs = [one for answer in answers for one in answer.comparison.recorded]
    try:
        gather_under_study(study.name, experiment=run.experiment, runs=runs, tracking_uri=run.tracking_uri)
    except TrackingError as error:
        warn(f"the runs are not gathered under {study.name!r} in MLflow: {error.message}")


def _print_plan(plan: "Plan", *, as_json: bool) -> None:
    from vgpt.report.study_tables import plan_json, plan_table

    if as_json:
        print_json(plan_json(plan))
    else:
        out().print(plan_table(plan), soft_wrap=False)


def _conclude(request: "Request", comparisons: "Sequence[Comparison]", failures: "Sequence[Failure]") -> None:
    """End with an error where runs failed, or where there is nothing to show."""
    from vgpt.study.plan import distinct

    missing = distinct(wanted for comparison in comparisons for wanted in comparison.missing)
    if failures:
        names = ", ".join(f"{failure.planned.label} (exit code {failure.code})" for failure in failures)
        raise VgptError(f"{len(failures)} of the missing runs failed: {names}", "Their errors stand above the tables.")
    if request.settings.compare.run_missing and missing:
        names = ", ".join(wanted.label for wanted in missing)
        raise VgptError(
            f"trained, yet not on record under these conditions: {names}", "Its log in --runs-dir says how it ended."
        )
    if any(comparison.rows for comparison in comparisons):
        return
    what = ", ".join(term.text for term in request.selectors) or "any variant"
    where = " under these conditions" if request.fixed else ""
    remedy = "vgpt compare mha gqa mqa --run-missing --preset demo trains three."
    if missing:
        remedy = "The commands above train what is missing; the same command with --run-missing runs them."
    raise VgptError(f"no finished run of {what}{where} in experiment {request.settings.run.experiment!r}", remedy)
