"""`vgpt explain`: one variant taken apart."""

from pathlib import Path
from typing import Annotated

import typer

from vgpt.cli.console import notify, out, print_json
from vgpt.cli.options import JsonOption, variant_argument, with_settings
from vgpt.files.paths import user_path
from vgpt.settings.commands import ExplainConfig
from vgpt.settings.loader import Loaded


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("explain")(with_settings(ExplainConfig, variant="variant")(explain))


def explain(
    loaded: Loaded[ExplainConfig],
    variant: Annotated[
        str,
        variant_argument("as --attn takes it: mla, gqa:n_kv_head=4, 5xlocal+mha"),
    ],
    png: Annotated[
        Path | None, typer.Option("--png", parser=user_path, help="also draw mask and cache into this file")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Explain one attention variant: parameters, FLOPs, cache and mask in a model of these settings."""
    # Neither torch nor numpy is needed for --help.
    from vgpt.attention.build import parameter_shapes
    from vgpt.describe.anatomy import anatomy, anatomy_json
    from vgpt.describe.explain import explanation

    found = anatomy(loaded.settings, parameter_shapes)
    if png is not None:
        from vgpt.describe.figure import draw

        draw(found, png)
        notify(f"drawn: {png}")
    if json:
        print_json(anatomy_json(found))
        return
    for part in explanation(found):
        out().print(part, soft_wrap=False)
