"""What a training run tells whoever watches: the trainer speaks to this interface, the command line draws it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """One log interval of a run."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens_per_second: float
    mfu: float
    seconds_left: float


class Display(Protocol):
    """A listener to one run."""

    def start(self, title: str, steps: int, done: int) -> None:
        """Begin: `done` of `steps` are behind us."""
        ...

    def notify(self, message: str) -> None:
        """Pass on one thing worth reading: device, resumption, checkpoints, the end."""
        ...

    def advance(self, step: int) -> None:
        """Report that `step` steps are done; called after every one."""
        ...

    def log(self, progress: Progress) -> None:
        """Report the figures of a log interval."""
        ...

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        """Report an evaluation."""
        ...

    def stop(self) -> None:
        """End, for whatever reason."""
        ...


class Quiet:
    """A `Display` that shows nothing."""

    def start(self, title: str, steps: int, done: int) -> None:
        """Begin."""

    def notify(self, message: str) -> None:
        """Pass on."""

    def advance(self, step: int) -> None:
        """Count."""

    def log(self, progress: Progress) -> None:
        """Report figures."""

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        """Report an evaluation."""

    def stop(self) -> None:
        """End."""
