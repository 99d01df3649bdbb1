"""`vgpt probe`: what variants can do, by small models of each that learn tasks with equal effort."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgpt.cli.console import notify, out, print_json, warn
from vgpt.cli.options import JsonOption, print_settings, variant_argument, with_settings
from vgpt.files.paths import user_path
from vgpt.settings.loader import Sources
from vgpt.settings.probe import ProbeConfig, small_sizes

# Tasks need numpy, and trainings torch; --help is spared both.
if TYPE_CHECKING:
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
    from vgpt.api.probing import card_of, log_card, plan_of
    from vgpt.compare.selectors import settings_of_each

    loaded = settings_of_each(ProbeConfig, names, replace(sources, preset=small_sizes()))
    first = next(iter(loaded.values()))
    for note in dict.fromkeys(note for one in loaded.values() for note in one.notes):
        warn(note)
    if show_settings:
        print_settings(first, as_json=json)
    config = first.settings
    planned = plan_of({label: one.settings for label, one in loaded.items()})
    _announce(planned, config)
    if plan:
        _show_plan(planned, as_json=json)
        return
    failures: list[str] = []
    planned = _train(planned, config, failures)
    card = card_of(planned)
    if json:
        print_json(card.as_json())
    else:
        _print(card)
    _keep(card, html, plot)
    log_card(card, planned, config, notify, warn)
    if failures:
        raise typer.Exit(1)


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


def _train(plan: "ProbePlan", config: ProbeConfig, failures: list[str]) -> "ProbePlan":
    """Train what is missing, and return the plan with what is on record then; what failed is told, and listed."""
    from vgpt.api.probing import train_plan
    from vgpt.cli.live import data_bars
    from vgpt.probe.plan import with_records

    def failed(reason: str) -> None:
        failures.append(reason)
        warn(reason)

    try:
        return train_plan(plan, config, data_bars(), failed)
    except KeyboardInterrupt:
        left = len(with_records(plan, config.run.probe_dir).missing)
        notify(f"stopped: {left:,} of {len(plan.trials):,} trainings are left; the same command goes on with them")
        raise typer.Exit(_INTERRUPTED) from None


def _print(card: "Card") -> None:
    from vgpt.report.probe_card import card_tables

    for part in card_tables(card):
        out().print(part, soft_wrap=False)


def _keep(card: "Card", html: Path | None, plot: Path | None) -> None:
    """Write page and figures."""
    from vgpt.report.figures.probe import draw_card
    from vgpt.report.figures.write import save_figures
    from vgpt.report.html.page import save_html
    from vgpt.report.probe_card import card_page

    if plot is not None:
        notify(f"wrote {', '.join(path.name for path in save_figures(draw_card(card), plot))} in {plot}")
    if html is not None:
        save_html(card_page(card), html)
        notify(f"wrote {html}")
