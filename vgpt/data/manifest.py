"""The manifest of a prepared data set: what lies in the folder, where it came from, and how to tell it is intact."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from vgpt.errors import DataError
from vgpt.files.digests import size_and_digest
from vgpt.files.paths import access_hint
from vgpt.files.text import read_text
from vgpt.schema import Section

MANIFEST_NAME = "manifest.json"
PREPARE_HINT = "Run `vgpt prepare` again with --overwrite."
_SIGNATURE = b'"vgpt-data"'
_HEAD = 1024


class FileRecord(Section):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


class SplitCounts(Section):
    """How much one split holds; `bytes` counts the UTF-8 text behind the tokens, `tokens` the ends of text too."""

    documents: int
    tokens: int
    bytes: int


class SourceRecord(Section):
    """What was read: `digest` is the SHA-256 over all documents in order, as cleaned."""

    inputs: tuple[str, ...]
    files: int
    skipped_files: int
    documents: int
    empty_documents: int
    digest: str


class SplitRecord(Section):
    """How validation text was chosen: whole documents by their hash, or the tail of every document."""

    rule: Literal["documents", "tail"]
    val_fraction: float


class StepRecord(Section):
    """What a cleaning step did: documents changed (`dedup`: removed), characters they lost."""

    step: str
    documents: int
    characters: int


class Manifest(Section):
    """Everything about a data folder that its bare `.bin` files cannot say."""

    format: Literal["vgpt-data"] = "vgpt-data"
    version: Literal[1] = 1
    vgpt_version: str
    dtype: Literal["uint16", "uint32"]
    vocab_size: int
    tokenizer_name: str
    tokenizer_fingerprint: str
    splits: dict[Literal["train", "val"], SplitCounts]
    files: dict[str, FileRecord]
    source: SourceRecord
    split: SplitRecord
    cleaning: tuple[StepRecord, ...]
    settings: dict[str, str | int | float]
    """the settings that decide the content; preparing again with the same ones and the same text changes nothing"""

    @property
    def digest(self) -> str:
        """The identity of the data set, 16 hexadecimal digits: token files and tokenizer, but no names or paths."""
        parts = [self.files["train.bin"].sha256, self.files["val.bin"].sha256, self.tokenizer_fingerprint]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the text of `manifest.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, directory: Path) -> "Manifest":
        """Read `manifest.json` of a data folder.

        Raises:
            DataError: it is missing, no JSON, or not of the form this version writes.
        """
        path = directory / MANIFEST_NAME
        try:
            text = read_text(path)
        except FileNotFoundError as error:
            raise _no_data_set(directory) from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", access_hint(error, PREPARE_HINT)) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is damaged: {error}", PREPARE_HINT) from error
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"]))
            raise DataError(
                f"{path} is damaged: {where + ': ' if where else ''}{fault['msg']}", PREPARE_HINT
            ) from error
        for split in ("train", "val"):
            if split not in manifest.splits or f"{split}.bin" not in manifest.files:
                raise DataError(f"{path} is damaged: it does not list {split}.bin", PREPARE_HINT)
        return manifest


def is_manifest(path: Path) -> bool:
    """Tell whether a file is a manifest of vgpt's, whole or damaged: it begins by saying so."""
    try:
        with path.open("rb") as stream:
            return _SIGNATURE in stream.read(_HEAD)
    except OSError:
        return False


def _no_data_set(directory: Path) -> DataError:
    """Say what a folder without a manifest is, and where a data set may be prepared: never over other files."""
    names = {path.name for path in directory.iterdir()}
    if not names:
        return DataError(f"{directory} is empty", f"Prepare a data set with: vgpt prepare TEXT --out {directory}")
    why = f"it has no {MANIFEST_NAME}"
    if names >= {"train.bin", "val.bin"}:
        why = f"its token files are of another program, without the {MANIFEST_NAME} that tells tokenizer and type"
    return DataError(
        f"{directory} is no prepared data set: {why}",
        "Prepare the text itself, in a folder of its own: vgpt prepare TEXT --out data/corpus",
    )


def record_file(path: Path) -> FileRecord:
    """Return size and SHA-256 of a file, read in blocks."""
    size, digest = size_and_digest(path)
    return FileRecord(size=size, sha256=digest)
