"""`vgpt eval`: loss, perplexity and bits per byte on fixed windows."""

from typing import Annotated

import typer

from vgpt.cli.console import key_values, notify, out, print_json, with_noise
from vgpt.cli.options import JsonOption, with_settings
from vgpt.settings.commands import EvalConfig
from vgpt.settings.loader import Loaded


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("eval")(with_settings(EvalConfig, presets=False)(evaluate))


def evaluate(
    loaded: Loaded[EvalConfig],
    run: Annotated[
        str | None, typer.Argument(help="run name, run directory or checkpoint directory; none = finished last")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Evaluate a trained model on fixed windows of text that is held out."""
    from vgpt.api.evaluating import evaluate_run
    from vgpt.api.found import chosen_run
    from vgpt.cli.live import data_bars

    settings = loaded.settings
    found = evaluate_run(chosen_run(run, settings.runs_dir, notify), settings, data_bars())
    if json:
        told = ("run", "checkpoint", "step", "split", "windows", "tokens", "loss", "loss_se", "perplexity")
        figures = found.figures()
        print_json({name: figures[name] for name in (*told, "bits_per_byte", "dtype")})
        return
    rows = [
        ("checkpoint", f"{found.checkpoint} (step {found.step:,})"),
        ("windows", f"{found.windows:,} of {found.block_size} tokens, {found.split}"),
        ("loss", with_noise(found.loss, found.loss_se, "standard error over windows", unit="nats per token")),
        ("perplexity", f"{found.perplexity:.3f}"),
        ("bits per byte", with_noise(found.bits_per_byte, found.bits_per_byte_se)),
    ]
    out().print(key_values("", rows))
