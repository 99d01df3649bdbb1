"""What a tokenizer is made of, as plain data: the part that files carry and that its fingerprint covers."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from vgpt.errors import TokenizerError
from vgpt.files.paths import access_hint
from vgpt.files.text import decode_text
from vgpt.text.merges import Pair

END_OF_TEXT = "<|endoftext|>"
"""The special token between documents; every tokenizer has it."""
MAX_IDS = 2_000_000
"""Ids stay below this, so that a damaged file cannot ask for tables of any size."""
MAX_FILE_BYTES = 64 << 20
"""Largest tokenizer file that is read."""


@dataclass(frozen=True)
class Vocabulary:
    """Everything that decides which ids a text becomes, and a name."""

    name: str
    pattern: str
    merges: tuple[Pair, ...]
    special_tokens: dict[str, int]
    byte_order: bytes = field(default=bytes(range(256)))

    @property
    def size(self) -> int:
        """One more than the highest id; ids between merges and special tokens may stand for nothing."""
        return max(256 + len(self.merges), *(i + 1 for i in self.special_tokens.values()))

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, over pattern, byte order, merges and special tokens; not over the name."""
        parts = [self.pattern, list(self.byte_order), self.merges, sorted(self.special_tokens.items())]
        return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def check_special_tokens(special_tokens: dict[str, int], first: int) -> None:
    """Refuse special tokens that are empty, not UTF-8, or share an id; `first` is the id after the last merge."""
    seen: dict[int, str] = {}
    for token, i in special_tokens.items():
        try:
            empty = not token.encode()
        except UnicodeEncodeError:
            empty = True
        if empty:
            raise TokenizerError(f"special token {token!r} must be non-empty text that UTF-8 can carry")
        if not first <= i < MAX_IDS:
            raise TokenizerError(
                f"special token {token!r} has id {i}, but ids from {first} to {MAX_IDS - 1} are left after the merges"
            )
        if i in seen:
            raise TokenizerError(f"special tokens {seen[i]!r} and {token!r} share the id {i}")
        seen[i] = token


def with_end_of_text(special_tokens: dict[str, int], first: int) -> dict[str, int]:
    """Add `<|endoftext|>` after the last id where a file of another library lacks it; text encodes as before."""
    if END_OF_TEXT in special_tokens:
        return special_tokens
    return {**special_tokens, END_OF_TEXT: max([first - 1, *special_tokens.values()]) + 1}


def read_text_file(path: Path) -> str:
    """Read a tokenizer file of bounded size as UTF-8, with or without a byte-order mark.

    Raises:
        TokenizerError: missing, unreadable, larger than `MAX_FILE_BYTES`, or not text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as fault:
        raise TokenizerError(
            f"cannot read the tokenizer file {path}: {fault.strerror}",
            access_hint(
                fault,
                "Train one with `vgpt tokenize train`, or name a tokenizer.json, .model file or folder that exists.",
            ),
        ) from fault
    if len(data) > MAX_FILE_BYTES:
        raise TokenizerError(f"{path} is larger than the {MAX_FILE_BYTES >> 20} MB a tokenizer file may have")
    try:
        return decode_text(data)
    except UnicodeDecodeError as fault:
        raise TokenizerError(
            f"{path} is not a tokenizer file: byte {fault.start} is not UTF-8 text",
            "Name a tokenizer.json or a .model file in minbpe's format.",
        ) from fault
