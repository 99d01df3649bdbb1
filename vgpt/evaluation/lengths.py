"""Loss in windows of other lengths than training had: the same text for every length and for every run.

The longest windows are laid over the text; for each shorter length they are cut into pieces, so that every length
predicts the same tokens, each with the context that its piece gives it. Where a length does not divide the longest, the
last tokens of each window are left out for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vgpt.data.dataset import TokenFile
from vgpt.errors import DataError, UsageError
from vgpt.evaluation.loss import Evaluator
from vgpt.evaluation.positions import by_position, tally_all
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.tracking.breakdowns.record import Part


@dataclass(frozen=True)
class Lengths:
    """What came of it.

    Attributes:
        longest: the longest windows: what all is said of.
        by_length: mean loss of each longest window in pieces of each length.
        by_position: the losses in the longest windows by tokens of context.
    """

    longest: Evaluator
    by_length: tuple[Part, ...]
    by_position: tuple[Part, ...]


def check_lengths(lengths: Sequence[int], config: GPT2Config, tokens: int, text: str) -> None:
    """Refuse lengths that the model or the text does not have, before anything is computed.

    Args:
        lengths: asked for.
        config: of the model.
        tokens: of the text.
        text: what it is called.

    Raises:
        UsageError: learned positions end before a length.
        DataError: the text is shorter than a window.
    """
    longest, trained = max(lengths), config.block_size
    if config.pos == "learned" and longest > trained:
        fitting = ",".join(str(length) for length in sorted(set(lengths)) if length <= trained) or str(trained)
        raise UsageError(
            f"--lengths {longest}: this model has learned positions, one vector for each of the {trained:,} tokens "
            "that it was trained on at once; there is none for a token beyond",
            f"Take --lengths {fitting}, or train a model to compare with --pos rope, alibi or none.",
        )
    if tokens < longest + 1:
        raise DataError(
            f"{text} has {tokens:,} tokens, and a window of --lengths {longest} takes {longest + 1:,}",
            f"Leave out lengths above {max(1, tokens - 1):,}, or name longer text of the same tokenizer with --data.",
        )


def evaluate_lengths(
    model: GPT2Model,
    split: TokenFile,
    byte_lengths: np.ndarray,
    lengths: Sequence[int],
    windows: int,
    *,
    dtype: torch.dtype,
    advance: Callable[[int], None],
) -> Lengths:
    """Evaluate a model in windows of several lengths.

    Args:
        model: evaluated; its positions have to go as far.
        split: the text.
        byte_lengths: bytes per token id.
        lengths: predicted tokens per window.
        windows: how many of the longest at most.
        dtype: precision of matrix products.
        advance: hears how many tokens more are done.
    """
    longest = max(lengths)
    base = Evaluator(split, byte_lengths, longest, windows)
    by_length: list[Part] = []
    tally = by_position(longest, model.config.block_size)
    for length in sorted(set(lengths)):
        pieces = longest // length
        starts = (base.starts[:, None] + np.arange(pieces) * length).reshape(-1)
        evaluator = Evaluator.at(split.tokens, byte_lengths, length, starts)
        tallies = [tally] if length == longest else []
        means = tally_all(evaluator, model, tallies, lambda done, each=length: advance(done * each), dtype=dtype)
        counts = np.full(len(base), pieces * length)
        by_length.append(Part(str(length), length, means.reshape(-1, pieces).mean(1), counts))
    return Lengths(base, tuple(by_length), tally.parts())
