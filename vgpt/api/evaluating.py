"""A trained model on fixed windows of text: what `vgpt eval` and `vgpt.evaluate` do."""

import math
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgpt.api.display import facts_html, with_error
from vgpt.data.progress import Progress, stage
from vgpt.errors import DataError
from vgpt.settings.commands import EvalConfig

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from vgpt.data.dataset import Dataset
    from vgpt.tracking.breakdowns.record import Breakdown
    from vgpt.training.checkpoints.checkpoint import Checkpoint
    from vgpt.training.hardware.devices import Compute


_NOT_FIGURES = {"window_losses", "breakdowns", "notes"}


@dataclass(frozen=True)
class Evaluation:
    """Loss of a trained model on fixed windows.

    Attributes:
        run: the run, as it was named.
        checkpoint: directory of the checkpoint that was evaluated.
        step: its step.
        split: "val" or "train"; of `text`, the name of the file.
        windows: how many windows.
        block_size: tokens in each; the last one of a text is shorter.
        tokens: predicted tokens in all of them.
        loss: mean, in nats per token.
        loss_se: its standard error over windows; NaN from one window.
        perplexity: exp(loss).
        bits_per_byte: loss in bits per byte of text.
        bits_per_byte_se: its standard error over windows.
        dtype: precision of matrix products.
        window_losses: mean loss of each window, nats per token, (windows,) float64.
        breakdowns: the losses by position, by length, of repeated bigrams apart: what was asked for.
        notes: what a command would say beside it: where these are kept, or why they are not.
    """

    run: str
    checkpoint: Path
    step: int
    split: str
    windows: int
    block_size: int
    tokens: int
    loss: float
    loss_se: float
    perplexity: float
    bits_per_byte: float
    bits_per_byte_se: float
    dtype: str
    window_losses: "np.ndarray" = field(repr=False)
    breakdowns: "tuple[Breakdown, ...]" = field(default=(), repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    def figures(self) -> dict[str, Any]:
        """Return everything but the losses of single windows and parts, by name."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_FIGURES}

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per window: its number and its loss in nats per token."""
        import pandas as pd

        return pd.DataFrame({"window": range(self.windows), "loss": self.window_losses})

    def parts_to_pandas(self) -> "pd.DataFrame":
        """Return one row per part of the breakdowns: kind, name, tokens, loss and its standard error over windows."""
        import pandas as pd

        columns = ["kind", "name", "tokens", "loss", "loss_se"]
        parts = [
            (one.kind, part.name, part.tokens, part.loss, part.loss_se) for one in self.breakdowns for part in one.parts
        ]
        return pd.DataFrame(parts, columns=columns)

    def _repr_html_(self) -> str:
        facts = [
            ("checkpoint", f"{self.checkpoint} (step {self.step:,})"),
            ("windows", f"{self.windows:,} of {self.block_size} tokens, {self.split}"),
            ("loss", f"{with_error(self.loss, self.loss_se)} nats per token"),
            ("perplexity", f"{self.perplexity:.3f}"),
            ("bits per byte", with_error(self.bits_per_byte, self.bits_per_byte_se)),
        ]
        return facts_html(f"Evaluation of {self.run}", facts)


def evaluate_run(run: str, settings: EvalConfig, progress: Progress) -> Evaluation:
    """Evaluate a trained model.

    Args:
        run: name of a run, its directory, or a checkpoint's.
        settings: what is evaluated, and how exactly.
        progress: hears how the demo corpus is prepared, where it has to be, and how far the evaluation is.

    Raises:
        CheckpointError: no such run, or a damaged one.
        DataError: its data is gone, or was made with another tokenizer; or a text is none, or too short.
        UsageError: windows that are longer than learned positions.
    """
    from vgpt.api.recording import keep
    from vgpt.attention.kernels.backends import use_backend
    from vgpt.settings.train import SystemSettings
    from vgpt.training.checkpoints.checkpoint import find_checkpoint
    from vgpt.training.hardware.devices import resolve

    checkpoint = find_checkpoint(run, runs_dir=settings.runs_dir)
    data = None if settings.text is not None else _data_of(run, checkpoint, settings, progress)
    compute = resolve(SystemSettings(device=settings.device, dtype=settings.dtype, threads=settings.threads))
    with use_backend(checkpoint.state.attention_backend):
        if data is None:
            found = _of_text(run, checkpoint, settings, compute, progress)
        else:
            found = _of_data(run, checkpoint, data, settings, compute, progress)
    if not (found.breakdowns and settings.record):
        return found
    return replace(found, notes=tuple(keep(checkpoint, data, found.breakdowns, split=settings.split)))


def _data_of(run: str, checkpoint: "Checkpoint", settings: EvalConfig, progress: Progress) -> "Dataset":
    """Open the data that is meant, which has to be of the run's tokenizer."""
    from vgpt.training.run import load_data

    try:
        data = load_data(settings.data or checkpoint.settings.train.data, progress)
    except DataError as error:
        if settings.data is not None:
            raise
        remedy = f"Name where the data lies now: vgpt eval {shlex.quote(run)} --data DIRECTORY"
        raise DataError(f"the data that {run} was trained on cannot be opened: {error.message}", remedy) from error
    if data.tokenizer.fingerprint != checkpoint.tokenizer().fingerprint:
        raise DataError(
            f"{data.directory} was made with another tokenizer than {run}: its ids mean other text",
            f"Prepare the text again with the run's own: vgpt prepare ... --tokenizer {checkpoint.directory}",
        )
    return data


def _of_data(
    run: str, checkpoint: "Checkpoint", data: "Dataset", settings: EvalConfig, compute: "Compute", progress: Progress
) -> Evaluation:
    """Evaluate on fixed windows of a split, in the ways that were asked for."""
    from vgpt.evaluation.breakdowns import Asked, break_down
    from vgpt.evaluation.lengths import check_lengths

    block_size = checkpoint.model.block_size
    split = data.val if settings.split == "val" else data.train
    if settings.lengths:
        name = {"val": "the validation text", "train": "the training text"}[settings.split]
        check_lengths(settings.lengths, checkpoint.model, len(split), name)
    model = checkpoint.load_model(compute.device, flash=settings.flash)
    asked = Asked(settings.by_position, settings.recall, settings.lengths, settings.windows)
    facts = {"step": checkpoint.state.step, "text": settings.split, "dtype": compute.dtype_name}
    found, parts = break_down(model, data, split, asked, facts, compute.dtype, progress)
    return Evaluation(
        run=run,
        checkpoint=checkpoint.directory,
        step=checkpoint.state.step,
        split=settings.split,
        windows=len(found.window_losses),
        block_size=block_size,
        tokens=found.tokens,
        loss=found.loss,
        loss_se=found.loss_se,
        perplexity=found.perplexity,
        bits_per_byte=found.bits_per_byte,
        bits_per_byte_se=found.bits_per_byte_se,
        dtype=compute.dtype_name,
        window_losses=found.window_losses,
        breakdowns=parts,
    )


def _of_text(
    run: str, checkpoint: "Checkpoint", settings: EvalConfig, compute: "Compute", progress: Progress
) -> Evaluation:
    """Score a file of text."""
    from vgpt.evaluation.text import read_scored_text, score_text
    from vgpt.tracking.breakdowns.record import TEXT, Breakdown
    from vgpt.tracking.journal import now_ms

    assert settings.text is not None
    text = read_scored_text(settings.text)
    model = checkpoint.load_model(compute.device, flash=settings.flash)
    with stage(progress, f"scoring {settings.text.name}", None, "tokens"):
        part, spelled, name = score_text(
            model, checkpoint.tokenizer(), text, dtype=compute.dtype, advance=progress.advance
        )
    block_size, step = checkpoint.model.block_size, checkpoint.state.step
    file = settings.text.name
    whole = Breakdown(TEXT, step, name, file, compute.dtype_name, block_size, now_ms(), (part,), bytes=spelled)
    return Evaluation(
        run=run,
        checkpoint=checkpoint.directory,
        step=step,
        split=file,
        windows=len(part.losses),
        block_size=block_size,
        tokens=part.tokens,
        loss=part.loss,
        loss_se=part.loss_se,
        perplexity=math.exp(min(part.loss, 700.0)),
        bits_per_byte=whole.bits_per_byte,
        bits_per_byte_se=part.loss_se * part.tokens / (math.log(2) * spelled),
        dtype=compute.dtype_name,
        window_losses=part.losses,
        breakdowns=(whole,),
    )
