"""`vgpt new-variant`: a plug-in to begin with."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from vgpt.cli.console import key_values, out
from vgpt.files.paths import user_path


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("new-variant")(new_variant)


def new_variant(
    name: Annotated[str, typer.Argument(metavar="NAME", help="what --attn is to take")],
    place: Annotated[
        Path, typer.Option("--out", metavar="DIR", parser=user_path, help="directory of the files; made where missing")
    ] = Path(),
) -> None:
    """Write an attention variant of your own: a plug-in that works as it stands, and its test.

    Files that are there already are never replaced.
    """
    from vgpt.describe import new_variant as templates

    made = templates.new_variant(name, place)
    place.mkdir(parents=True, exist_ok=True)
    for path, text in made.files.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    plugin = shlex.quote(str(made.plugin))
    rows = [
        ("variant", f"{made.plugin}: settings, module, cache"),
        ("test", f"{made.test}: pytest {shlex.quote(str(made.test))}"),
        ("check it", f"vgpt --plugin {plugin} verify {made.kind}"),
        ("compare it", f"vgpt --plugin {plugin} compare mha {made.kind} --run-missing --preset demo"),
        ("always", f"export VGPT_PLUGINS={shlex.quote(str(made.plugin.absolute()))}"),
        ("in a package", f'[project.entry-points."vgpt.attention"] {made.kind} = "my_package.{made.plugin.stem}"'),
    ]
    out().print(key_values("", rows))
