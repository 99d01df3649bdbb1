"""`vgpt runs`: every run in the directory of runs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import typer
from rich.text import Text

from vgpt.cli.console import notify, out, print_json
from vgpt.cli.options import JsonOption, with_settings
from vgpt.formatting import format_bytes
from vgpt.settings.commands import RunsConfig
from vgpt.settings.loader import Loaded
from vgpt.tracking.listing import Listed, list_runs

_NUMBERS = ("step", "loss", "best val", "size", "age")
_STYLES = {"running": "green", "finished": "", "diverged": "red", "failed": "red"}

_GAP = "  "
_LEFT = 3
"""Columns of words, which are flush left; those of numbers follow."""
_HEAD = [Text(title, style="dim") for title in ("run", "attention", "state", *_NUMBERS)]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("runs")(with_settings(RunsConfig, presets=False)(runs))


def runs(loaded: Loaded[RunsConfig], json: JsonOption = False) -> None:
    """List all runs, the newest first: state, step, loss, size."""
    found = list_runs(loaded.settings.runs_dir)
    if json:
        print_json([asdict(run) | {"age": run.age} for run in found])
        return
    if not found:
        notify(f"no runs in {loaded.settings.runs_dir}; vgpt train makes one")
        return
    console = out()
    rows = [_cells(run) for run in found]
    widths = [max(cell.cell_len for cell in column) for column in zip(*[_HEAD, *rows], strict=True)]
    if sum(widths) + len(_GAP) * (len(widths) - 1) <= console.width:
        lines = [_line(cells, widths) for cells in [_HEAD, *rows]]
    else:
        lines = _stacked(rows, widths, console.width)
    for line in lines:
        console.print(line)


def _cells(run: Listed) -> list[Text]:
    return [
        Text(_printable(run.name)),
        Text(_printable(run.attention)),
        Text(run.state, style=_STYLES.get(run.state, "yellow")),
        Text(f"{run.step}/{'?' if run.steps is None else run.steps}"),
        Text(_loss(run.loss)),
        Text(_loss(run.best_loss)),
        Text(format_bytes(run.bytes)),
        Text(format_age(run.age)),
    ]


def _line(cells: Sequence[Text], widths: Sequence[int], first: int = 0) -> Text:
    """Return cells side by side, the first of them in column `first` of the table."""
    padded: list[Text] = []
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True), start=first):
        space = " " * (width - cell.cell_len)
        padded.append(Text.assemble(cell, space) if number < _LEFT else Text.assemble(space, cell))
    line = Text(_GAP).join(padded)
    line.rstrip()
    return line


def _stacked(rows: Sequence[Sequence[Text]], widths: Sequence[int], room: int) -> Iterator[Text]:
    """Yield each run's name on a line of its own, whole whatever its length, and below it the rest of its row."""
    indent = " " * 4
    beside = len(indent) + sum(widths[1:]) + len(_GAP) * (len(widths) - 2) <= room
    for cells in [_HEAD, *rows]:
        yield cells[0]
        if beside:
            yield Text.assemble(indent, _line(cells[1:], widths[1:], 1))
        else:
            yield Text.assemble(indent, cells[1])
            yield Text.assemble(indent, _line(cells[2:], widths[2:], 2))


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _printable(text: str) -> str:
    """Return a name without control codes: a directory's name may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def format_age(seconds: float) -> str:
    """Return a time as its largest unit: 42s, 7m, 3h, 12d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
