"""What an evaluation tells of a run's own text, kept with the run and brought to MLflow."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vgpt.errors import TrackingError
from vgpt.files.paths import run_argument

if TYPE_CHECKING:
    from pathlib import Path

    from vgpt.data.dataset import Dataset
    from vgpt.tracking.breakdowns.record import Breakdown
    from vgpt.tracking.owned_file import Owner
    from vgpt.tracking.record import RunRecord
    from vgpt.training.checkpoints.checkpoint import Checkpoint


def keep(checkpoint: "Checkpoint", data: "Dataset | None", found: "Sequence[Breakdown]", *, split: str) -> list[str]:
    """Write breakdowns into their run's directory and deliver them; return what the user should know.

    Args:
        checkpoint: what was evaluated.
        data: on which data; None for a text of its own, which every run may be scored on.
        found: what came of it.
        split: which part of the data.
    """
    from vgpt.tracking.breakdowns.record import save

    why_not = _of_other_text(checkpoint, data, split)
    if not all(math.isfinite(float(part.losses.sum())) for one in found for part in one.parts):
        why_not = "a loss is no finite number"
    return keep_by(checkpoint, lambda run_dir, owner: save(run_dir, owner, found), why_not)


def keep_by(checkpoint: "Checkpoint", save: "Callable[[Path, Owner], Path]", why_not: str = "") -> list[str]:
    """Write what an evaluation found into its run's directory and deliver it; return what the user should know.

    An evaluation is no less true for not being recorded: what is in the way is told, and is no failure.

    Args:
        checkpoint: what was evaluated.
        save: writes it, for the run that the directory is of, and returns the file.
        why_not: why it says nothing of the run as comparisons see it; empty where it does.
    """
    from vgpt.tracking.lock import lock_owner
    from vgpt.tracking.owned_file import owner_of
    from vgpt.tracking.record import read_record

    run_dir = checkpoint.directory.parent.parent
    record = read_record(run_dir)
    if record is None:
        return [f"not recorded: {checkpoint.directory} lies in no run's directory"]
    if lock_owner(run_dir) is not None:
        return [f"not recorded: {run_dir} is being trained; evaluate it again when it has ended"]
    if reason := _of_other_weights(checkpoint) or why_not:
        return [f"not recorded with the run: {reason}"]
    try:
        path = save(run_dir, owner_of(record))
    except OSError as error:
        return [f"not recorded: {run_dir} cannot be written: {error.strerror or error}"]
    return [f"recorded in {path}{_delivered(run_dir, record)}"]


def _of_other_weights(checkpoint: "Checkpoint") -> str:
    """Return why the checkpoint is not what its run stands for; empty where it is."""
    from vgpt.errors import CheckpointError
    from vgpt.training.checkpoints.checkpoint import find_checkpoint

    try:
        meant = find_checkpoint(checkpoint.directory.parent.parent).directory
    except CheckpointError as error:
        return error.message
    if meant.resolve() != checkpoint.directory.resolve():
        return f"it is of {checkpoint.directory.name}, and the run stands for its best checkpoint, {meant.name}"
    return ""


def _of_other_text(checkpoint: "Checkpoint", data: "Dataset | None", split: str) -> str:
    """Return why the text says nothing of the run as comparisons see it; empty where it does."""
    if data is not None and split != "val":
        return "it is of text that the run was trained on"
    if data is not None and checkpoint.state.data_digest not in ("", data.manifest.digest):
        return f"it is of other data than the run's own, {data.directory}"
    return ""


def _delivered(run_dir: "Path", record: "RunRecord") -> str:
    """Bring what is new to the store of the run, where it has one; return what to add to the note."""
    from vgpt.tracking.mlflow_store.mirror import sync_run

    if not record.store:
        return ""
    try:
        return f" and in MLflow at {sync_run(run_dir).store}"
    except TrackingError as error:
        return f"; MLflow has it not yet ({error.message}): `vgpt sync {run_argument(run_dir)}` delivers"
