"""One reader per format: each turns an open file into pieces of documents, or says which line is wrong."""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

from vgpt.errors import DataError, did_you_mean
from vgpt.text.corpus import PLAIN_SUFFIXES, Cutter, Piece

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 28
PARQUET_ROWS = 256


def read_file(raw: IO[bytes], source: str, suffix: str, text_key: str) -> Iterator[Piece]:
    """Stream the documents of one open file; documents without a single character are yielded as empty pieces.

    Args:
        raw: the file, opened for bytes and read forward only (Parquet seeks).
        source: its name, for messages and for the pieces.
        suffix: one of `corpus.SUPPORTED`.
        text_key: key or column of the text.

    Raises:
        DataError: names the file and the line, row or byte of what is no text.
    """
    if suffix == ".parquet":
        yield from _read_parquet(raw, source, text_key)
        return
    compressed = suffix.endswith(".gz")
    stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if compressed else raw
    try:
        if suffix.removesuffix(".gz") in PLAIN_SUFFIXES:
            yield from _read_plain(stream, source)
        else:
            yield from _read_jsonl(stream, source, text_key)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{source} is no whole gzip file: {error}", "Copy or compress it again.") from error


def _read_plain(stream: IO[bytes], source: str) -> Iterator[Piece]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    cutter = Cutter()
    lines = 0
    while True:
        block = stream.read(BLOCK_BYTES)
        if b"\0" in block:
            line = lines + block.count(b"\n", 0, block.index(b"\0")) + 1
            raise DataError(f"{source} is no text: NUL byte in line {line}", _encoding_hint(source))
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = lines + error.object.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{source} is no UTF-8 text: byte 0x{error.object[error.start]:02x} in line {line}",
                _encoding_hint(source),
            ) from error
        lines += block.count(b"\n")
        for piece in cutter.feed(text):
            yield Piece(piece, source, 0, False)
        if not block:
            yield Piece(cutter.rest, source, 0, True)
            return


def _encoding_hint(source: str) -> str:
    return f"Text in another encoding has to be converted first: iconv -f UTF-16 -t UTF-8 {source}"


def _read_jsonl(stream: IO[bytes], source: str, text_key: str) -> Iterator[Piece]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES:
            raise DataError(
                f"{source}:{number} is longer than {MAX_LINE_BYTES:,} bytes", "Write one JSON object per line."
            )
        if line.strip():
            yield from _cut(_text_of(line, source, number, text_key), source, number)


def _text_of(line: bytes, source: str, number: int, text_key: str) -> str:
    where = f"{source}:{number}"
    try:
        row: Any = json.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is no UTF-8 text: {error.reason}", "Write one JSON object per line, in UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {error}", "Write one JSON object per line.") from error
    if not isinstance(row, dict):
        raise DataError(
            f"{where} holds a JSON {type(row).__name__}, not an object",
            f'Write one object per line, like {{"{text_key}": "..."}}.',
        )
    if text_key not in row:
        keys = ", ".join(map(repr, list(row)[:8])) or "none"
        raise DataError(
            f"{where} has no key {text_key!r}{did_you_mean(text_key, row)} (its keys: {keys})",
            "Name the key that holds the text with --text-key.",
        )
    text = row[text_key]
    if not isinstance(text, str):
        raise DataError(
            f"{where}: {text_key!r} holds {type(text).__name__}, not a string", "Name another with --text-key."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {text_key!r} holds half a surrogate pair", "Escape both halves or none.") from error
    return text


def _read_parquet(raw: IO[bytes], source: str, text_key: str) -> Iterator[Piece]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(raw)
        names = table.schema_arrow.names
        if text_key not in names:
            raise DataError(
                f"{source} has no column {text_key!r}{did_you_mean(text_key, names)} (its columns: {', '.join(names)})",
                "Name the column that holds the text with --text-key.",
            )
        kind = table.schema_arrow.field(text_key).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(f"{source}: column {text_key!r} holds {kind}, not strings", "Name another with --text-key.")
        row = 0
        for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=[text_key], use_threads=False):
            for value in batch.column(0):
                row += 1
                yield from _cut(value.as_py() or "", source, row)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} is no whole Parquet file: {error}", "Copy or write it again.") from error


def _cut(text: str, source: str, place: int) -> Iterator[Piece]:
    cutter = Cutter()
    for piece in cutter.feed(text):
        yield Piece(piece, source, place, False)
    yield Piece(cutter.rest, source, place, True)
