"""A learned logit per head that takes part in the softmax without a value (Xiao et al. 2023, arXiv 2309.17453)."""

import torch
from torch import Tensor


def softmax_with_sinks(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Return the softmax of (B, H, T, S) over the last dimension, with sinks (H,) in its denominator."""
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.to(scores.dtype).view(-1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, column), -1).softmax(-1)[..., :-1]
