"""Losses of a model broken down in the ways that were asked for, read in as few passes over the windows as possible."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vgpt.data.dataset import Dataset, TokenFile
from vgpt.data.progress import Progress, stage
from vgpt.evaluation.lengths import evaluate_lengths
from vgpt.evaluation.loss import Evaluation, Evaluator
from vgpt.evaluation.positions import Tally, by_position, tally_all
from vgpt.evaluation.recall import by_recall
from vgpt.model.gpt2 import GPT2Model
from vgpt.tracking.breakdowns.record import LENGTHS, POSITIONS, REACH, RECALL, Breakdown, Part
from vgpt.tracking.journal import now_ms


@dataclass(frozen=True)
class Asked:
    """What is wanted beside the loss.

    Attributes:
        by_position: by tokens of context.
        recall: by whether a token ends a bigram that stood in the window before.
        lengths: in windows of other lengths; empty for none.
        windows: most windows; None for all that the text holds.
    """

    by_position: bool = False
    recall: bool = False
    lengths: tuple[int, ...] = ()
    windows: int | None = None

    def fitting(self, split: TokenFile, length: int) -> int:
        """Return how many windows of a length are meant."""
        return self.windows or max(1, (len(split) - 1) // length)


def break_down(
    model: GPT2Model,
    data: Dataset,
    split: TokenFile,
    asked: Asked,
    facts: Mapping[str, Any],
    dtype: torch.dtype,
    progress: Progress,
) -> tuple[Evaluation, tuple[Breakdown, ...]]:
    """Evaluate a model on fixed windows of a split, and break its losses down.

    Args:
        model: evaluated.
        data: the split's.
        split: the text.
        asked: how they are broken down.
        facts: of every breakdown: `step`, `text` and `dtype`.
        dtype: precision of matrix products.
        progress: hears how far it is.

    Raises:
        DataError: the split is shorter than one window.
    """
    trained, lengths = model.config.block_size, data.tokenizer.byte_lengths()
    evaluator = Evaluator(split, lengths, trained, asked.fitting(split, trained))
    tallies: dict[str, Tally] = {}
    if asked.by_position:
        tallies[POSITIONS] = by_position(trained)
    if asked.recall:
        tallies[RECALL] = by_recall()
    with stage(progress, "evaluating", len(evaluator), "windows"):
        losses = tally_all(evaluator, model, list(tallies.values()), progress.advance, dtype=dtype)
    found = Evaluation(losses, len(evaluator) * trained, evaluator.bytes)

    def breakdown(kind: str, windows: Evaluator, parts: tuple[Part, ...]) -> Breakdown:
        documents = tuple(windows.documents(data.tokenizer.end_of_text).tolist())
        return Breakdown(
            kind=kind,
            windows=windows.name,
            block_size=trained,
            made=now_ms(),
            parts=parts,
            documents=documents,
            bytes=windows.bytes,
            **facts,
        )

    made = [breakdown(kind, evaluator, tally.parts()) for kind, tally in tallies.items()]
    if asked.lengths:
        longest = max(asked.lengths)
        count = asked.fitting(split, longest)
        total = sum(longest // length * length for length in asked.lengths) * min(count, (len(split) - 1) // longest)
        with stage(progress, "evaluating lengths", total, "tokens"):
            at_lengths = evaluate_lengths(
                model, split, lengths, asked.lengths, count, dtype=dtype, advance=progress.advance
            )
        made.append(breakdown(LENGTHS, at_lengths.longest, at_lengths.by_length))
        made.append(breakdown(REACH, at_lengths.longest, at_lengths.by_position))
    return found, tuple(made)
