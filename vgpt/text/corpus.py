"""Corpora: from what a person names (files, folders, globs, standard input, `demo`) to a stream of documents.

A document is streamed as *chunks* of bounded size, so that one file of many gigabytes costs no more memory than a short
one: see `vgpt.text.chunks`. The built-in corpus is sources of the running Python's own standard library, so that a
first run downloads nothing.
"""

import glob
import hashlib
import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vgpt.errors import DataError
from vgpt.files.paths import access_hint, format_name, typed_name, user_path
from vgpt.files.text import wide_encoding
from vgpt.formatting import counted
from vgpt.text.chunks import Chunk
from vgpt.text.corpus_readers import read_file

SUPPORTED = (".txt", ".md", ".py", ".jsonl", ".parquet", ".txt.gz", ".md.gz", ".py.gz", ".jsonl.gz")
STDIN = "-"
_PIPE_SUFFIX = ".txt"
_HEAD_BYTES = 4096
_FORMATS = "Formats read: .txt .md .py .jsonl .parquet, and .txt.gz .md.gz .py.gz .jsonl.gz."


@dataclass(frozen=True)
class Corpus:
    """The files to read, in order, and how many others folders held: of other kinds, hidden, or links to nowhere."""

    files: tuple[str, ...]
    skipped: int = 0

    @property
    def total_bytes(self) -> int | None:
        """Bytes on disk; None when standard input is part of the corpus."""
        return None if STDIN in self.files else sum(map(_size, self.files))


def text_suffix(path: str | Path) -> str | None:
    """Return the supported suffix of `path` (`.txt.gz` before `.gz`), or None."""
    name = Path(path).name.lower()
    return next((suffix for suffix in sorted(SUPPORTED, key=len, reverse=True) if name.endswith(suffix)), None)


def find_corpus(inputs: Sequence[str]) -> Corpus:
    """Resolve inputs to files: the order of the arguments is kept, folders and globs are sorted, no file comes twice.

    Folders are walked to the bottom, through links too, each real folder once. Hidden entries, files without a
    supported suffix and links to nowhere are left out and counted.

    Raises:
        DataError: for a path that is missing, a file whose format is unknown, a folder that cannot be read, or inputs
            without any text.
    """
    if not inputs:
        raise DataError("no input was named", "Name a text file, a folder, or - for standard input.")
    files: dict[str, str] = {}
    skipped = 0
    for item in inputs:
        found, left_out = _resolve(item)
        skipped += left_out
        for name in found:
            files.setdefault(name if name == STDIN else os.path.realpath(name), name)
    return Corpus(tuple(files.values()), skipped)


def _resolve(item: str) -> tuple[list[str], int]:
    if item == STDIN:
        return [STDIN], 0
    try:
        path = Path(item) if os.path.lexists(item) else user_path(item)
    except ValueError as error:
        raise DataError(f"no such file or folder: {item}: {error}", "Check the spelling.") from error
    if path.is_dir():
        found, skipped = _walk(path)
        if not found:
            raise DataError(f"no text in folder {item} ({counted(skipped, 'file')} of another kind)", _FORMATS)
        return found, skipped
    if path.exists():
        if text_suffix(path) is None and not _is_pipe(path):
            raise _unknown_format(item, path)
        return [str(path)], 0
    if path.is_symlink():
        raise DataError(
            f"{item} is a link to nowhere: {os.readlink(path)}", "Mend the link, or name what it stood for."
        )
    if glob.has_magic(item):
        return _expand(str(path))
    raise DataError(f"no such file or folder: {item}", "Check the spelling and the current folder.")


def _unknown_format(item: str, path: Path) -> DataError:
    """Say what to do with a file of another ending: read it as text only where it is text."""
    message = f"cannot tell the format of {format_name(item)} from its name"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return DataError(message, _FORMATS)
    if b"\0" in head and wide_encoding(head) is None:
        return DataError(f"{message}, and it is not text", f"Name the text that it was made from. {_FORMATS}")
    return DataError(message, f"{_FORMATS} Or: vgpt prepare - < {typed_name(item)}")


def _expand(pattern: str) -> tuple[list[str], int]:
    found: list[str] = []
    skipped = 0
    for name in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(name):
            if "**" not in pattern:  # which descends into folders by itself
                below, left_out = _walk(Path(name))
                found, skipped = found + below, skipped + left_out
        elif text_suffix(name) is None or not os.path.exists(name):
            skipped += 1
        else:
            found.append(name)
    if not found:
        raise DataError(f"no text matches {pattern} ({counted(skipped, 'file')} of another kind)", _FORMATS)
    return found, skipped


