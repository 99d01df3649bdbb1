"""Choosing the next token: greedy, or drawn from the distribution after temperature, top-k and top-p.

Randomness is a function of (seed, row, step) alone. A row's draws therefore do not depend on the other rows of its
batch, on the device, or on any global random state.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vgpt.errors import UsageError, VgptError

if TYPE_CHECKING:
    from torch import Tensor

# The nucleus is nearly always among the likeliest few; sorting a whole vocabulary takes milliseconds.
_FEW = 512


@dataclass(frozen=True)
class Sampler:
    """The rule that turns logits into tokens.

    Attributes:
        temperature: divides the logits; 0 always takes the likeliest token, of equal ones the first.
        top_k: draw among the k likeliest only.
        top_p: draw among the fewest likeliest tokens whose probabilities, after temperature and top_k, reach p.
            Source: Holtzman et al. 2019, arXiv 1904.09751, section 3.1.
        seed: of the draws.
        first_row: number of the first row; batches that are parts of one job stay apart by it.

    Raises:
        UsageError: a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    first_row: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature {self.temperature} must be 0 (greedy) or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k {self.top_k} must be at least 1", "Leave it out to keep all tokens.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} must be above 0 and at most 1", "Leave it out to keep all tokens.")

    def choose(self, logits: "Tensor", step: int) -> "Tensor":
        """Return one token (B,) for each row of logits (B, V); `step` counts the tokens chosen before.

        Raises:
            VgptError: the logits are not numbers.
        """
        chosen, finite = self.pick(logits, self.draws(len(logits), step, 1, logits)[0])
        if not finite:
            raise not_finite()
        return chosen

    def draws(self, rows: int, step: int, count: int, like: "Tensor") -> "Tensor":
        """Return the numbers (count, rows) in [0, 1) that decide `count` steps from `step` on, on the device of `like`.

        They are made on the host; a CUDA device gets them without being waited for.
        """
        if self.temperature == 0:
            return like.new_empty(count, rows)
        numbers = [
            [uniform(self.seed, self.first_row + row, at) for row in range(rows)] for at in range(step, step + count)
        ]
        made = like.new_tensor(numbers, device="cpu")
        return made.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else made.to(like.device)

    def pick(self, logits: "Tensor", draws: "Tensor") -> "tuple[Tensor, Tensor]":
        """Return one token (B,) for each row of logits (B, V), by its draw (B,), and whether all logits are numbers.

        Waits for no device. Where the logits are not numbers, the tokens mean nothing but are in the vocabulary.
        """
        peak, likeliest = logits.max(-1, keepdim=True)
        finite = peak.isfinite().all()
        if self.temperature == 0:
            return likeliest[:, 0], finite
        # The peak is taken off first, so that no temperature, however small, can overflow.
        probabilities, tokens = self._narrowed((logits.float() - peak) / self.temperature)
        mass = probabilities.cumsum(-1)
        index = (mass <= draws[:, None].to(mass) * mass[:, -1:]).sum(-1, keepdim=True)
        index = index.clamp_(max=mass.shape[-1] - 1)
        return (index if tokens is None else tokens.gather(-1, index))[:, 0], finite

    def _narrowed(self, scores: "Tensor") -> "tuple[Tensor, Tensor | None]":
        """Return probabilities, not normalized anew, and the tokens they belong to (None: all, in order)."""
        tokens = None
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            scores, tokens = scores.topk(self.top_k)
        probabilities = scores.softmax(-1)
        if scores.device.type != "mps":  # which has no float64
            probabilities = probabilities.double()
        if self.top_p is None or self.top_p == 1:
            return probabilities, tokens
        if tokens is None:
            probabilities, tokens = _likeliest_first(probabilities, self.top_p)
        before = probabilities.cumsum(-1) - probabilities
        return probabilities * (before < self.top_p), tokens


def _likeliest_first(probabilities: "Tensor", enough: float) -> "tuple[Tensor, Tensor]":
    # To look at the sum would be to wait for a GPU, which sorts the vocabulary in less time.
    if probabilities.shape[-1] > _FEW and not probabilities.is_cuda:
        few, tokens = probabilities.topk(_FEW)
        if (few.sum(-1) >= enough).all():
            return few, tokens
    return probabilities.sort(descending=True, stable=True)


def not_finite() -> VgptError:
    """Return the error that says that logits are not numbers."""
    return VgptError("the model's predictions are not finite numbers", "Its training diverged; train it again.")


def uniform(seed: int, row: int, step: int) -> float:
    """Return the number in [0, 1) that decides `step` of `row`."""
    digest = hashlib.blake2b(f"{seed}:{row}:{step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
