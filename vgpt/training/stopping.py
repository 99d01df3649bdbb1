"""Signals that ask a run to stop: it finishes the step, saves, and ends; a second one ends it at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Listens for SIGINT and SIGTERM while it is entered; only the main thread can listen."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.requested: signal.Signals | None = None
        self._say = say
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)
        self._say(f"{self.requested.name}: saving after this step; once more to stop at once without saving")

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C; 75 (try again later) after SIGTERM, as batch systems send it before they take a node."""
        return 130 if self.requested is signal.SIGINT else 75
