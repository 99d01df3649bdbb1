"""`vgpt compare`: variants side by side, and the runs that are missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgpt.cli.console import mention_data, notify, out, print_json, warn
from vgpt.cli.options import JsonOption, print_settings, variant_argument, with_settings
from vgpt.cli.study.require import RequireOption
from vgpt.files.paths import user_path
from vgpt.settings.compare import CompareConfig
from vgpt.settings.loader import Sources
from vgpt.settings.prepared import PREPARED

# What reads, compares and draws takes a third of a second to import, which other commands and --help are spared.
if TYPE_CHECKING:
    from vgpt.compare.request import PlannedRun
    from vgpt.study.answers import StudyAnswers
    from vgpt.study.plan import Plan
    from vgpt.study.study import Answered

TermsArgument = Annotated[
    list[str] | None,
    variant_argument(
        "variants (gqa, gqa:n_kv_head=4) or names of runs, the baseline first; none = all that have runs",
        metavar="VARIANT|RUN",
    ),
]
CsvOption = Annotated[bool, typer.Option("--csv", help="print one table as CSV, numbers raw")]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="print one table as Markdown")]
LatexOption = Annotated[bool, typer.Option("--latex", help="print one table for LaTeX, with booktabs")]
CurvesOption = Annotated[bool, typer.Option("--curves", help="show loss curves under the tables")]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", metavar="DIR", parser=user_path, help="draw figures, as PNG and SVG, into a directory"),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", parser=user_path, help="write a report of one file for a browser"),
]
LogOption = Annotated[
    bool, typer.Option("--log", help="log figures, tables and report to MLflow, as a run of their own")
]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("compare")(with_settings(CompareConfig)(compare_runs))


def compare_runs(
    sources: Sources,
    show_settings: bool,
    terms: TermsArgument = None,
    json: JsonOption = False,
    csv: CsvOption = False,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    curves: CurvesOption = False,
    plot: PlotOption = None,
    html: HtmlOption = None,
    log: LogOption = False,
    require: RequireOption = None,
) -> None:
    """Lay variants side by side: loss, cost and cache, with what is equal and what is not.

    With a preset or any setting of the runs, the runs of exactly those settings are shown; without, the newest ones.
    A list of values for --pos, --lr, --match or --max-tokens makes a comparison for each: --pos learned,rope.
    """
    from vgpt.api.breakdowns import attach_breakdowns
    from vgpt.api.speeds import attach_speeds, measure_speeds
    from vgpt.api.suites import attach_suites
    from vgpt.cli.live import data_bars
    from vgpt.cli.study.compare_views import Views, chosen_format
    from vgpt.cli.study.require import end_as_required
    from vgpt.compare.request import settings_of_first
    from vgpt.study.answers import StudyAnswers
    from vgpt.study.requirements import make_required_study
    from vgpt.tracking.histories import WindowReader

    study = make_required_study(terms or [], sources, require or [])
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
    found = StudyAnswers(study, windows, notify, warn)
    if options.plan:
        _print_plan(found.plan, as_json=json)
        return
    if options.run_missing:
        _train(found)
        if options.bench and not found.failures:
            measure_speeds(found.answers, notify, warn, data_bars())
    answers = attach_suites(attach_breakdowns(attach_speeds(found.look())))
    views.show(study, answers)
    _tell_what_is_missing(answers, found.missing)
    found.conclude()
    end_as_required(study, answers)


def _train(found: "StudyAnswers") -> None:
    from vgpt.study.train_missing import TrainingInterrupted

    try:
        found.train_missing()
    except TrainingInterrupted as stop:
        warn("stopped; what was trained is saved, and the same command resumes it")
        raise typer.Exit(stop.code) from None


def _tell_what_is_missing(answers: "Sequence[Answered]", missing: "Sequence[PlannedRun]") -> None:
    for answer in answers:
        for remark in answer.comparison.remarks:
            warn(f"{answer.part.title}: {remark}" if answer.part.title else remark)
    for wanted in missing:
        notify(f"missing: {wanted.title} with seed {wanted.seed}; this trains it:\n  {wanted.command}")


def _print_plan(plan: "Plan", *, as_json: bool) -> None:
    from vgpt.report.study_tables import plan_json, plan_table

    if as_json:
        print_json(plan_json(plan))
    else:
        out().print(plan_table(plan), soft_wrap=False)
