"""What a command says of what it took by itself: data that nobody named, special tokens read as letters."""

from typing import TYPE_CHECKING

from vgpt.cli.console import notify, warn
from vgpt.files.paths import DEMO
from vgpt.settings.prepared import PREPARED

if TYPE_CHECKING:
    from vgpt.text.tokenizer import Tokenizer


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
