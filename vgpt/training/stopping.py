"""Signals to a run: one asks it to save and stop, a second one ends it at once; SIGUSR1 asks it to save and go on."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAVE = signal.SIGUSR1


class StopRequest:
    """Listens for SIGINT, SIGTERM, SIGHUP and SIGUSR1 while it is entered; only the main thread can listen.

    Attributes:
        requested: number of the signal that asked for an end; 0 for none.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.requested = 0
        self._save = False
        self._notify = notify
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._stop) for number in _STOP}
            self._before[_SAVE] = signal.signal(_SAVE, self._ask_save)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = number
        self._notify(f"{signal.Signals(number).name}: saving after this step; once more to stop at once without saving")

    def _ask_save(self, number: int, frame: FrameType | None) -> None:
        self._save = True

    def take_save(self) -> bool:
        """Return whether a checkpoint was asked for since the last call."""
        asked = self._save
        if asked:  # clearing a flag that is not set would forget a signal that comes just now
            self._save = False
        return asked

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C; 75 (try again later) after SIGTERM, as batch systems send it before they take a node."""
        return 130 if self.requested == signal.SIGINT else 75
