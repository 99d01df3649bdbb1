"""What a command takes where nothing was named: the data prepared last, the run finished last. It is always said."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vgpt.cli.console import notify, warn
from vgpt.errors import CheckpointError
from vgpt.files.paths import DEMO
from vgpt.settings.prepared import PREPARED
from vgpt.tracking.listing import Listed, list_run, list_runs

if TYPE_CHECKING:
    from vgpt.text.tokenizer import Tokenizer

_CHECKPOINTS = "ckpt"


def mention_data(place: str, origin: str) -> None:
    """Say which data is meant where none was named; the first line of what a command says."""
    if origin == "default" and place == DEMO:
        notify(f"data: {DEMO}, Python's own sources: nothing was prepared in this directory")
    elif origin.startswith((PREPARED, "the run ")):
        notify(f"data: {place} ({origin})")


def mention_special(tokenizer: "Tokenizer", text: str, *, allowed: bool) -> None:
    """Say that a text spells special tokens that are read as letters, and how they would be read as tokens."""
    spelled = [] if allowed else [token for token in tokenizer.special_tokens if token in text]
    if spelled:
        warn(f"{', '.join(map(repr, spelled))} in the text is read as letters; --allow-special reads it as the token")


def chosen_run(word: str | None, runs_dir: Path) -> str:
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
