"""The memory of linear attention: one state per head, of constant size."""

import torch
from torch import Tensor

from vgpt.attention.cache import Cache
from vgpt.errors import VgptError


class StateCache(Cache):
    """The sum over all tokens so far of features times values, in float32 or wider.

    Attributes:
        state: (B, H, m, columns), changed in place.

    Args:
        batch: sequences.
        heads: heads H.
        features: width m of one head's features.
        columns: width of one head's values, and one more where the denominator is kept.
        dtype: type of the model's numbers; the state is not narrower than float32.
        device: where it lives.
    """

    def __init__(
        self, batch: int, heads: int, features: int, columns: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        wide = torch.promote_types(dtype, torch.float32)
        self.state = torch.zeros(batch, heads, features, columns, dtype=wide, device=device)

    def stored(self) -> list[Tensor]:
        """Return the state, which is all in use from the start."""
        return [self.state]

    def buffers(self) -> list[Tensor]:
        """Return the state."""
        return [self.state]

    def rewind(self, length: int) -> None:
        """Forget everything; single tokens cannot be taken out of a sum.

        Raises:
            VgptError: `length` is neither 0 nor where the cache stands.
        """
        if length == self.length:
            return
        if length != 0:
            raise VgptError(
                f"the state of linear attention holds {self.length} tokens as one sum and cannot go back to {length}",
                "Reset it, and read the tokens that should stay again.",
            )
        self.state.zero_()
        self.length = 0
