"""`vgpt variants`: what there is, and what each costs."""

from typing import Annotated

import typer

from vgpt.cli.console import out, print_json
from vgpt.cli.options import JsonOption, print_settings, variant_argument, with_settings
from vgpt.settings.commands import VariantsConfig
from vgpt.settings.loader import Sources, load_settings


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("variants")(with_settings(VariantsConfig, variant="names")(show_variants))


def show_variants(
    sources: Sources,
    show_settings: bool,
    names: Annotated[
        list[str] | None,
        variant_argument("those to list, also with settings (gqa:n_kv_head=4); none = all"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the attention variants with what each costs in a model of these settings."""
    from vgpt.describe.variants import list_variants, listing_json, listing_tables

    if show_settings:
        print_settings(load_settings(VariantsConfig, sources), as_json=json)
    listing = list_variants(names or [], sources)
    if json:
        print_json(listing_json(listing))
        return
    for part in listing_tables(listing):
        out().print(part, soft_wrap=False)
