"""`vgpt eval`: loss, perplexity and bits per byte on fixed windows."""

import shlex
from typing import Annotated

import typer

from vgpt.cli.console import key_values, out, print_json
from vgpt.cli.found import chosen_run
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import DataError
from vgpt.settings.evaluate import EvalConfig
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
    from vgpt.cli.live import data_bars
    from vgpt.evaluation.loss import Evaluator
    from vgpt.settings.train import SystemSettings
    from vgpt.training.checkpoint import find_checkpoint
    from vgpt.training.devices import resolve
    from vgpt.training.run import load_data

    settings = loaded.settings
    run = chosen_run(run, settings.runs_dir)
    checkpoint = find_checkpoint(run, runs_dir=settings.runs_dir)
    try:
        data = load_data(settings.data or checkpoint.settings.train.data, data_bars())
    except DataError as error:
        if settings.data is not None:
            raise
        remedy = f"Name where the data lies now: vgpt eval {shlex.quote(run)} --data DIRECTORY"
        raise DataError(f"the data that {run} was trained on cannot be opened: {error.message}", remedy) from error
    if data.tokenizer.fingerprint != checkpoint.tokenizer().fingerprint:
        raise DataError(
            f"{data.directory} was made with another tokenizer than {run}: its ids mean other text",
            f"Prepare the text again with the run's own: vgpt prepare ... --tokenizer {checkpoint.directory}",
        )
    compute = resolve(SystemSettings(device=settings.device, dtype=settings.dtype))
    block_size = checkpoint.model.block_size
    split = data.val if settings.split == "val" else data.train
    windows = settings.windows or max(1, (len(split) - 1) // block_size)
    evaluator = Evaluator(split, data.tokenizer.byte_lengths(), block_size, windows)
    model = checkpoint.load_model(compute.device, flash=settings.flash)
    result = evaluator.evaluate(model, dtype=compute.dtype)
    if json:
        print_json(
            {
                "run": run,
                "checkpoint": checkpoint.directory,
                "step": checkpoint.state.step,
                "split": settings.split,
                "windows": len(result.window_losses),
                "tokens": result.tokens,
                "loss": result.loss,
                "loss_se": None if result.loss_se != result.loss_se else result.loss_se,
                "perplexity": result.perplexity,
                "bits_per_byte": result.bits_per_byte,
                "dtype": compute.dtype_name,
            }
        )
        return
    rows = [
        ("checkpoint", f"{checkpoint.directory} (step {checkpoint.state.step:,})"),
        ("windows", f"{len(result.window_losses):,} of {block_size} tokens, {settings.split}"),
        ("loss", f"{result.loss:.4f} ± {result.loss_se:.4f} nats per token (standard error over windows)"),
        ("perplexity", f"{result.perplexity:.3f}"),
        ("bits per byte", f"{result.bits_per_byte:.4f} ± {result.bits_per_byte_se:.4f}"),
    ]
    out().print(key_values("", rows))
