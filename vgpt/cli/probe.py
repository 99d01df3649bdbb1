"""`vgpt probe`: what variants can do, by small models of each that learn tasks with equal effort."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgpt.cli.console import notify, out, print_json, warn
from vgpt.cli.options import JsonOption, print_settings, settings_of_each, variant_argument, with_settings
from vgpt.errors import TrackingError, UsageError
from vgpt.files.paths import user_path
from vgpt.settings.loader import Sources
from vgpt.settings.probe import ProbeConfig, small_sizes

# Tasks need numpy, and trainings torch; --help is spared both.
if TYPE_CHECKING:
    from vgpt.evaluation.tasks.base import Task
    from vgpt.probe.card import Card
    from vgpt.probe.plan import ProbePlan

_INTERRUPTED = 130


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("probe")(with_settings(ProbeConfig, presets=False, variant="names")(probe))


def probe(
    sources: Sources,
    show_settings: bool,
    names: Annotated[list[str], variant_argument("what --attn takes (gqa, gqa:n_kv_head=2, local+mha)")],
    plan: Annotated[bool, typer.Option("--plan", help="say what would be trained and how long it takes")] = False,
    json: JsonOption = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", parser=user_path, help="write the card as a page for a browser"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="DIR", parser=user_path, help="draw figures, as PNG and SVG, into a directory"),
    ] = None,
) -> None:
    """Measure what variants can do: small models of each learn tasks of recall, state and length with equal effort.

    Every variant gets the same rates, seeds and steps; validation chooses, the test is reported.

    Where the control of a task fails, the card says inconclusive. Started again, a probe goes on where it was.
    """
    loaded = settings_of_each(ProbeConfig, names, replace(sources, preset=small_sizes()))
    first = next(iter(loaded.values()))
    for note in dict.fromkeys(note for one in loaded.values() for note in one.notes):
        warn(note)
    if show_settings:
        print_settings(first, as_json=json)
    config = first.settings
    from vgpt.probe.plan import make_plan

    planned = make_plan(_tasks(config), {label: one.settings for label, one in loaded.items()})
    _announce(planned, config)
    if plan:
        _show_plan(planned, as_json=json)
        return
    planned, failed = _train(planned, config)
    card = _card(planned)
    if json:
        print_json(card.as_json())
    else:
        _print(card)
    _keep(card, planned, config, html, plot)
    if failed:
        raise typer.Exit(1)


def _tasks(config: ProbeConfig) -> "list[Task]":
    """Return the tasks that are asked for.

    Raises:
        SettingsError: one is unknown, or its settings are wrong.
        UsageError: one is named twice.
    """
    from vgpt.evaluation.tasks.registry import resolve_task, split_tasks, task_label

    found = [resolve_task(text) for text in split_tasks(",".join(config.probe.tasks))]
    labels = [task_label(task) for task in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError(f"--tasks names {twice} twice", "Name each task once.")
    return found


def _announce(plan: "ProbePlan", config: ProbeConfig) -> None:
    from vgpt.formatting import format_duration
    from vgpt.probe.run import jobs_for

    trials, missing = plan.trials, plan.missing
    done = f", {len(trials) - len(missing):,} of them on record in {config.run.probe_dir}"
    told = f"plan: {len(trials):,} trainings{done if len(missing) < len(trials) else ''}"
    if missing:
        jobs = jobs_for(config.probe.jobs, len(missing))
        told += f"; about {format_duration(plan.seconds(jobs))} for the others, {jobs} at a time"
    notify(told)


def _show_plan(plan: "ProbePlan", *, as_json: bool) -> None:
    from vgpt.report.probe_card import plan_table

    if as_json:
        missing = set(plan.missing)
        print_json([{**trial.as_table(), "on_record": trial not in missing} for trial in plan.trials])
    else:
        out().print(plan_table(plan), soft_wrap=False)


def _train(plan: "ProbePlan", config: ProbeConfig) -> "tuple[ProbePlan, bool]":
    """Train what is missing; return the plan with all that is on record then, and whether anything failed."""
    from vgpt.cli.live import data_bars
    from vgpt.probe.plan import with_records
    from vgpt.probe.run import jobs_for, run_trials

    missing, directory = plan.missing, config.run.probe_dir
    try:
        failures = run_trials(missing, directory, jobs_for(config.probe.jobs, len(missing)), data_bars())
    except KeyboardInterrupt:
        left = len(with_records(plan, directory).missing)
        notify(f"stopped: {left:,} of {len(plan.trials):,} trainings are left; the same command goes on with them")
        raise typer.Exit(_INTERRUPTED) from None
    for failure in failures:
        trial = failure.trial
        warn(f"{trial.recipe.task}, {trial.label}, rate {trial.lr:g}, seed {trial.seed}: {failure.reason}")
    return with_records(plan, directory), bool(failures)


def _card(plan: "ProbePlan") -> "Card":
    from importlib.metadata import version

    from vgpt.package import VERSION
    from vgpt.probe.card import make_card

    return make_card(plan, facts={"vgpt": VERSION, "torch": version("torch")}, made=time.time())


def _print(card: "Card") -> None:
    from vgpt.report.probe_card import card_tables

    for part in card_tables(card):
        out().print(part, soft_wrap=False)


def _keep(card: "Card", plan: "ProbePlan", config: ProbeConfig, html: Path | None, plot: Path | None) -> None:
    """Write page and figures, and bring everything to MLflow; what MLflow refuses is a note, and no failure."""
    from vgpt.probe.logged import is_logged, log_probe
    from vgpt.report.figures.probe import draw_card
    from vgpt.report.figures.write import save_figures
    from vgpt.report.html.page import save_html
    from vgpt.report.probe_card import card_files, card_page

    records, directory = config.run, config.run.probe_dir
    if plot is not None:
        notify(f"wrote {', '.join(path.name for path in save_figures(draw_card(card), plot))} in {plot}")
    if html is not None:
        save_html(card_page(card), html)
        notify(f"wrote {html}")
    if records.tracker == "journal" or not plan.outcomes:
        return
    store = {"experiment": records.experiment, "tracking_uri": records.tracking_uri}
    try:
        if not is_logged(plan, directory, **store):
            name = f"probe {' '.join(card.labels)}"[:200]
            run_id = log_probe(plan, directory, name=name, files=card_files(card), **store)
            notify(f"logged as run {run_id} of experiment {records.experiment!r}")
    except TrackingError as error:
        warn(f"the results were not logged: {error.message}")
