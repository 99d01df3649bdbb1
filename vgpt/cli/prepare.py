"""`vgpt prepare`: text to tokenizer, train.bin and val.bin."""

import shlex
from typing import Annotated

import typer

from vgpt.cli.console import key_values, out, print_json, warn
from vgpt.cli.options import JsonOption, with_settings
from vgpt.formatting import counted
from vgpt.settings.commands import PrepareConfig
from vgpt.settings.loader import Loaded
from vgpt.settings.prepared import remember_prepared


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("prepare")(with_settings(PrepareConfig, presets=False)(prepare))


def prepare(
    loaded: Loaded[PrepareConfig],
    inputs: Annotated[
        list[str], typer.Argument(help="files, directories or globs; - reads standard input, demo is built in")
    ],
    json: JsonOption = False,
) -> None:
    """Turn text into a tokenizer and token files to train on.

    Reads .txt, .md, .py, .jsonl and .parquet, also compressed with gzip.
    """
    from vgpt.cli.live import data_bars
    from vgpt.data.prepare import prepare as run

    manifest = run(inputs, loaded.settings, data_bars(), warn)
    try:
        remember_prepared(loaded.settings.out)
    except OSError as error:
        warn(f"this directory does not remember the data ({error.strerror or error}): name it by --data")
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    place = loaded.settings.out
    rows = [
        ("directory", place),
        ("tokenizer", f"{manifest.tokenizer_name}, {manifest.vocab_size:,} tokens"),
        *(
            (split, f"{counts.tokens:,} tokens of {counts.bytes:,} bytes, {counted(counts.documents, 'document')}")
            for split, counts in manifest.splits.items()
        ),
        *([("left out", _left_out(manifest.source.skipped_files))] if manifest.source.skipped_files else []),
        ("next", f"vgpt train --data {shlex.quote(str(place))}"),
    ]
    out().print(key_values("", rows))


def _left_out(files: int) -> str:
    return f"{counted(files, 'file')} in folders: of another format, hidden, or a link to nowhere"