def _walk(folder: Path) -> tuple[list[str], int]:
    """Return the text files below a folder and the number of others; folders behind links come after the real ones."""
    found: list[str] = []
    skipped = 0
    visited: set[str] = set()
    waiting = [str(folder)]
    while waiting:
        links: list[str] = []
        for start in waiting:
            for root, folders, names in os.walk(start, onerror=_unreadable):
                real = os.path.realpath(root)
                if real in visited:
                    folders.clear()
                    continue
                visited.add(real)
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                links += [path for name in folders if os.path.islink(path := os.path.join(root, name))]
                for name in names:
                    path = os.path.join(root, name)
                    if name.startswith(".") or text_suffix(name) is None or not os.path.exists(path):
                        skipped += 1
                    else:
                        found.append(path)
        waiting = sorted(links)
    return sorted(found), skipped


def _unreadable(error: OSError) -> None:
    hint = access_hint(error, "Check the folder and its disk.").replace("chmod u+r FILE", "chmod u+rx FOLDER")
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror}", hint) from error


def read_corpus(
    corpus: Corpus, *, text_key: str = "text", advance: Callable[[int], None] | None = None
) -> Iterator[Chunk]:
    """Stream every document of the corpus as chunks of at most `CHUNK_CHARACTERS` characters.

    Args:
        corpus: the files, from `find_corpus`.
        text_key: the key (.jsonl) or column (.parquet) that holds the text.
        advance: is told how many bytes on disk were consumed since the last call.

    Raises:
        DataError: names file and line of what cannot be read as text.
    """
    for name in corpus.files:
        source = "standard input" if name == STDIN else name
        chunks = (
            read_file(sys.stdin.buffer, source, ".txt", text_key) if name == STDIN else _read(name, text_key, advance)
        )
        try:
            yield from chunks
        except OSError as error:
            hint = access_hint(error, "Check that it is a file you may read, and its disk.")
            raise DataError(f"cannot read {source}: {error.strerror or error}", hint) from error


def _read(name: str, text_key: str, advance: Callable[[int], None] | None) -> Iterator[Chunk]:
    with open(name, "rb") as raw:
        suffix = text_suffix(name) or (_PIPE_SUFFIX if _is_pipe(name) else None)
        if suffix is None:
            raise DataError(f"cannot tell the format of {name} from its name", _FORMATS)
        seen, forward_only = 0, not raw.seekable()  # a named pipe, or what <(...) makes: its size is not known
        for chunk in read_file(raw, name, suffix, text_key):
            yield chunk
            if advance and not forward_only and not raw.closed and (position := raw.tell()) > seen:
                advance(position - seen)
                seen = position
        if advance and not forward_only:
            advance(max(0, _size(name) - seen))


def _is_pipe(path: str | Path) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _size(name: str) -> int:
    try:
        return os.path.getsize(name)
    except OSError:
        return 0


DEMO_VOCAB_SIZE = 1024
_BUDGET_BYTES = 3_000_000
_LARGEST_FILE = 100_000
# Left out: other people's packages, tests, generated tables, and what some installations lack.
_NOT_READ = {
    "__pycache__", "dist-packages", "encodings", "ensurepip", "idlelib", "lib-dynload", "lib2to3", "pydoc_data",
    "site-packages", "test", "tests", "tkinter", "turtledemo",
}  # fmt: skip


def demo_corpus() -> Corpus:
    """Return about 3 MB of Python sources: chosen by the hash of their path, so from all over the library, and sorted.

    Raises:
        DataError: this Python has no readable standard library sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    names: list[str] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_READ and not name.startswith(("config-", "."))]
        names += [os.path.relpath(os.path.join(root, name), folder) for name in files if name.endswith(".py")]
    names.sort(key=lambda name: hashlib.sha256(name.replace(os.sep, "/").encode()).digest())
    chosen: list[str] = []
    total = 0
    for name in names:
        size = (folder / name).stat().st_size
        if 0 < size <= _LARGEST_FILE and total + size <= _BUDGET_BYTES and not name.startswith("_sysconfigdata"):
            chosen.append(str(folder / name))
            total += size
    if total < _BUDGET_BYTES // 10:
        raise DataError(f"no standard library sources in {folder}", "Prepare a text of your own: vgpt prepare TEXT.")
    return Corpus(tuple(sorted(chosen)))
