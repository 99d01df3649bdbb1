"""Loss on fixed windows: the same tokens for every run, so that differences are the models' and not the draw's.

Windows are read from the token file as they are needed: memory does not grow with the text.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from vgpt.data.batches import evaluation_windows
from vgpt.data.dataset import Dataset, TokenFile
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.loss import token_losses

_TOKENS_AT_ONCE = 16_384
_IDS_AT_ONCE = 1 << 20

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
        self._take(split.tokens, byte_lengths, block_size, evaluation_windows(split.tokens, block_size, windows))

    def _take(self, ids: np.ndarray, byte_lengths: np.ndarray, block_size: int, starts: np.ndarray) -> None:
        self.starts = starts
        self.block_size = block_size
        self._ids = ids
        self.bytes = sum(int(byte_lengths[rows[:, 1:]].sum()) for rows in self._in_turn())

    @classmethod
    def at(cls, ids: np.ndarray, byte_lengths: np.ndarray, block_size: int, starts: np.ndarray) -> "Evaluator":
        """Take windows of `block_size` predicted tokens that begin at given places of the ids."""
        made = cls.__new__(cls)
        made._take(ids, byte_lengths, block_size, starts)
        return made

    @classmethod
    def of(cls, data: Dataset, block_size: int, windows: int) -> "Evaluator":
        """Choose windows of a data set's validation split."""
        return cls(data.val, data.tokenizer.byte_lengths(), block_size, windows)

    def __len__(self) -> int:
        """Return how many windows there are."""
        return len(self.starts)

    @property
    def name(self) -> str:
        """Number, length and hash of the windows: `256x128:0123456789ab`."""
        content = hashlib.sha256()
        for rows in self._in_turn():
            content.update(rows.tobytes())
        return f"{len(self)}x{self.block_size}:{content.hexdigest()[:12]}"

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """Return the ids of the windows with these numbers, (len(chosen), block_size + 1) int64."""
        return self._ids[self.starts[chosen][:, None] + np.arange(self.block_size + 1)].astype(np.int64)

    def documents(self, end_of_text: int) -> np.ndarray:
        """Return for each window the document of its first target, (windows,) int64: the ends of text before it.

        A window that runs on into the next document counts as one of that in which it begins. Reads the split up to
        the last window once.
        """
        found = np.empty(len(self), dtype=np.int64)
        before, begin = 0, 0
        for number, start in enumerate(self.starts.tolist()):
            # The first target is token start + 1.
            while begin <= start:
                end = min(start + 1, begin + _IDS_AT_ONCE)
                before += int(np.count_nonzero(self._ids[begin:end] == end_of_text))
                begin = end
            found[number] = before
        return found

    def evaluate(self, model: GPT2Model, *, dtype: torch.dtype, losses: Losses = token_losses) -> Evaluation:
        """Return the model's losses, computed without dropout and with matrix products in `dtype`.

        The model is left in the mode (training or evaluation) it was found in.
        """
        each: list[np.ndarray] = []
        positions = np.zeros(self.block_size)
        for _, found in self.walk(model, dtype=dtype, losses=losses):
            each.append(found.mean(1))
            positions += found.sum(0)
        return Evaluation(np.concatenate(each), len(self) * self.block_size, self.bytes, positions / len(self))

    def walk(
        self, model: GPT2Model, *, dtype: torch.dtype, losses: Losses = token_losses
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ids (n, block_size + 1) int64 and losses (n, block_size) float64 of all windows, in their order.

        Args:
            model: as in `evaluate`.
            dtype: as in `evaluate`.
            losses: as in `token_losses`.
        """
        first = 0
        for part in self._losses(model, np.arange(len(self)), dtype=dtype, losses=losses):
            numbers = np.arange(first, first + len(part))
            yield self.rows(numbers), exact(part).numpy()
            first += len(part)

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
        count = -(-len(self) // parts)
        chosen = (np.arange(count) * parts + part) % len(self)
        return torch.cat(list(self._losses(model, chosen, dtype=dtype, losses=losses)))

    def evaluation(self, losses: torch.Tensor) -> Evaluation:
        """Return the figures of the losses of all windows, (windows, block_size), in their order."""
        wide = exact(losses)
        tokens = len(self) * self.block_size
        return Evaluation(wide.mean(1).numpy(), tokens, self.bytes, wide.mean(0).numpy())

    def _losses(
        self, model: GPT2Model, chosen: np.ndarray, *, dtype: torch.dtype, losses: Losses
    ) -> Iterator[torch.Tensor]:
        """Yield the losses of the windows with these numbers, as many at once as memory is sure to hold."""
        parameter = next(model.parameters())
        device = parameter.device
        # Memory for gathering shares lasts into training, where tensors born in inference mode may not take part.
        ungraded = torch.no_grad if hasattr(parameter, "full_tensor") else torch.inference_mode
        at_once = max(1, _TOKENS_AT_ONCE // (self.block_size + 1))
        training = model.training
        model.eval()
        try:
            for start in range(0, len(chosen), at_once):
                with ungraded(), autocast(device, dtype):
                    rows = torch.from_numpy(self.rows(chosen[start : start + at_once])).to(device)
                    found = losses(model, rows[:, :-1], rows[:, 1:]).float()
                yield found
        finally:
            model.train(training)

    def _in_turn(self) -> Iterator[np.ndarray]:
        """Yield the ids of all windows in their order, a bounded number at once."""
        at_once = max(1, _IDS_AT_ONCE // (self.block_size + 1))
        for start in range(0, len(self), at_once):
            yield self.rows(np.arange(start, min(start + at_once, len(self))))


def exact(losses: torch.Tensor) -> torch.Tensor:
    """Return losses in float64, on the CPU: not every device has it."""
    return losses.cpu().double()


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which matrix products run in `dtype`; float32 switches it off."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)
