"""`vgpt convert`: a trained run with another attention."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from vgpt.cli.console import key_values, notify, out, print_json, warn, with_noise
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import UsageError
from vgpt.settings.interchange import ConvertConfig
from vgpt.settings.loader import Loaded


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("convert")(with_settings(ConvertConfig, presets=False)(convert))


def convert(
    loaded: Loaded[ConvertConfig],
    run: Annotated[
        str | None, typer.Argument(help="run name, run directory or checkpoint directory; none = finished last")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a run that starts from a trained one's weights with another attention, to be trained on (uptraining).

    Key and value heads are mean-pooled or repeated; MLA gets low-rank factors of their weights;
    windows, sparse and linear attention take them as they are. The rest of the model stays.
    """
    settings = loaded.settings
    if loaded.origins["attn"] == "default":
        raise UsageError("nothing says what the attention becomes", "Name it: vgpt convert RUN --attn gqa:n_kv_head=2")
    # Neither torch nor numpy is needed for --help.
    from vgpt.api.converting import BIASED
    from vgpt.api.found import chosen_run
    from vgpt.attention.grammar import full_label, short_label
    from vgpt.cli.live import data_bars
    from vgpt.interchange.convert import convert_run

    made = convert_run(chosen_run(run, settings.runs_dir, notify), settings, data_bars())
    origin, config = made.origin, made.config
    if json:
        figures: dict[str, Any] = {
            "run": config.name,
            "directory": config.directory,
            "attention": full_label(config.model.attn),
            "source": {"run": origin.run, "id": origin.id, "step": origin.step, "attention": origin.attn},
            "weights": origin.weights,
            "windows": origin.windows,
            "loss_before": made.before.loss,
            "loss_before_se": made.before.loss_se,
            "loss_after": made.after.loss,
            "loss_after_se": made.after.loss_se,
            "notes": list(origin.notes),
            "train": made.command,
        }
        print_json(figures)
        return
    rows = [
        ("run", config.directory),
        ("source", f"{origin.run} at step {origin.step:,}, {origin.attn}"),
        ("attention", short_label(config.model.attn)),
        *(("map", note) for note in origin.notes),
        ("loss before", with_noise(made.before.loss, made.before.loss_se, "standard error over windows")),
        ("loss after", with_noise(made.after.loss, made.after.loss_se)),
    ]
    out().print(key_values("", rows))
    out().print(f"To train it on:\n{escape(made.command)}")
    warn(BIASED)
