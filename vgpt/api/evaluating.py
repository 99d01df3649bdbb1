"""A trained model on fixed windows of text: what `vgpt eval` and `vgpt.evaluate` do."""

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgpt.api.display import facts_html, with_error
from vgpt.data.progress import Progress
from vgpt.errors import DataError
from vgpt.settings.commands import EvalConfig

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Evaluation:
    """Loss of a trained model on fixed windows.

    Attributes:
        run: the run, as it was named.
        checkpoint: directory of the checkpoint that was evaluated.
        step: its step.
        split: "val" or "train".
        windows: how many windows.
        block_size: tokens in each.
        tokens: predicted tokens in all of them.
        loss: mean, in nats per token.
        loss_se: its standard error over windows; NaN from one window.
        perplexity: exp(loss).
        bits_per_byte: loss in bits per byte of text.
        bits_per_byte_se: its standard error over windows.
        dtype: precision of matrix products.
        window_losses: mean loss of each window, nats per token, (windows,) float64.
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

    def figures(self) -> dict[str, Any]:
        """Return everything but the losses of single windows, by name."""
        return {name: value for name, value in asdict(self).items() if name != "window_losses"}

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per window: its number and its loss in nats per token."""
        import pandas as pd

        return pd.DataFrame({"window": range(self.windows), "loss": self.window_losses})

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
        progress: hears how the demo corpus is prepared, where it has to be.

    Raises:
        CheckpointError: no such run, or a damaged one.
        DataError: its data is gone, or was made with another tokenizer.
    """
    from vgpt.attention.kernels.backends import use_backend
    from vgpt.evaluation.loss import Evaluator
    from vgpt.settings.train import SystemSettings
    from vgpt.training.checkpoints.checkpoint import find_checkpoint
    from vgpt.training.hardware.devices import resolve
    from vgpt.training.run import load_data

    checkpoint = find_checkpoint(run, runs_dir=settings.runs_dir)
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
    compute = resolve(SystemSettings(device=settings.device, dtype=settings.dtype, threads=settings.threads))
    block_size = checkpoint.model.block_size
    split = data.val if settings.split == "val" else data.train
    windows = settings.windows or max(1, (len(split) - 1) // block_size)
    evaluator = Evaluator(split, data.tokenizer.byte_lengths(), block_size, windows)
    model = checkpoint.load_model(compute.device, flash=settings.flash)
    with use_backend(checkpoint.state.attention_backend):
        found = evaluator.evaluate(model, dtype=compute.dtype)
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
    )
