"""Which run is meant: the one that is named, otherwise the one that finished last."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vgpt.errors import CheckpointError
from vgpt.tracking.listing import Listed, list_run, list_runs

_CHECKPOINTS = "ckpt"


def chosen_run(word: str | None, runs_dir: Path, notify: Callable[[str], None]) -> str:
    """Return the run that is meant: the one named, otherwise the one that finished last, and say so.

    Without a name, or by `ckpt/`, the run whose directory one stands in is meant before all others.

    Raises:
        CheckpointError: none was named, and none has finished.
    """
    inside = os.path.isdir(_CHECKPOINTS) and list_run(Path(os.curdir)) is not None
    if word is None and inside:
        notify(f"run: that of this directory, {Path.cwd().name}")
        return _CHECKPOINTS
    if word is not None and (os.path.normpath(word) != _CHECKPOINTS or os.path.exists(_CHECKPOINTS)):
        return word
    found = list_runs(runs_dir) if runs_dir.is_dir() else []
    newest = next((run for run in found if run.state == "finished"), None)
    if newest is None:
        raise CheckpointError(f"no run is named, and none in {runs_dir}/ has finished", _way_out(found))
    notify(f"run: {newest.name}, the newest finished one in {runs_dir}/")
    return str(runs_dir / newest.name)


def _way_out(found: Sequence[Listed]) -> str:
    begun = [run.name for run in found if run.step][:5]
    return f"Name one of: {', '.join(begun)}." if begun else "Train one first: vgpt train."
