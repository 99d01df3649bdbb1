"""What the commands print: results on stdout, everything else on stderr.

stdout carries results alone (text, tables, `--json`), so that it can be piped; notes, progress and errors go to stderr,
and so does what a command took by itself: data that nobody named, special tokens read as letters.
"""

import codecs
import math
import os
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vgpt.errors import VgptError
from vgpt.files.paths import DEMO
from vgpt.files.text import to_json
from vgpt.settings.prepared import PREPARED

if TYPE_CHECKING:
    from vgpt.text.tokenizer import Tokenizer

_LEAST_COLUMNS = 20
"""Narrower terminals are not believed: a width of 0 or 1 is what programs set that have none."""
_COLUMNS = 80
_SPELLINGS = dict(zip("Δ±≠✓✗•·░▒▓█▁▂▃▄▅▆▇─│", "d~!yn*..+##_.,-=+*-|", strict=True))
"""The signs of tables, masks and curves for terminals that have none of them: one sign each, so that columns stand."""


def make_printable() -> None:
    """See to it that everything can be printed: what a terminal cannot spell in its way, on a width that holds text."""
    codecs.register_error("vgpt-spell", _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="vgpt-spell")
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < _LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(_COLUMNS)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Return what stands in for letters that an encoding lacks, and where the rest goes on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SPELLINGS.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def out() -> Console:
    """Return the console of results."""
    return _wide_enough(Console(file=sys.stdout, highlight=False, soft_wrap=True))


def err() -> Console:
    """Return the console of what is no result: notes, progress and errors."""
    return _wide_enough(Console(file=sys.stderr, highlight=False))


def _wide_enough(console: Console) -> Console:
    if console.width < _LEAST_COLUMNS:
        console.width = _COLUMNS
    return console


def notify(message: str) -> None:
    """Print one line that is no result."""
    err().print(escape(message), soft_wrap=True)


def warn(message: str) -> None:
    """Print one remark that the user should see."""
    err().print(f"[yellow]note:[/yellow] {escape(message)}", soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a result for programs: one JSON document."""
    text = to_json(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # nothing of a result may be replaced by a question mark
        text = to_json(value, ascii_only=True)
    sys.stdout.write(text + "\n")


def print_text(text: str) -> None:
    """Print a result for programs as it is: neither wrapped nor styled."""
    sys.stdout.write(text)


def print_error(error: VgptError) -> None:
    """Print a user's error as one panel: what is wrong, then what to do."""
    body = Text(error.message)
    if error.hint:
        body.append("\n" + error.hint, style="dim")
    err().print(Panel(body, title="Error", title_align="left", border_style="red"))


def key_values(title: str, rows: Iterable[tuple[str, Any]]) -> Table:
    """Return a small two-column table."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    # Long names fold; what is cut off could not be copied.
    for _ in range(2):
        table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(f"[dim]{escape(key)}[/dim]", escape(str(value)))
    return table


def with_noise(value: float, error: float, what: str = "", *, unit: str = "") -> str:
    """Return a figure with its standard error, or with word that a single window has none."""
    found = f"{value:.4f} ± {error:.4f}" if math.isfinite(error) else f"{value:.4f}"
    told = what if math.isfinite(error) else "one window: no standard error"
    return " ".join(filter(None, [found, unit, f"({told})" if told else ""]))


def mention_data(place: str, origin: str) -> None:
    """Say which data is meant where none was named; the first line of what a command says."""
    if origin == "default" and place == DEMO:
        notify(f"data: {DEMO}, Python's own sources: nothing was prepared in this directory")
    elif origin.startswith((PREPARED, "the run ")):
        notify(f"data: {place} ({origin})")


def mention_special(tokenizer: "Tokenizer", text: str, *, allowed: bool) -> None:
    """Say that a text spells special tokens that are read as letters, and how they would be read as tokens."""
    spelled = [] if allowed else [token for token in tokenizer.special_tokens if token in text]
    if spelled:
        warn(f"{', '.join(map(repr, spelled))} in the text is read as letters; --allow-special reads it as the token")
