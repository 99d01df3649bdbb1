"""Chunks of documents: how text is cut into stretches of bounded size without a change of its tokens.

Chunks are cut where the split patterns of GPT-2 and GPT-4 would cut too (`find_seam`), so the tokens of a document are
the same whether it was read whole or in chunks.
"""

from collections.abc import Iterator
from typing import NamedTuple

CHUNK_CHARACTERS = 1 << 20
PLAIN_SUFFIXES = (".txt", ".md", ".py")


class Chunk(NamedTuple):
    """A stretch of one document.

    `place` is the line (.jsonl) or row (.parquet) of the document within `source`, counted from 1, and 0 where the
    whole file is one document. `last` marks the end of the document.
    """

    text: str
    source: str
    place: int
    last: bool

    @property
    def name(self) -> str:
        """The document as an error message names it."""
        return document_name(self.source, self.place)


def document_name(source: str, place: int) -> str:
    """Return `file` or `file:line`."""
    return f"{source}:{place}" if place else source


def find_seam(text: str, low: int, high: int) -> int:
    """Return where to cut `text`: the best place in (low, high], preferring late ones.

    In order of preference: after a single newline between visible characters, after any newline that a visible
    character follows, before a single space between visible characters, and at `high`. The first and the third leave
    the chunks of the GPT-2 and GPT-4 split patterns as they are; no newline or space ever composes with a neighbor, so
    Unicode normalization does not cross them either.
    """
    fallback = 0
    position = min(high, len(text) - 1)
    while (newline := text.rfind("\n", low, position)) >= 0:
        if not text[newline + 1].isspace():
            if newline and not text[newline - 1].isspace():
                return newline + 1
            fallback = fallback or newline + 1
        position = newline
    if fallback > low:
        return fallback
    position = min(high + 1, len(text) - 1)
    while (space := text.rfind(" ", low + 1, position)) >= 0:
        if not text[space - 1].isspace() and not text[space + 1].isspace():
            return space
        position = space
    return high


class Chunker:
    """Turns blocks of text into chunks: feed blocks, take what is ready, then take the rest."""

    def __init__(self, limit: int = CHUNK_CHARACTERS) -> None:
        self.limit = limit
        self.rest = ""

    def feed(self, block: str) -> Iterator[str]:
        """Yield the chunks that `block` completes; at least one character stays back as the rest."""
        text = self.rest + block if self.rest else block
        start = 0
        while len(text) - start > self.limit:
            cut = find_seam(text, start + self.limit // 2, start + self.limit)
            yield text[start:cut]
            start = cut
        self.rest = text[start:]
