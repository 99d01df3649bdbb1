"""The spool: every document of a corpus, cleaned, in one temporary file, with a small index in memory.

Inputs are read exactly once, so standard input, archives and files that change meanwhile are no special cases; the
split and the tokenizer's sample can be chosen with all documents known, and workers read their share of the file
themselves. The index takes about 40 bytes per document, whatever its length.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vgpt.text.chunks import Chunk, document_name
from vgpt.text.clean import DEDUP, Cleaner
from vgpt.text.vocabulary import END_OF_TEXT

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Spool:
    """A spool file and its index.

    Chunks: `offsets`, `sizes` (bytes in the file), `owners` (index of the document). Documents: `digests`
    (documents, 16) uint8, `places` and `origins` (index into `sources`), from which a message names one.
    """

    path: Path
    offsets: np.ndarray
    sizes: np.ndarray
    owners: np.ndarray
    digests: np.ndarray
    places: np.ndarray
    origins: np.ndarray
    sources: Sequence[str]
    empty: int
    marks: int = 0
    """how often the text itself spells `<|endoftext|>`, as files of several documents do"""

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.digests)

    @cached_property
    def document_sizes(self) -> np.ndarray:
        """Bytes of each document."""
        sizes = np.zeros(self.documents, dtype=np.int64)
        np.add.at(sizes, self.owners, self.sizes)
        return sizes

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the documents in order, in hex."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()

    def name(self, document: int) -> str:
        """Return file and line of a document."""
        return document_name(self.sources[int(self.origins[document])], int(self.places[document]))

    def read(self, offset: int, size: int) -> str:
        """Return the text of one stretch of the file."""
        with self.path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size).decode()


def write_spool(chunks: Iterable[Chunk], path: Path, cleaner: Cleaner) -> Spool:
    """Clean every chunk, write it to `path` and index it; empty documents and, if asked, repetitions are left out."""
    sizes, owners, digests = array("q"), array("q"), bytearray()
    places, origins = array("q"), array("q")
    sources: dict[str, int] = {}
    empty = marks = 0
    mark = END_OF_TEXT.encode()
    with path.open("wb") as stream:
        for document in _documents(chunks):
            hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
            before = len(sizes)
            chunk = None
            for chunk in document:
                data = cleaner.clean(chunk.text).encode()
                if data:
                    stream.write(data)
                    marks += data.count(mark)
                    hasher.update(data)
                    sizes.append(len(data))
                    owners.append(len(places))
            cleaner.end_document()
            if chunk is None or len(sizes) == before:
                empty += 1
                continue
            digests += hasher.digest()
            places.append(chunk.place)
            origins.append(sources.setdefault(chunk.source, len(sources)))
    lengths = np.frombuffer(sizes, dtype=np.int64) if sizes else np.zeros(0, dtype=np.int64)
    spool = Spool(
        path=path,
        offsets=np.cumsum(lengths) - lengths,
        sizes=lengths,
        owners=np.array(owners, dtype=np.int64),
        digests=np.frombuffer(digests, dtype=np.uint8).reshape(-1, _DIGEST_BYTES),
        places=np.array(places, dtype=np.int64),
        origins=np.array(origins, dtype=np.int64),
        sources=tuple(sources),
        empty=empty,
        marks=marks,
    )
    return _without_repetitions(spool, cleaner) if DEDUP in cleaner.steps else spool


def _documents(chunks: Iterable[Chunk]) -> Iterator[Iterator[Chunk]]:
    """Group chunks into documents; each group must be used up before the next is asked for."""
    stream = iter(chunks)

    def one(first: Chunk) -> Iterator[Chunk]:
        chunk = first
        yield chunk
        while not chunk.last:
            chunk = next(stream)
            yield chunk

    for first in stream:
        yield one(first)


def _without_repetitions(spool: Spool, cleaner: Cleaner) -> Spool:
    """Keep the first of equal documents; the others stay in the file, but not in the index."""
    keys = np.ascontiguousarray(spool.digests).view(f"V{_DIGEST_BYTES}").reshape(-1)
    # Structured bytes do not sort in numpy; two 64-bit halves do.
    halves = keys.view(np.uint64).reshape(-1, 2)
    order = np.lexsort((np.arange(len(halves)), halves[:, 1], halves[:, 0]))
    repeated = np.zeros(len(halves), dtype=bool)
    repeated[order[1:]] = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
    keep = ~repeated
    kept_chunks = keep[spool.owners]
    count = cleaner.counts[DEDUP]
    count.documents = int(repeated.sum())
    for chunk in np.flatnonzero(~kept_chunks).tolist():
        count.characters += len(spool.read(int(spool.offsets[chunk]), int(spool.sizes[chunk])))
    renumbered = np.cumsum(keep) - 1
    return Spool(
        path=spool.path,
        offsets=spool.offsets[kept_chunks],
        sizes=spool.sizes[kept_chunks],
        owners=renumbered[spool.owners[kept_chunks]],
        digests=spool.digests[keep],
        places=spool.places[keep],
        origins=spool.origins[keep],
        sources=spool.sources,
        empty=spool.empty,
        marks=spool.marks,
    )
