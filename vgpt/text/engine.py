"""Fast encoding: tiktoken where it provably agrees with the pattern as Python's `regex` reads it, chunk by chunk else.

One truth: chunks are what the `regex` package matches. tiktoken has its own regular expressions, with older Unicode
tables and a limit on backtracking, so it splits by itself only for the built-in patterns, and only texts without a
character that the two libraries class differently.
"""

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vgpt.errors import TokenizerError
from vgpt.text.patterns import PATTERNS, WHOLE_TEXT, Splitter, pattern_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

# tiktoken searches for special tokens even where none is allowed, and stumbles over an empty list of them.
_PLACEHOLDER = "<|endoftext|>"
_CACHED_CHUNKS = 1 << 17
_CACHED_CHARACTERS = 64


class Engine:
    """Encodes text without special tokens for one vocabulary.

    Time grows faster than linearly with the length of a single chunk: a million letters without a break take seconds.

    Args:
        pattern: the split pattern.
        table: the bytes of every token that is not special, in order of id.
    """

    def __init__(self, pattern: str, table: Sequence[bytes]) -> None:
        self._pattern = pattern
        self._table = table
        self._splitter = Splitter(pattern)
        self._disputed = _disputed_characters if pattern_name(pattern) else None
        self._chunk_ids: dict[str, list[int]] = {}

    def encode(self, text: str) -> "NDArray[np.uint32]":
        """Return the token ids of `text`.

        Raises:
            TokenizerError: the text holds lone surrogates, which UTF-8 cannot carry, or the pattern does not cover it.
        """
        if not text:
            return np.empty(0, dtype=np.uint32)
        try:
            if self._disputed is not None and (text.isascii() or self._disputed(self._pattern).isdisjoint(text)):
                return self._encode_at_once(text)
            return self._encode_by_chunks(text)
        except UnicodeEncodeError as fault:
            lone = fault.object[fault.start]
            raise TokenizerError(
                f"the text holds a lone surrogate, {lone!r} at character {text.index(lone)}, which is no character",
                "Decode the file as UTF-8 with errors='replace', or remove such characters.",
            ) from fault

    def _encode_at_once(self, text: str) -> "NDArray[np.uint32]":
        try:
            return self._fast.encode_to_numpy(text, disallowed_special=())
        except ValueError:
            # Its backtracking stack overflows on a million or so spaces in a row; the other splitter has no such limit.
            return self._encode_by_chunks(text)

    def _encode_by_chunks(self, text: str) -> "NDArray[np.uint32]":
        ids: list[int] = []
        known = self._chunk_ids
        for chunk in self._splitter.split(text):
            chunk_ids = known.get(chunk)
            if chunk_ids is None:
                chunk_ids = self._whole.encode_to_numpy(chunk, disallowed_special=()).tolist()
                if len(known) >= _CACHED_CHUNKS:
                    known.clear()
                if len(chunk) <= _CACHED_CHARACTERS:
                    known[chunk] = chunk_ids
            ids.extend(chunk_ids)
        return np.array(ids, dtype=np.uint32)

    def decode_bytes(self, ids: "NDArray[np.uint32]") -> bytes:
        """Return the bytes of ids that `encode` made, a hundred megabytes a second."""
        encoding = self._whole if self._disputed is None else self._fast
        return encoding.decode_bytes(ids.tolist())

    @cached_property
    def _fast(self) -> Any:
        return _tiktoken_encoding(self._pattern, self._table)

    @cached_property
    def _whole(self) -> Any:
        return _tiktoken_encoding(WHOLE_TEXT, self._table)


def _tiktoken_encoding(pattern: str, table: Sequence[bytes]) -> Any:
    import tiktoken

    ranks = {token: i for i, token in enumerate(table)}
    return tiktoken.Encoding("vgpt", pat_str=pattern, mergeable_ranks=ranks, special_tokens={_PLACEHOLDER: len(ranks)})


@lru_cache(maxsize=len(PATTERNS))
def _disputed_characters(pattern: str) -> frozenset[str]:
    """Return the characters that `regex` and tiktoken put into different classes, of those the pattern names.

    They are assigned in one version of Unicode and not yet in an older one: some 17,000, mostly rare ideographs.
    Found once a process, in about a tenth of a second, on the first text that is not plain ASCII.
    """
    import regex

    # Planes 4 to 13 hold no characters, 15 and 16 are for private use; surrogates are none.
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xF0000)]))
    single_bytes = [bytes([i]) for i in range(256)]
    disputed: set[str] = set()
    for name in sorted({r"\s", *re.findall(r"\\p\{\w+\}", pattern)}):
        theirs = bytes(_tiktoken_encoding(name, single_bytes).encode_ordinary(every)).decode()
        disputed |= set(theirs) ^ set(regex.findall(name, every))
    return frozenset(disputed)
