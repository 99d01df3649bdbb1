"""Parity: whether the number of ones so far is odd."""

from typing import Annotated

import numpy as np
from pydantic import Field

from vgpt.evaluation.tasks.base import Control, Drawn, Length, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import register_task


@register_task("parity", summary="parity: whether the number of ones so far is odd; a state of one bit")
class Parity(Task):
    """Random bits; at each the parity of all bits up to it. Only the last ones count: the first are easy to guess.

    Neither attention nor a linear state with positive decay learns it; the control is a recurrent layer.
    """

    source = (
        "Grazzi et al. 2024, Unlocking state-tracking in linear RNNs through negative eigenvalues, arXiv 2411.12537, "
        "figure 1; scored on the last tokens"
    )
    control = Control(attn="gru", n_embd=32, short_conv=False)

    length: Length = 32
    """tokens of an instance in training; at least 16"""
    test_lengths: tuple[Length, ...] = (64, 128)
    """lengths of the test beside that of training"""
    n_scored: Annotated[int, Field(ge=1)] = 8
    """last tokens that count"""

    @property
    def n_tokens(self) -> int:
        """Zero and one."""
        return 2

    def faults(self) -> list[str]:
        """What counts must be there."""
        if self.n_scored > self.length:
            return [f"n_scored = {self.n_scored}: more than length {self.length}"]
        return []

    def content_bits(self) -> float:
        """Every bit."""
        return self.length

    def chance(self) -> float:
        """Heads or tails."""
        return 1 / 2

    def draw(self, draws: Draws) -> Drawn:
        """Bits and their running sums."""
        inputs = draws.integers(2, self.length)
        scored = np.zeros(inputs.shape, bool)
        scored[:, -self.n_scored :] = True
        return Drawn(inputs, np.cumsum(inputs, axis=1) % 2, content=inputs, scored=scored)
