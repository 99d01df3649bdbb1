"""Live displays on stderr: bars and figures on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from vgpt.cli.console import err
from vgpt.data.progress import Progress as DataProgress
from vgpt.report.layout import sparkline
from vgpt.training.display import Display
from vgpt.training.display import Progress as Figures


def interactive() -> bool:
    """Return whether stderr is a terminal that can redraw."""
    return err().is_terminal and not err().is_dumb_terminal


def data_bars() -> DataProgress:
    """Return a listener to data preparation."""
    return _Bars() if interactive() else _Lines()


def training_display() -> Display:
    """Return a listener to training."""
    return _LiveDisplay(err()) if interactive() else _PlainDisplay()


class _Bars:
    """One Rich bar per stage."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._task: TaskID | None = None

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        counters = [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
        self._bars = Progress(
            TextColumn("{task.description:<20}"), BarColumn(), *counters, TimeRemainingColumn(), console=err()
        )
        self._bars.start()
        self._task = self._bars.add_task(escape(stage), total=total)

    def advance(self, amount: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, amount)

    def finish(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class _Lines:
    """One line per stage: a pipe or a log file keeps what it is given."""

    def __init__(self) -> None:
        self._stage = ""
        self._begun = 0.0

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        self._stage, self._begun = stage, time.perf_counter()
        amount = f" {total:,} {unit}" if total else ""
        print(f"{stage}:{amount} ...", file=sys.stderr, flush=True)

    def advance(self, amount: int) -> None:
        pass

    def finish(self) -> None:
        print(f"{self._stage}: done in {time.perf_counter() - self._begun:.1f} s", file=sys.stderr, flush=True)


class _PlainDisplay:
    """One line per log interval, no control codes."""

    def start(self, title: str, steps: int, done: int) -> None:
        self.notify(f"{title}: step {done} of {steps}")
        self._steps = steps

    def notify(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def advance(self, step: int) -> None:
        pass

    def log(self, progress: Figures) -> None:
        p = progress
        self.notify(
            f"step={p.step}/{self._steps} loss={p.loss:.4f} grad_norm={p.grad_norm:.3f} lr={p.lr:.2e} "
            f"tok_s={p.tokens_per_second:.0f} mfu={p.mfu:.3f} eta={_clock(p.seconds_left)}"
        )

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        self.notify(f"step={step}/{self._steps} val_loss={loss:.4f}{' best' if best else ''}")

    def stop(self) -> None:
        pass


class _LiveDisplay:
    """A bar, the figures of the last interval and the curve of the loss so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._losses: list[float] = []
        self._figures: Figures | None = None
        self._evaluation = ""

    def start(self, title: str, steps: int, done: int) -> None:
        self._bar = Progress(
            TextColumn(escape(title)),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=steps, completed=done)
        self._live = Live(self._render(), console=self._console, refresh_per_second=4)
        self._live.start()

    def notify(self, message: str) -> None:
        self._console.print(escape(message), soft_wrap=True)

    def advance(self, step: int) -> None:
        if self._live is not None:
            self._bar.update(self._task, completed=step)

    def log(self, progress: Figures) -> None:
        self._figures = progress
        self._losses.append(progress.loss)
        self._redraw()

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        self._evaluation = f"val {loss:.4f}{'*' if best else ''}"
        self._redraw()

    def stop(self) -> None:
        if self._live is not None:
            self._redraw()
            self._live.stop()
            self._live = None

    def _redraw(self) -> None:
        if self._live is not None:
            self._live.update(self._render())

    def _render(self) -> Group:
        parts = [self._evaluation]
        if p := self._figures:
            parts.insert(0, f"loss {p.loss:.4f}")
            parts += [f"norm {p.grad_norm:.2f}", f"lr {p.lr:.1e}"]
            parts += [f"{p.tokens_per_second:,.0f} tok/s", f"MFU {p.mfu:.1%}"]
        line = Text("  ".join(filter(None, parts)))
        return Group(self._bar, line, Text(sparkline(self._losses, 60), style="cyan"))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
