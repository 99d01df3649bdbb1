"""Loss by position: how much a token's loss owes to the tokens of context before it.

Positions are gathered in spans that double: 1, 2, 3-4, 5-8, ... tokens of context, the token that is read last
included. Where windows are longer than those of training, a span ends at the training length.
"""

from collections.abc import Callable, Sequence

import numpy as np

from vgpt.evaluation.loss import Evaluator
from vgpt.model.gpt2 import GPT2Model
from vgpt.tracking.breakdowns.record import Part

Labels = Callable[[np.ndarray], np.ndarray]
"""From ids (n, T + 1) the number of the part that each target belongs to, (n, T) or (1, T)."""


class Tally:
    """Sums losses and counts tokens, window by window and part by part."""

    def __init__(self, names: Sequence[tuple[str, int]], labels: Labels) -> None:
        """Begin.

        Args:
            names: name of each part and its place on the axis.
            labels: which of them each token belongs to.
        """
        self._names, self._labels = names, labels
        self._sums: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []

    def add(self, ids: np.ndarray, losses: np.ndarray) -> None:
        """Take in windows: ids (n, T + 1) and losses (n, T), float64."""
        windows, parts = len(losses), len(self._names)
        places = np.arange(windows)[:, None] * parts + self._labels(ids)
        places = np.broadcast_to(places, losses.shape).reshape(-1)
        size = windows * parts
        self._sums.append(np.bincount(places, losses.reshape(-1), size).reshape(windows, parts))
        self._counts.append(np.bincount(places, minlength=size).reshape(windows, parts))

    def parts(self) -> tuple[Part, ...]:
        """Return what was taken in."""
        sums, counts = np.concatenate(self._sums), np.concatenate(self._counts)
        means = sums / np.maximum(counts, 1)
        return tuple(Part(name, at, means[:, i], counts[:, i]) for i, (name, at) in enumerate(self._names))


def spans(length: int, cut: int | None = None) -> list[tuple[int, int]]:
    """Return the spans (fewest, most tokens of context) of windows of `length` tokens; one of them ends at `cut`."""
    ends = {1 << power for power in range(length.bit_length())} | {length} | ({cut} if cut else set())
    kept = sorted(end for end in ends if end <= length)
    return [(before + 1, end) for before, end in zip([0, *kept], kept, strict=False)]


def by_position(length: int, cut: int | None = None) -> Tally:
    """Return a tally over the spans of windows of `length` tokens."""
    found = spans(length, cut)
    names = [(str(first) if first == last else f"{first}-{last}", last) for first, last in found]
    numbers = np.repeat(np.arange(len(found)), [last - first + 1 for first, last in found])[None]
    return Tally(names, lambda ids: numbers)


def tally_all(
    evaluator: Evaluator, model: GPT2Model, tallies: Sequence[Tally], advance: Callable[[int], None], **options: object
) -> np.ndarray:
    """Read the windows once for all tallies; return the mean loss of each window, (windows,) float64.

    Args:
        evaluator: the windows.
        model: evaluated.
        tallies: what is summed up.
        advance: hears how many windows more are done.
        options: those of `Evaluator.walk`.
    """
    means: list[np.ndarray] = []
    for ids, losses in evaluator.walk(model, **options):  # type: ignore[arg-type]
        for one in tallies:
            one.add(ids, losses)
        means.append(losses.mean(1))
        advance(len(losses))
    return np.concatenate(means)
