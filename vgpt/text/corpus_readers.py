"""One reader per format: each turns an open file into chunks of documents, or says which line is wrong."""

import codecs
import gzip
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

from vgpt.errors import DataError, did_you_mean
from vgpt.files.paths import typed_name
from vgpt.files.text import parse_json, wide_encoding
from vgpt.text.chunks import PLAIN_SUFFIXES, Chunk, Chunker

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 28
PARQUET_ROWS = 256
_HEAD_BYTES = 4096
_TEXT_KINDS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")
_JSON_NAMES: dict[type, str] = {bool: "true or false", list: "an array", dict: "an object"}


def read_file(raw: IO[bytes], source: str, suffix: str, text_key: str) -> Iterator[Chunk]:
    """Stream the documents of one open file; documents without a single character are yielded as empty chunks.

    Args:
        raw: the file, opened for bytes and read forward only (Parquet seeks).
        source: its name, for messages and for the chunks.
        suffix: one of `corpus.SUPPORTED`.
        text_key: key or column of the text.

    Raises:
        DataError: names the file and the line, row or byte of what is not text.
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


def _read_plain(stream: IO[bytes], source: str) -> Iterator[Chunk]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    chunker = Chunker()
    lines, head = 0, b""
    while True:
        block = stream.read(BLOCK_BYTES)
        head = head or block[:_HEAD_BYTES]
        if b"\0" in block:
            line = lines + block.count(b"\n", 0, block.index(b"\0")) + 1
            raise DataError(f"{source} is no UTF-8 text: NUL byte in line {line}", conversion_hint(source, head))
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = lines + error.object.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{source} is no UTF-8 text: byte 0x{error.object[error.start]:02x} in line {line}",
                conversion_hint(source, head),
            ) from error
        lines += block.count(b"\n")
        for chunk in chunker.feed(text):
            yield Chunk(chunk, source, 0, False)
        if not block:
            yield Chunk(chunker.rest, source, 0, True)
            return


def conversion_hint(source: str, head: bytes) -> str:
    """Return how to make UTF-8 of a text in another encoding, by a command that gives the right text.

    Args:
        source: file, or `standard input`.
        head: the first bytes of the text, from which UTF-16 and UTF-32 are told.
    """
    encoding = wide_encoding(head)
    if encoding is None and b"\0" in head:
        return "It is not text in any encoding that vgpt knows; leave it out."
    converter = f"iconv -f {encoding or 'WINDOWS-1252'} -t UTF-8"
    stem, dot, suffix = source.removesuffix(".gz").rpartition(".")
    converted = typed_name(f"{stem}.utf8.{suffix}" if dot else f"{suffix}.utf8.txt")
    if source == "standard input":
        command = f"{converter} FILE | vgpt prepare -"
    elif source.endswith(".gz"):
        command = f"gunzip -c {typed_name(source)} | {converter} > {converted}"
    else:
        command = f"{converter} {typed_name(source)} > {converted}"
    if encoding:
        return f"It is in {encoding}. Convert it first: {command}"
    return (
        f"If it was saved as Windows-1252, as Western European text often is: {command}; name any other encoding "
        "after -f in its place, and look at what comes out before you train on it."
    )


def _read_jsonl(stream: IO[bytes], source: str, text_key: str) -> Iterator[Chunk]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES:
            raise DataError(
                f"{source}:{number} is longer than {MAX_LINE_BYTES:,} bytes", "Write one JSON object per line."
            )
        # Files that were joined keep the mark of each: it is no part of a line.
        line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield from _cut(_text_of(line, source, number, text_key), source, number)


def _text_of(line: bytes, source: str, number: int, text_key: str) -> str:
    where = f"{source}:{number}"
    try:
        row: Any = parse_json(line)
    except UnicodeDecodeError as error:
        fault = f"{where} is no UTF-8 text: byte 0x{error.object[error.start]:02x}"
        raise DataError(fault, conversion_hint(source, line)) from error
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
    if text is None:  # an empty document, as a null in a Parquet column is
        return ""
    if not isinstance(text, str):
        texts = [key for key, value in row.items() if isinstance(value, str)]
        raise DataError(
            f"{where}: {text_key!r} holds {_JSON_NAMES.get(type(text), 'a number')}, not a string", _other_key(texts)
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {text_key!r} holds half a surrogate pair", "Escape both halves or none.") from error
    return text


def _other_key(texts: Sequence[str]) -> str:
    shown = ", ".join(map(repr, texts[:8]))
    return f"Name another with --text-key; strings are in: {shown}." if texts else "No other of its keys holds strings."


def _read_parquet(raw: IO[bytes], source: str, text_key: str) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not raw.seekable():
        raise DataError(f"{source} is a pipe, and Parquet cannot be read forward", "Write it to a .parquet file first.")
    try:
        table = pq.ParquetFile(raw)
        _check_column(table.schema_arrow, source, text_key)
        row = 0
        for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=[text_key], use_threads=False):
            # A name with a dot brings the columns below it along.
            for value in batch.column(batch.schema.get_field_index(text_key)):
                row += 1
                yield from _cut(_text_of_cell(value, source, row), source, row)
    # pyarrow reports damage by many kinds of exceptions.
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError, LookupError, MemoryError, TypeError) as error:
        raise DataError(f"{source} is no whole Parquet file: {error}", "Copy or write it again.") from error


def _check_column(schema: Any, source: str, text_key: str) -> None:
    """Refuse a column that is not there, there twice, or not text.

    Raises:
        DataError: with the columns that might be meant.
    """
    names = schema.names
    if text_key not in names:
        raise DataError(
            f"{source} has no column {text_key!r}{did_you_mean(text_key, names)} (its columns: {', '.join(names)})",
            "Name the column that holds the text with --text-key.",
        )
    if (count := names.count(text_key)) > 1:
        raise DataError(
            f"{source} has {count} columns called {text_key!r}, and nothing tells which is meant",
            "Write the file again with a name of its own for each column.",
        )
    if not _is_text(kind := schema.field(text_key).type):
        texts = [field.name for field in schema if _is_text(field.type)]
        raise DataError(f"{source}: column {text_key!r} holds {kind}, not strings", _other_key(texts))


def _is_text(kind: Any) -> bool:
    """Tell whether a column's values are strings, stored plainly, by dictionary, or as their bytes."""
    import pyarrow as pa

    kind = getattr(kind, "storage_type", kind)
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    # Older versions of pyarrow know no views.
    tests = [getattr(pa.types, f"is_{name}", None) for name in _TEXT_KINDS]
    return any(is_kind(kind) for is_kind in tests if is_kind is not None)


def _text_of_cell(value: Any, source: str, row: int) -> str:
    """Return the text of one cell; null is an empty document, and bytes are UTF-8, as most writers mean them."""
    try:
        content = value.as_py()
        text = content.decode() if isinstance(content, bytes) else content or ""
        text.encode()
    except UnicodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else "a surrogate"
        raise DataError(
            f"{source}:{row} is no UTF-8 text: {byte}",
            "Decode this column where the file is written, and write it as strings.",
        ) from error
    return text


def _cut(text: str, source: str, place: int) -> Iterator[Chunk]:
    chunker = Chunker()
    for chunk in chunker.feed(text):
        yield Chunk(chunk, source, place, False)
    yield Chunk(chunker.rest, source, place, True)
