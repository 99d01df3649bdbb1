"""Forgetting: the state of a head shrinks by one factor per token, in chunks of any length.

With slope m a token weighs exp(-m * distance). Every exponent here is at most zero, so nothing overflows.
Source: Sun et al. 2023 (arXiv 2307.08621), equations 5-7; with ALiBi's slopes for the rates.
"""

import torch
from torch import Tensor


class Decay:
    """The factors of a chunk of C tokens, for tensors (..., H, C, width) of that chunk.

    Args:
        slopes: (H,) rates; None forgets nothing.
        dtype: type of the factors.
    """

    def __init__(self, slopes: Tensor | None, dtype: torch.dtype) -> None:
        self.slopes = None if slopes is None else slopes.to(dtype)[:, None, None]
        self._tables: dict[int, Tensor] = {}

    def within(self, scores: Tensor) -> Tensor:
        """Weigh scores (..., H, C, C) by distance, and those of later keys by exactly zero."""
        # Cut before weighing, so that a score of infinity does not come back as not-a-number.
        return scores.tril() if self.slopes is None else scores.tril() * self._table(scores.shape[-1])

    def within_(self, scores: Tensor, start: int = 0) -> Tensor:
        """Do as `within` for queries (..., H, m, C) from `start` on, over the scores' memory: faster on CPUs."""
        scores.tril_(start)
        if self.slopes is None:
            return scores
        return scores.mul_(self._table(scores.shape[-1])[:, start : start + scores.shape[-2]])

    def _table(self, C: int) -> Tensor:
        """Return the factors (H, C, C) by distance."""
        if C not in self._tables:
            assert self.slopes is not None
            position = torch.arange(C, device=self.slopes.device)
            self._tables[C] = self._factor((position[:, None] - position).clamp(min=0))
        return self._tables[C]

    def entering(self, rows: Tensor) -> Tensor:
        """Weigh queries (..., H, C, width) by their distance to the state before the chunk."""
        if self.slopes is None:
            return rows
        return rows * self._factor(torch.arange(1, rows.shape[-2] + 1, device=rows.device)[:, None])

    def leaving(self, rows: Tensor) -> Tensor:
        """Weigh keys (..., H, C, width) by their distance to the last token of the chunk."""
        if self.slopes is None:
            return rows
        return rows * self._factor(torch.arange(rows.shape[-2] - 1, -1, -1, device=rows.device)[:, None])

    def over(self, state: Tensor, tokens: int) -> Tensor:
        """Shrink a state (..., H, m, columns) over `tokens`."""
        return state if self.slopes is None else state * torch.exp(-self.slopes * tokens)

    def _factor(self, distance: Tensor) -> Tensor:
        assert self.slopes is not None
        return torch.exp(-self.slopes * distance)
