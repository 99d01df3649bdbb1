"""What notebooks show: progress as one line, also on a terminal, and results, facts and tables, as HTML."""

import io
import sys
import time
from collections.abc import Iterable
from math import isfinite
from typing import Any

from rich.console import Console, RenderableType

from vgpt.formatting import format_duration

_STYLE = (
    ".vgpt .n{text-align:right}.vgpt td,.vgpt th{text-align:left;vertical-align:top}.vgpt caption{text-align:left}"
    ".vgpt .dim{opacity:.7}.vgpt .bold{font-weight:700}.vgpt .green{color:#00694a}.vgpt .red{color:#a33200}"
    ".vgpt .yellow{color:#7a5200}"
)


def with_error(value: float, error: float) -> str:
    """Return a loss with its standard error, where it has one: a single window has none."""
    return f"{value:.4f} ± {error:.4f}" if isfinite(error) else f"{value:.4f}"


def facts_html(title: str, facts: Iterable[tuple[str, object]]) -> str:
    """Return a title and a table of names and values."""
    from vgpt.report.html.elements import plain_table  # a tenth of a second, which `vgpt --help` is spared

    return _framed(plain_table(title, ["", ""], [[name, str(value)] for name, value in facts]))


def tables_html(parts: Iterable[RenderableType]) -> str:
    """Return tables and lines of text as the report shows them."""
    from vgpt.report.html.elements import blocks

    return _framed(blocks(parts))


def tables_text(parts: Iterable[RenderableType]) -> str:
    """Return tables and lines of text as a terminal shows them, without colors."""
    text = io.StringIO()
    console = Console(file=text, width=_WIDTH, highlight=False, no_color=True)
    for part in parts:
        console.print(part)
    return text.getvalue()


def _framed(content: str) -> str:
    from vgpt.report.html.elements import element

    return f"<style>{_STYLE}</style>" + element("div", content, class_="vgpt")


_WIDTH = 100
"""Columns of a text."""
_SECONDS = 0.2
"""Least time between two redrawings."""


def in_notebook() -> bool:
    """Return whether this runs in the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


class Line:
    """A line that is written over: of a notebook's output or of stderr.

    Args:
        quiet: show nothing, as where there is neither a notebook nor a terminal.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._notebook = not quiet and in_notebook()
        self._terminal = not quiet and not self._notebook and sys.stderr.isatty()
        self._handle: Any = None
        self._drawn, self._width = 0.0, 0

    def show(self, text: str, *, now: bool = False) -> None:
        """Show a text in the place of the last one; most calls in a row show nothing."""
        if not (self._notebook or self._terminal) or (not now and time.monotonic() - self._drawn < _SECONDS):
            return
        self._drawn = time.monotonic()
        if self._terminal:
            sys.stderr.write("\r" + text.ljust(self._width))
            sys.stderr.flush()
            self._width = len(text)
            return
        from IPython.display import display  # pyright: ignore[reportMissingImports]  # there is one: this is a notebook

        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)

    def end(self) -> None:
        """Leave the last text where it is."""
        if self._terminal and self._width:
            sys.stderr.write("\n")
        self._width, self._handle = 0, None


class TrainingLine:
    """A `vgpt.training.display.Display`: step, losses and the time left, in one line.

    Attributes:
        notes: what a command would have said: device, resumption, checkpoints, how it ended.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.notes: list[str] = []
        self._line = Line(quiet=quiet)
        self._title, self._steps = "", 0
        self._loss = self._evaluation = self._left = ""

    def start(self, title: str, steps: int, done: int) -> None:
        """Begin."""
        self._title, self._steps = title, steps
        self.advance(done)

    def notify(self, message: str) -> None:
        """Keep a note."""
        self.notes.append(message)

    def advance(self, step: int) -> None:
        """Show how far it is."""
        parts = [f"{self._title}: step {step:,} of {self._steps:,}", self._loss, self._evaluation, self._left]
        self._line.show("  ".join(filter(None, parts)), now=step >= self._steps)

    def log(self, progress: Any) -> None:
        """Keep the figures of a log interval for the line."""
        self._loss = f"loss {progress.loss:.4f}"
        self._left = f"{format_duration(progress.seconds_left)} left" if progress.step < self._steps else ""
        self.advance(progress.step)

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        """Keep the loss on held-out text for the line."""
        self._evaluation = f"val {loss:.4f}"
        self.advance(step)

    def stop(self) -> None:
        """End the line."""
        self._line.end()


class DataLine:
    """A `vgpt.data.progress.Progress`: the stage and how much of it is done, in one line."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._line = Line(quiet=quiet)
        self._stage, self._total, self._done = "", 0, 0

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage."""
        self._stage, self._total, self._done = stage, total or 0, 0
        self._line.show(stage)

    def advance(self, amount: int) -> None:
        """Show how much is done."""
        self._done += amount
        if self._total:
            self._line.show(f"{self._stage}: {min(1.0, self._done / self._total):.0%}")

    def finish(self) -> None:
        """End the stage."""
        self._line.end()
