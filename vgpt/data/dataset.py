"""Opening a prepared data set: read-only maps of the token files, checked before anything touches them.

Reading past the end of a mapped file kills the process with SIGBUS, where no message can be shown; so sizes are
compared with the manifest first, and ids with the vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgpt.data.manifest import PREPARE_HINT, Manifest, record_file
from vgpt.errors import DataError
from vgpt.files.paths import access_hint
from vgpt.text.tokenizer import Tokenizer

_FULL_CHECK_IDS = 1 << 24
_SAMPLE_BLOCKS = 256
_SAMPLE_IDS = 1 << 14


class TokenFile:
    """A read-only map of one `.bin` file.

    Args:
        path: the file: flat little-endian ids without a header.
        dtype: `uint16` or `uint32`.
        vocab_size: every id must lie below.
        size: the bytes the manifest promises; None for a file without a manifest.
        full: check every id; otherwise files above 16 million ids are checked in evenly spaced blocks.

    Raises:
        DataError: the file is missing, empty, truncated, no whole number of ids, or holds an id outside the vocabulary.
    """

    def __init__(self, path: Path, dtype: str, vocab_size: int, *, size: int | None = None, full: bool = False) -> None:
        self.path = path
        try:
            found = path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", access_hint(error, PREPARE_HINT)) from error
        if size is not None and found != size:
            raise DataError(f"{path} has {found:,} bytes where its manifest says {size:,}", PREPARE_HINT)
        kind = np.dtype(dtype).newbyteorder("<")
        if found % kind.itemsize:
            raise DataError(f"{path} has {found:,} bytes, no whole number of {dtype} ids", PREPARE_HINT)
        if not found:
            raise DataError(f"{path} is empty", PREPARE_HINT)
        try:
            self.tokens = np.memmap(path, dtype=kind, mode="r")
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", access_hint(error, PREPARE_HINT)) from error
        self.check_range(vocab_size, full=full)

    def __len__(self) -> int:
        return len(self.tokens)

    def check_range(self, vocab_size: int, *, full: bool) -> None:
        """Refuse ids outside the vocabulary; see `full` above."""
        count = len(self)
        if full or count <= _FULL_CHECK_IDS:
            starts, width = range(0, count, _FULL_CHECK_IDS), _FULL_CHECK_IDS
        else:
            starts = np.linspace(0, count - _SAMPLE_IDS, _SAMPLE_BLOCKS).astype(np.int64).tolist()
            width = _SAMPLE_IDS
        for start in starts:
            block = self.tokens[start : start + width]
            highest = int(block.max())
            if highest >= vocab_size:
                place = start + int(block.argmax())
                raise DataError(
                    f"{self.path} holds id {highest} at position {place:,}, outside its vocabulary of {vocab_size:,}",
                    PREPARE_HINT,
                )


@dataclass(frozen=True)
class Dataset:
    """A prepared folder, opened: two token files, the tokenizer that made them, and the manifest."""

    directory: Path
    manifest: Manifest
    tokenizer: Tokenizer
    train: TokenFile
    val: TokenFile

    def verify(self) -> None:
        """Compare the SHA-256 of every file and look at every id; reads all of the data.

        Raises:
            DataError: names the file that was changed since it was prepared.
        """
        for name, expected in self.manifest.files.items():
            _verify_file(self.directory / name, expected.size, expected.sha256)
        for file in (self.train, self.val):
            file.check_range(self.manifest.vocab_size, full=True)


def open_dataset(path: Path, *, verify: bool = False) -> Dataset:
    """Open the data folder at `path` and check that its parts belong together.

    Args:
        path: a folder written by `prepare`.
        verify: also compare the SHA-256 of every file and look at every id; reads all of the data.

    Raises:
        DataError: names the file that is missing, damaged or of another tokenizer, and what to do.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"no data set at {path}", f"Prepare one with: vgpt prepare TEXT --out {path}")
    manifest = Manifest.load(path)
    if verify:
        for name, expected in manifest.files.items():
            _verify_file(path / name, expected.size, expected.sha256)
    tokenizer = _open_tokenizer(path, manifest)
    opened: dict[str, TokenFile] = {}
    for name, counts in manifest.splits.items():
        record = manifest.files[f"{name}.bin"]
        file = TokenFile(path / f"{name}.bin", manifest.dtype, manifest.vocab_size, size=record.size, full=verify)
        if len(file) != counts.tokens:
            raise DataError(f"{file.path} holds {len(file):,} ids, not {counts.tokens:,} as listed", PREPARE_HINT)
        opened[name] = file
    return Dataset(path, manifest, tokenizer, opened["train"], opened["val"])


def _verify_file(path: Path, size: int, sha256: str) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing", PREPARE_HINT)
    found = record_file(path)
    if found.size != size:
        raise DataError(f"{path} has {found.size:,} bytes where its manifest says {size:,}", PREPARE_HINT)
    if found.sha256 != sha256:
        raise DataError(f"{path} was changed: SHA-256 {found.sha256[:12]}, manifest {sha256[:12]}", PREPARE_HINT)


def _open_tokenizer(path: Path, manifest: Manifest) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    if tokenizer.fingerprint != manifest.tokenizer_fingerprint:
        raise DataError(
            f"the tokenizer in {path} has fingerprint {tokenizer.fingerprint[:12]}, "
            f"but the tokens were made with {manifest.tokenizer_fingerprint[:12]}",
            "Put back the tokenizer that `vgpt prepare` wrote, or prepare the text again.",
        )
    if tokenizer.vocab_size != manifest.vocab_size:
        raise DataError(
            f"the tokenizer in {path} has {tokenizer.vocab_size:,} ids, its manifest says {manifest.vocab_size:,}",
            PREPARE_HINT,
        )
    return tokenizer
