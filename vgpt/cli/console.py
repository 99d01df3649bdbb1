"""What the commands print: results on stdout, talk on stderr.

stdout carries results alone (text, tables, `--json`), so that it can be piped; notes, progress and errors go to stderr.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vgpt.errors import VgptError


def out() -> Console:
    """Return the console of results."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def talk() -> Console:
    """Return the console of talk."""
    return Console(file=sys.stderr, highlight=False)


def say(message: str) -> None:
    """Print one line of talk."""
    talk().print(escape(message), soft_wrap=True)


def warn(message: str) -> None:
    """Print one remark that the user should see."""
    talk().print(f"[yellow]note:[/yellow] {escape(message)}", soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a result for programs: one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Print a result for programs as it is: neither wrapped nor styled."""
    sys.stdout.write(text)


def print_error(error: VgptError) -> None:
    """Print a user's error as one panel: what is wrong, then what to do."""
    body = Text(error.message)
    if error.hint:
        body.append("\n" + error.hint, style="dim")
    talk().print(Panel(body, title="Error", title_align="left", border_style="red"))


def key_values(title: str, rows: Iterable[tuple[str, Any]]) -> Table:
    """Return a small two-column table."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in rows:
        table.add_row(f"[dim]{escape(key)}[/dim]", escape(str(value)))
    return table
