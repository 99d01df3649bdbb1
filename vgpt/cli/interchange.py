"""`vgpt export` and `vgpt import`: models that leave the lab, and models that come into it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vgpt.cli.console import key_values, notify, out, print_json
from vgpt.cli.options import JsonOption, with_settings
from vgpt.settings.commands import ExportConfig
from vgpt.settings.loader import Loaded


def add_to(app: typer.Typer) -> None:
    """Register both commands."""
    app.command("export")(with_settings(ExportConfig, presets=False)(export))


def export(
    loaded: Loaded[ExportConfig],
    run: Annotated[str, typer.Argument(help="run name, run directory or checkpoint directory")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="directory to write; there is none yet")],
    json: JsonOption = False,
) -> None:
    """Write a trained model as a directory that transformers loads, and check that it is the model."""
    from vgpt.interchange.export import export_run

    settings = loaded.settings
    found = export_run(run, directory.expanduser(), runs_dir=settings.runs_dir, classes=settings.classes, say=notify)
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
