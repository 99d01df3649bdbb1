"""Rounds of measurements: every subject once per round, in turn, and a disturbed round again."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vgpt.bench.disturbance import Reason, Watch
from vgpt.bench.statistics import FEWEST

_LOOK = 0.25
_LONGEST_WAIT = 5.0


@dataclass(frozen=True)
class Series:
    """Figures of several subjects, round by round.

    Attributes:
        figures: of each subject, in the order of rounds.
        repeated: rounds that were disturbed and made again.
        reasons: the worst of each kind that disturbed the rounds that count; empty where enough of them were quiet.
    """

    figures: Mapping[str, list[float]]
    repeated: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def disturbed(self) -> bool:
        """Whether no claim can be made: quiet never came, or not long enough."""
        return bool(self.reasons)


class Patience:
    """Seconds that all series together may spend on rounds made again and on waiting for quiet."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def spend(self, seconds: float) -> None:
        """Take from it."""
        self.left -= seconds


def order(names: Sequence[str], turn: int) -> list[str]:
    """Return the order of a round: each subject comes first equally often, and before and after each other one."""
    shift = turn // 2 % len(names)
    turned = [*names[shift:], *names[:shift]]
    return turned[::-1] if turn % 2 else turned


def interleave(
    subjects: Mapping[str, Callable[[], float]],
    rounds: int,
    watch: Watch,
    patience: Patience,
    advance: Callable[[], None] = lambda: None,
) -> Series:
    """Measure all subjects once per round, so that drift of the machine meets all alike.

    A round in which anything was disturbed is made again as a whole, for its figures are compared with each other; once
    patience is spent, rounds are taken as they come. If at least the fewest that an interval needs were quiet, these
    alone count; otherwise all of them, as disturbed.

    Args:
        subjects: by name, what measures it once and returns the figure.
        rounds: how many are wanted.
        watch: tells what disturbed a measurement.
        patience: what rounds made again may cost.
        advance: called after each round that counts.
    """
    names = list(subjects)
    quiet: list[dict[str, float]] = []
    restless: list[tuple[dict[str, float], list[Reason]]] = []
    repeated = 0
    while len(quiet) < rounds:
        begun = time.perf_counter()
        turn = order(names, len(quiet) + len(restless))
        figures, reasons = _round(subjects, turn, watch, whole=patience.left <= 0)
        if not reasons:
            quiet.append(figures)
        elif patience.left > 0:
            repeated += 1
            _wait(watch, patience)
            patience.spend(time.perf_counter() - begun)
            continue
        else:
            restless.append((figures, reasons))
            if len(quiet) + len(restless) >= rounds:
                break
        advance()
    if len(quiet) >= min(rounds, FEWEST):
        return Series(_by_name(names, quiet), repeated + len(restless))
    taken = [*quiet, *(figures for figures, _ in restless)]
    worst: dict[str, Reason] = {}
    for reason in (reason for _, reasons in restless for reason in reasons):
        if reason.amount >= worst.get(reason.kind, reason).amount:
            worst[reason.kind] = reason
    return Series(_by_name(names, taken), repeated, tuple(reason.text for reason in worst.values()))


def _round(
    subjects: Mapping[str, Callable[[], float]], names: Sequence[str], watch: Watch, *, whole: bool
) -> tuple[dict[str, float], list[Reason]]:
    """Measure each subject once; a round that will be made again need not be `whole`."""
    figures: dict[str, float] = {}
    reasons: list[Reason] = []
    for name in names:
        if reasons and not whole:
            break
        with _collected():
            figures[name], found = watch.measure(name, subjects[name])
        reasons += found
    return figures, reasons


@contextlib.contextmanager
def _collected() -> Iterator[None]:
    """Collect young garbage, and nothing while measuring: a whole collection takes longer than a measurement."""
    gc.collect(0)
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _by_name(names: Sequence[str], rounds: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [figures[name] for figures in rounds] for name in names}


def _wait(watch: Watch, patience: Patience) -> None:
    """Wait until others leave the machine alone, but not for long: quiet may come while measuring too."""
    end = time.perf_counter() + min(_LONGEST_WAIT, patience.left)
    while time.perf_counter() < end and not watch.quiet(_LOOK):
        pass
