"""What a tokenizer is made of, as plain data, in files and under its fingerprint; and proof that merges are sound.

Ids 0..255 are single bytes, id 256 + i is what merge i makes. Encoding replaces, chunk by chunk, the adjacent pair with
the smallest merge, leftmost first (Sennrich et al. 2016, arXiv 1508.07909, on bytes as in GPT-2). Of a vocabulary that
passes the checks here, fast and naive encoders make the same ids.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vgpt.errors import TokenizerError
from vgpt.files.paths import access_hint
from vgpt.files.text import decode_text

MAX_MERGES = 1_000_000
"""Most merges a tokenizer may have."""
MAX_TOKEN_BYTES = 1 << 20
"""Longest token in bytes. Merges that double a token each time would need 2 ** 64 bytes after 64 lines of a file."""
MAX_TABLE_BYTES = 1 << 28
"""Most bytes all tokens together may have."""

Pair = tuple[int, int]


def token_table(byte_order: bytes, merges: Sequence[Pair]) -> list[bytes]:
    """Return the bytes of every token, in order of id.

    Args:
        byte_order: `byte_order[i]` is the byte that id i stands for, a permutation of 0..255.
        merges: pairs of ids; a pair refers to bytes and earlier merges only.

    Raises:
        TokenizerError: the graph refers forward, repeats a pair, holds a merge that can never happen, or is too large.
    """
    if sorted(byte_order) != list(range(256)):
        raise TokenizerError("the first 256 ids must stand for the 256 bytes, each once")
    if len(merges) > MAX_MERGES:
        raise TokenizerError(f"{len(merges):,} merges are more than the {MAX_MERGES:,} allowed")
    _check_sizes(merges)
    _check_reachable(merges)
    table = [byte_order[i : i + 1] for i in range(256)]
    for left, right in merges:
        table.append(table[left] + table[right])
    return table


def _check_sizes(merges: Sequence[Pair]) -> None:
    """Refuse forward references and oversized tokens before a single byte string is built."""
    lengths = [1] * 256
    for i, (left, right) in enumerate(merges):
        if not (0 <= left < 256 + i and 0 <= right < 256 + i):
            raise TokenizerError(f"merge {i} joins ({left}, {right}), but only ids 0..{255 + i} exist before it")
        lengths.append(lengths[left] + lengths[right])
        if lengths[-1] > MAX_TOKEN_BYTES:
            raise TokenizerError(f"merge {i} makes a token of more than {MAX_TOKEN_BYTES:,} bytes")
    if sum(lengths) > MAX_TABLE_BYTES:
        raise TokenizerError(f"the tokens together have more than {MAX_TABLE_BYTES:,} bytes")


def _check_reachable(merges: Sequence[Pair]) -> None:
    """Refuse a merge that encoding its own bytes would not end in.

    Where every token is what its own bytes encode to, no two tokens share their bytes, and an encoder that looks for
    the bytes of a pair (tiktoken) equals one that looks for the pair (minbpe). Merges that were learned always pass.
    """
    made: dict[Pair, int] = {}
    for i, pair in enumerate(merges):
        if pair in made:
            raise TokenizerError(f"merge {i} repeats merge {made[pair] - 256}: {pair}")
        made[pair] = 256 + i
    for i, (left, right) in enumerate(merges):
        if _straddled(made, merges, left, right, 256 + i):
            raise TokenizerError(
                f"merge {i} of ({left}, {right}) can never happen: an earlier merge always takes its bytes",
                "Such a merge was not learned from a text; use the merges as the trainer wrote them.",
            )


def _straddled(made: dict[Pair, int], merges: Sequence[Pair], left: int, right: int, until: int) -> bool:
    """Tell whether some earlier merge joins `left` and `right` across their border before `until`.

    Undoes the merges at the border from the latest to the earliest. Between two of them the border stands between the
    same two symbols; a merge of exactly these would come first. Of equal merges in a run the leftmost goes first.
    """
    left_until = right_until = until
    while max(left, right) >= 256:
        if left >= right:
            left_until = left
            left = merges[left - 256][1]
        else:
            right_until = right
            right = merges[right - 256][0]
        across = made.get((left, right), until)
        if across < left_until and across <= right_until:
            return True
    return False


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
