"""Loss on fixed windows: the same tokens for every run, so that differences are the models' and not the draw's."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from vgpt.data.batches import evaluation_windows
from vgpt.data.dataset import Dataset, TokenFile
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.loss import token_losses

_TOKENS_AT_ONCE = 16_384

Losses = Callable[[GPT2Model, torch.Tensor, torch.Tensor], torch.Tensor]
"""Computes the loss of every token (B, T) from a model, ids and targets."""


@dataclass(frozen=True)
class Evaluation:
    """Losses of one model on fixed windows.

    Attributes:
        window_losses: mean nats per token of each window, (windows,) float64; all windows are equally long.
        tokens: predicted tokens in all windows.
        bytes: UTF-8 bytes that those tokens spell; special tokens spell none.
        position_losses: mean nats of the tokens with 1, 2, ... tokens of context, (block_size,) float64; empty where
            they are not known.
    """

    window_losses: np.ndarray
    tokens: int
    bytes: int
    position_losses: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return float(self.window_losses.mean())

    @property
    def loss_se(self) -> float:
        """Standard error of the mean over windows: evaluation noise, not seed noise. NaN from one window."""
        count = len(self.window_losses)
        return float(self.window_losses.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))

    @cached_property
    def _bits_per_nat_token(self) -> float:
        return self.tokens / (math.log(2) * self.bytes) if self.bytes else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits per byte of text: comparable between tokenizers."""
        return self.loss * self._bits_per_nat_token

    @property
    def bits_per_byte_se(self) -> float:
        """Standard error of `bits_per_byte` over windows, the bytes taken as given."""
        return self.loss_se * self._bits_per_nat_token

    def metrics(self) -> dict[str, float]:
        """Return the figures under their names in the tracking schema."""
        return {
            "val/loss": self.loss,
            "val/loss_se": self.loss_se,
            "val/perplexity": self.perplexity,
            "val/bits_per_byte": self.bits_per_byte,
        }


class Evaluator:
    """Evaluates models on fixed windows of one split."""

    def __init__(self, split: TokenFile, byte_lengths: np.ndarray, block_size: int, windows: int) -> None:
        """Choose the windows.

        Args:
            split: the tokens.
            byte_lengths: bytes per token id.
            block_size: predicted tokens per window.
            windows: how many at most; fewer where the split holds fewer.

        Raises:
            DataError: the split is shorter than one window.
        """
        self.starts = evaluation_windows(split.tokens, block_size, windows)
        self.rows = split.tokens[self.starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
        self.bytes = int(byte_lengths[self.rows[:, 1:]].sum())

    @classmethod
    def of(cls, data: Dataset, block_size: int, windows: int) -> "Evaluator":
        """Choose windows of a data set's validation split."""
        return cls(data.val, data.tokenizer.byte_lengths(), block_size, windows)

    def evaluate(self, model: GPT2Model, *, dtype: torch.dtype) -> Evaluation:
        """Return the model's losses, computed without dropout and with matrix products in `dtype`.

        The model is left in the mode (training or evaluation) it was found in.
        """
        return self.evaluation(self.token_losses(model, dtype=dtype))

    def token_losses(
        self, model: GPT2Model, *, dtype: torch.dtype, losses: Losses = token_losses, part: int = 0, parts: int = 1
    ) -> torch.Tensor:
        """Return the losses of the windows part, part + parts, ..., (windows, block_size), on the model's device.

        Args:
            model: as in `evaluate`.
            dtype: as in `evaluate`.
            losses: computes the loss of every token from (model, ids, targets).
            part: which share of the windows.
            parts: how many shares there are. All are equally long: the last ones begin again with the first windows.
        """
        device = next(model.parameters()).device
        count = -(-len(self.rows) // parts)
        chosen = (np.arange(count) * parts + part) % len(self.rows)
        at_once = max(1, _TOKENS_AT_ONCE // self.rows.shape[1])
        found: list[torch.Tensor] = []
        training = model.training
        model.eval()
        try:
            with torch.inference_mode(), autocast(device, dtype):
                for start in range(0, count, at_once):
                    rows = torch.from_numpy(self.rows[chosen[start : start + at_once]]).to(device)
                    found.append(losses(model, rows[:, :-1], rows[:, 1:]).float())
        finally:
            model.train(training)
        return torch.cat(found)

    def evaluation(self, losses: torch.Tensor) -> Evaluation:
        """Return the figures of the losses of all windows, (windows, block_size), in their order."""
        exact = losses.double()
        return Evaluation(exact.mean(1).cpu().numpy(), self.rows[:, 1:].size, self.bytes, exact.mean(0).cpu().numpy())


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which matrix products run in `dtype`; float32 switches it off."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)
