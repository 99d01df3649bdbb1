"""`vgpt runs`: every run in the directory of runs."""

from dataclasses import asdict

import typer
from rich.table import Table
from rich.text import Text

from vgpt.cli.console import out, print_json, say
from vgpt.cli.options import JsonOption, with_settings
from vgpt.report.listing import Listed, list_runs
from vgpt.report.numbers import shown_bytes
from vgpt.settings.loader import Loaded
from vgpt.settings.runs import RunsConfig

_STYLES = {"running": "green", "finished": "", "diverged": "red", "failed": "red"}


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
        say(f"no runs in {loaded.settings.runs_dir}; vgpt train makes one")
        return
    out().print(_table(found))


def _table(found: list[Listed]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("run", "attention", "state"):
        table.add_column(title, no_wrap=True)
    for title in ("step", "loss", "best val", "size", "age"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in found:
        table.add_row(
            Text(_printable(run.name)),
            Text(_printable(run.attention)),
            Text(run.state, style=_STYLES.get(run.state, "yellow")),
            f"{run.step}/{'?' if run.steps is None else run.steps}",
            _loss(run.loss),
            _loss(run.best_loss),
            shown_bytes(run.bytes),
            shown_age(run.age),
        )
    return table


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _printable(text: str) -> str:
    """Return a name without control codes: a directory's name may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def shown_age(seconds: float) -> str:
    """Return a time as its largest unit: 42s, 7m, 3h, 12d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
