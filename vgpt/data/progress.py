"""How long work reports where it stands, without knowing who listens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """A listener to staged work: `start`, then `advance` until `finish`, once per stage.

    The command line turns it into bars; a library caller may leave it out.
    """

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage of `total` units; None where the amount cannot be known (standard input)."""
        ...

    def advance(self, amount: int) -> None:
        """Report `amount` more units of the current stage as done."""
        ...

    def finish(self) -> None:
        """End the current stage."""
        ...


class Silent:
    """A `Progress` that nobody watches."""

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage."""

    def advance(self, amount: int) -> None:
        """Report progress."""

    def finish(self) -> None:
        """End a stage."""


@contextmanager
def stage(progress: Progress, name: str, total: int | None, unit: str = "bytes") -> Iterator[None]:
    """Run a block as one stage, which ends whatever happens in it."""
    progress.start(name, total, unit)
    try:
        yield
    finally:
        progress.finish()
