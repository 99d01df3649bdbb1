"""What an evaluation tells of a run's own text, kept with the run and brought to MLflow."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vgpt.errors import TrackingError

if TYPE_CHECKING:
    from pathlib import Path

    from vgpt.data.dataset import Dataset
    from vgpt.tracking.breakdowns.record import Breakdown
    from vgpt.tracking.record import RunRecord
    from vgpt.training.checkpoints.checkpoint import Checkpoint


def keep(checkpoint: "Checkpoint", data: "Dataset | None", found: "Sequence[Breakdown]", *, split: str) -> list[str]:
    """Write breakdowns into their run's directory and deliver them; return what the user should know.

    An evaluation is no less true for not being recorded: what is in the way is told, and is no failure.

    Args:
        checkpoint: what was evaluated.
        data: on which data; None for a text of its own, which every run may be scored on.
        found: what came of it.
        split: which part of the data.
    """
    from vgpt.tracking.breakdowns.record import owner_of, save
    from vgpt.tracking.lock import lock_owner
    from vgpt.tracking.record import read_record

    run_dir = checkpoint.directory.parent.parent
    record = read_record(run_dir)
    if record is None:
        return [f"not recorded: {checkpoint.directory} lies in no run's directory"]
    if lock_owner(run_dir) is not None:
        return [f"not recorded: {run_dir} is being trained; evaluate it again when it has ended"]
    if not all(math.isfinite(float(part.losses.sum())) for one in found for part in one.parts):
        return ["not recorded: a loss is no finite number"]
    if reason := _of_others(checkpoint, data, split):
        return [f"not recorded with the run: {reason}"]
    try:
        path = save(run_dir, owner_of(record), found)
    except OSError as error:
        return [f"not recorded: {run_dir} cannot be written: {error.strerror or error}"]
    return [f"recorded in {path}{_delivered(run_dir, record)}"]


def _of_others(checkpoint: "Checkpoint", data: "Dataset | None", split: str) -> str:
    """Return why this says nothing of the run as comparisons see it; empty where it does."""
    from vgpt.errors import CheckpointError
    from vgpt.training.checkpoints.checkpoint import find_checkpoint

    run_dir = checkpoint.directory.parent.parent
    try:
        meant = find_checkpoint(run_dir).directory
    except CheckpointError as error:
        return error.message
    if meant.resolve() != checkpoint.directory.resolve():
        return f"it is of {checkpoint.directory.name}, and the run stands for its best checkpoint, {meant.name}"
    if data is not None and split != "val":
        return "it is of text that the run was trained on"
    if data is not None and checkpoint.state.data_digest not in ("", data.manifest.digest):
        return f"it is of other data than the run's own, {data.directory}"
    return ""


def _delivered(run_dir: "Path", record: "RunRecord") -> str:
    """Bring what is new to the store of the run, where it has one; return what to add to the note."""
    from vgpt.tracking.mirror import sync_run

    if not record.store:
        return ""
    try:
        return f" and in MLflow at {sync_run(run_dir).store}"
    except TrackingError as error:
        return f"; MLflow has it not yet ({error.message}): `vgpt sync {run_dir.name}` delivers"
