"""`vgpt eval`: loss, perplexity and bits per byte on fixed windows, and the loss by kinds of tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgpt.cli.console import key_values, notify, out, print_json, with_noise
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import UsageError
from vgpt.files.paths import user_path
from vgpt.settings.commands import EvalConfig
from vgpt.settings.loader import Loaded

if TYPE_CHECKING:
    from vgpt.api.evaluating import Evaluation

PlotOption = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="DIR", parser=user_path, help="draw the loss by position and length, as PNG and SVG"
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("eval")(with_settings(EvalConfig, presets=False)(evaluate))


def evaluate(
    loaded: Loaded[EvalConfig],
    run: Annotated[
        str | None, typer.Argument(help="run name, run directory or checkpoint directory; none = finished last")
    ] = None,
    json: JsonOption = False,
    plot: PlotOption = None,
) -> None:
    """Evaluate a trained model on fixed windows of text that is held out.

    Beside the loss: by tokens of context, on bigrams of the window that come again, in windows of other lengths. With
    --text, the loss on a text of one's own; with --suite, tasks of lm-evaluation-harness.
    """
    from vgpt.api.evaluating import evaluate_run
    from vgpt.api.found import chosen_run
    from vgpt.cli.live import data_bars

    settings = loaded.settings
    if plot is not None and not (settings.by_position or settings.lengths):
        raise UsageError(
            "--plot has nothing to draw: one loss is no curve", "Add --by-position, or --lengths 128,512,2048."
        )
    if settings.suite:
        _suites(chosen_run(run, settings.runs_dir, notify), settings, as_json=json)
        return
    found = evaluate_run(chosen_run(run, settings.runs_dir, notify), settings, data_bars())
    if json:
        _print_json(found)
    else:
        _print_tables(found)
    if plot is not None:
        from vgpt.report.figures.breakdowns import draw_one
        from vgpt.report.figures.write import save_figures

        for path in save_figures(draw_one(found.run, found.breakdowns), plot):
            notify(f"wrote {path}")
    for note in found.notes:
        notify(note)


def _print_json(found: "Evaluation") -> None:
    from vgpt.report.breakdowns.one_run import breakdowns_json

    told = ("run", "checkpoint", "step", "split", "windows", "tokens", "loss", "loss_se", "perplexity")
    figures = found.figures()
    shown = {name: figures[name] for name in (*told, "bits_per_byte", "dtype")}
    parts = breakdowns_json(found.breakdowns)
    print_json(shown | ({"breakdowns": parts} if parts else {}))


def _print_tables(found: "Evaluation") -> None:
    from vgpt.report.breakdowns.one_run import breakdown_tables

    rows = [
        ("checkpoint", f"{found.checkpoint} (step {found.step:,})"),
        ("windows", f"{found.windows:,} of {found.block_size} tokens, {found.split}"),
        ("tokens", f"{found.tokens:,}"),
        ("loss", with_noise(found.loss, found.loss_se, "standard error over windows", unit="nats per token")),
        ("perplexity", f"{found.perplexity:.3f}"),
        ("bits per byte", with_noise(found.bits_per_byte, found.bits_per_byte_se)),
    ]
    out().print(key_values("", rows))
    for part in breakdown_tables(found.breakdowns):
        out().print(part, soft_wrap=False)


def _suites(run: str, settings: EvalConfig, *, as_json: bool) -> None:
    """Evaluate on standard suites."""
    from vgpt.api.suites import run_suites
    from vgpt.cli.live import data_bars
    from vgpt.report.suites.one_run import suite_table

    found = run_suites(run, settings, data_bars())
    if as_json:
        print_json(found.table())
    else:
        out().print(key_values("", [("checkpoint", f"{found.checkpoint} (step {found.step:,})")]))
        out().print(suite_table(found.tasks), soft_wrap=False)
    for note in found.notes:
        notify(note)
