"""`vgpt export` and `vgpt import`: models that leave the lab, and models that come into it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vgpt.cli.console import key_values, notify, out, print_json
from vgpt.cli.options import JsonOption, with_settings
from vgpt.formatting import counted
from vgpt.settings.interchange import ExportConfig, ImportConfig
from vgpt.settings.loader import Loaded


def add_to(app: typer.Typer) -> None:
    """Register both commands."""
    app.command("export")(with_settings(ExportConfig, presets=False)(export))
    app.command("import")(with_settings(ImportConfig, presets=False)(import_model))


def export(
    loaded: Loaded[ExportConfig],
    run: Annotated[str, typer.Argument(help="run name, run directory or checkpoint directory")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="directory to write; there is none yet")],
    json: JsonOption = False,
) -> None:
    """Write a trained model as a directory that transformers loads, and check that it is the model."""
    from vgpt.interchange.export import export_run

    settings = loaded.settings
    found = export_run(run, directory.expanduser(), runs_dir=settings.runs_dir, classes=settings.classes, notify=notify)
    if json:
        print_json({name: str(value) if isinstance(value, Path) else value for name, value in asdict(found).items()})
        return
    code = "code of its own: load it with trust_remote_code=True" if found.own_code else "a class of transformers"
    rows = [
        ("directory", found.directory),
        ("checkpoint", f"{found.checkpoint} (step {found.step:,})"),
        ("class", f"{found.architecture} ({code})"),
        ("largest difference", f"{found.difference:.2e} in logits, float32, {found.tokens:,} random tokens"),
        *([("note", found.note)] if found.note else []),
    ]
    out().print(key_values("", rows))


def import_model(
    loaded: Loaded[ImportConfig],
    place: Annotated[str, typer.Argument(metavar="hf:DIR", help="directory with config.json and safetensors")],
    json: JsonOption = False,
) -> None:
    """Make a run of a GPT-2 or GPTBigCode directory: it evaluates, samples, compares and fine-tunes like any other."""
    from vgpt.interchange.importing import import_run

    found = import_run(place, loaded.settings, notify)
    if json:
        told = {name: value for name, value in vars(found).items() if name != "model"}
        print_json({**told, "directory": str(found.directory), "attn": found.model.attn.kind})
        return
    config = found.model
    blocks = f"{counted(config.n_layer, 'layer')}, {counted(config.n_head, 'head')}"
    sizes = f"{blocks}, width {config.n_embd}, context {config.block_size:,}"
    rows = [
        ("run", f"{found.name} ({found.directory})"),
        ("weights", f"{found.source}, SHA-256 {found.digest[:16]}"),
        ("model", f"{config.attn.kind}, {sizes}, {found.parameters:,} parameters"),
        ("tokenizer", f"{found.tokenizer}, {config.vocab_size:,} ids"),
        *([("loss", f"{found.loss:.4f} nats per token")] if found.loss is not None else []),
    ]
    out().print(key_values("", rows))
