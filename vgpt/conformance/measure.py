"""What a check finds: the worst of many measurements, each beside its limit."""

from dataclasses import dataclass
from math import inf, isnan

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """The outcome of one check.

    Attributes:
        measured: the worst number that was measured; what it counts stands in `detail`.
        limit: the most that `measured` may be.
        detail: one line: what was checked, or what is wrong.
    """

    measured: float
    limit: float
    detail: str

    @property
    def passed(self) -> bool:
        """Whether the contract is kept."""
        return self.measured <= self.limit


class WorstCase:
    """Collects measurements and keeps the one that exceeds its limit most.

    Args:
        claim: what holds when every measurement is within its limit.

    Attributes:
        measured: the number that exceeds its limit most, so far.
    """

    def __init__(self, claim: str) -> None:
        self.claim = claim
        self.measured, self._limit, self._where, self._ratio = 0.0, 0.0, "", -1.0

    def add(self, measured: float, limit: float, where: str) -> None:
        """Note one measurement; not-a-number counts as infinitely bad."""
        measured = inf if isnan(measured) else float(measured)
        ratio = (measured / limit) if limit else (inf if measured else 0.0)
        if ratio > self._ratio:
            self.measured, self._limit, self._where, self._ratio = measured, limit, where, ratio

    def equal(self, measured: int, stated: int, where: str) -> None:
        """Note two counts that must be the same number."""
        self.add(abs(measured - stated), 0, f"{where}: {measured:,} measured, {stated:,} stated")

    def measurement(self) -> Measurement:
        """Return the worst measurement, with the claim where it is within its limit."""
        detail = self.claim if self.measured <= self._limit else self._where
        return Measurement(self.measured, self._limit, detail)


def relative_error(measured: Tensor, wanted: Tensor, floor: float = 1.0) -> float:
    """Return the largest difference, relative to the largest wanted number or to `floor`, whichever is more.

    Not-a-number where none is wanted gives not-a-number.
    """
    if not wanted.numel():
        return 0.0
    wanted = wanted.double()
    return float((measured.double() - wanted).abs().max() / wanted.abs().max().clamp(min=floor))


def count_nonfinite(*tensors: Tensor) -> int:
    """Count the numbers that are not finite."""
    return sum(int((~torch.isfinite(tensor)).sum()) for tensor in tensors)
