"""A trained model as a directory that transformers loads: written beside its place, loaded again, then put there."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vgpt.attention.kernels.backends import use_backend
from vgpt.errors import CheckpointError, UsageError
from vgpt.interchange.card import write_card
from vgpt.interchange.check import Reloaded, reference, reload_directory, require_transformers
from vgpt.interchange.directory import Exported, flush_all, write_model
from vgpt.interchange.own import own_form, write_code
from vgpt.interchange.stock import Form, stock_form, stock_obstacle
from vgpt.model.gpt2 import GPT2Model
from vgpt.training.checkpoints.checkpoint import Checkpoint, find_checkpoint

Classes = Literal["auto", "stock", "own"]
MOST_DIFFERENCE = 1e-4
"""Largest difference of logits, in float32, with which a directory is the model."""
_MOST_FOLDED = 1e-5
"""The same where weights were folded into others: beyond, the model's own code is nearer to it."""
_MOST_SHIFT = 4.0
"""Largest shift of a layer norm by which biases are folded: about what a norm gives by itself. A larger one would drown
it where numbers have few digits, as in bfloat16."""


def export_run(
    run: str, target: Path, *, runs_dir: Path, classes: Classes = "auto", notify: Callable[[str], None] = lambda _: None
) -> Exported:
    """Write the best checkpoint of a run as a directory for transformers.

    Args:
        run: name of a run, its directory, or a checkpoint's.
        target: the directory to make; there is none yet, or an empty one.
        runs_dir: where names of runs are looked up.
        classes: "stock" for classes that transformers brings with it, "own" for code in the directory, "auto" for
            stock ones where they compute the same.
        notify: hears what is being done.

    Raises:
        UsageError: transformers is not installed, or something is in the directory already.
        CheckpointError: no such run, a plug-in that is not loaded, or a directory that is not the model when it is
            loaded again; nothing is left of it then.
    """
    require_transformers()
    _refuse_taken(target)
    checkpoint = find_checkpoint(run, runs_dir=runs_dir)
    model = checkpoint.load_model("cpu").eval()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"vgpt-export-{os.getpid()}.tmp")
    try:
        form, own_code, found = _make(temporary, checkpoint, model, classes, notify)
        _refuse_other_model(found, target)
        exported = Exported(
            target,
            checkpoint.directory,
            checkpoint.state.step,
            form.architecture,
            own_code,
            found.difference,
            found.tokens,
            form.note,
        )
        write_card(temporary, checkpoint, exported)
        flush_all(temporary)
        if target.is_dir():
            target.rmdir()  # an empty one
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return exported


def _make(
    temporary: Path, checkpoint: Checkpoint, model: GPT2Model, classes: Classes, notify: Callable[[str], None]
) -> tuple[Form, bool, Reloaded]:
    """Write a directory and load it again; return its form, whether that takes code of its own, and what came of it."""
    with use_backend(checkpoint.state.attention_backend):
        wanted = reference(model)

    def written(form: Form, *, own_code: bool) -> Reloaded:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_model(temporary, form, checkpoint)
        if own_code:
            write_code(temporary, checkpoint)
        notify(f"loading it again as {form.architecture}")
        return reload_directory(temporary, wanted, checkpoint.tokenizer(), own_code=own_code)

    if classes == "stock" or (classes == "auto" and not stock_obstacle(model.config)):
        form = stock_form(model)
        if classes == "stock" or form.shift is None:
            return form, False, written(form, own_code=False)
        if form.shift <= _MOST_SHIFT and (found := written(form, own_code=False)).difference <= _MOST_FOLDED:
            return form, False, found
        notify(f"its biases cannot be folded into {form.architecture} without loss: it gets code of its own")
    form = own_form(model)
    return form, True, written(form, own_code=True)


def _refuse_taken(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty", "Name a directory that does not exist yet.")
    if (target.exists() or target.is_symlink()) and not target.is_dir():
        raise UsageError(f"{target} is a file", "Name a directory that does not exist yet.")


def _refuse_other_model(found: Reloaded, target: Path) -> None:
    if found.difference > MOST_DIFFERENCE:
        raise CheckpointError(
            f"loaded again, its logits differ by {found.difference:.2e} from the run's, more than "
            f"{MOST_DIFFERENCE:.0e}: {target} is not written",
            "This is a fault of vgpt, or of another version of transformers; --classes own needs none of its models.",
        )
