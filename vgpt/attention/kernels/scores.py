"""What is done to the scores of a softmax attention, and the softmax over them with its gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ScoreMods:
    """How the products of queries and keys become the scores of a softmax; every kernel takes the same.

    Attributes:
        scale: factor on the products; None for 1 / sqrt(D).
        sinks: (H,) a logit per head that takes part in the softmax without a value: Xiao et al. 2023 (arXiv
            2309.17453), learned as in gpt-oss. None for none.
        slopes: (H,) how much a key's score falls per token of distance, not differentiated: ALiBi, Press et al. 2021
            (arXiv 2108.12409), section 3. None for none.
    """

    scale: float | None = None
    sinks: Tensor | None = None
    slopes: Tensor | None = None

    def factor(self, width: int) -> float:
        """Return the factor on products of queries and keys of a width D."""
        return width**-0.5 if self.scale is None else self.scale

    @property
    def only_scaled(self) -> bool:
        """Whether scores are products times a factor, which any kernel computes."""
        return self.sinks is None and self.slopes is None


PLAIN = ScoreMods()
"""Products of queries and keys times 1 / sqrt(D), and nothing else."""


def alibi_slopes(heads: int, device: torch.device | str | None = None) -> Tensor:
    """Return ALiBi's slope of each head, (H,) float32: 2^(-8 i / H), i from 1; for any H, not only powers of two."""
    return torch.exp2(-8.0 * torch.arange(1, heads + 1, dtype=torch.float32, device=device) / heads)


def softmax_with_sinks(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Return the softmax of (B, H, T, S) over the last dimension, with sinks (H,) in its denominator."""
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.to(scores.dtype).view(-1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, column), -1).softmax(-1)[..., :-1]


def softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient by the scores from that by the weights, their softmax over the last dimension.

    Holds as well where a sink took its share of the weights: it has no value, so nothing comes back from it.
    """
    # Not public, but what the gradient of every softmax calls.
    return torch._softmax_backward_data(  # pyright: ignore[reportPrivateImportUsage]
        grad, weights, -1, weights.dtype
    )
