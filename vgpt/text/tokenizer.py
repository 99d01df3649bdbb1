"""The tokenizer: text to ids and back, saved and loaded. Byte-level BPE, so every text has ids and every id bytes."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vgpt.errors import TokenizerError
from vgpt.text.engine import Engine
from vgpt.text.formats import MODEL_VERSION, model_obstacle, read_model, write_listing, write_model
from vgpt.text.patterns import resolve_pattern
from vgpt.text.tokenizer_json import read_json, write_json
from vgpt.text.vocabulary import END_OF_TEXT, Vocabulary, check_special_tokens, read_text_file, token_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["END_OF_TEXT", "Tokenizer"]

_HEAD_BYTES = 1 << 16
JSON_FILE, MODEL_FILE, LISTING_FILE = "tokenizer.json", "tokenizer.model", "tokenizer.vocab"


class Tokenizer:
    """Byte-level BPE with a regex split and special tokens; immutable, equal where the fingerprint is equal.

    Ids 0..255 are bytes, then come the merges, then the special tokens. Ids equal those of minbpe's RegexTokenizer for
    the same pattern and merges. Processes may share one by pickling it or by its saved folder.

    Args:
        vocabulary: pattern, merges, special tokens and byte order. It is checked here, whatever it comes from.

    Raises:
        TokenizerError: the pattern, merge graph or special tokens are not valid, or `<|endoftext|>` is missing.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        resolve_pattern(vocabulary.pattern)
        self._vocabulary = vocabulary
        self._table = token_table(vocabulary.byte_order, vocabulary.merges)
        check_special_tokens(vocabulary.special_tokens, len(self._table))
        if END_OF_TEXT not in vocabulary.special_tokens:
            raise TokenizerError(f"a tokenizer needs the special token {END_OF_TEXT}", "Add it to the special tokens.")

    @property
    def vocabulary(self) -> Vocabulary:
        """What it is made of."""
        return self._vocabulary

    @property
    def name(self) -> str:
        """A short name, such as `bpe-512` or `gpt2`; not part of the fingerprint."""
        return self._vocabulary.name

    @property
    def pattern(self) -> str:
        """The split pattern, as a regular expression of the `regex` package."""
        return self._vocabulary.pattern

    @property
    def merges(self) -> list[tuple[int, int]]:
        """The pairs of ids that were merged, in order; pair i makes id 256 + i."""
        return list(self._vocabulary.merges)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of the special tokens by their spelling."""
        return dict(self._vocabulary.special_tokens)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: one more than the highest."""
        return self._vocabulary.size

    @property
    def end_of_text(self) -> int:
        """The id of `<|endoftext|>`."""
        return self._vocabulary.special_tokens[END_OF_TEXT]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over everything that changes ids."""
        return self._vocabulary.fingerprint()

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`.

        Args:
            text: any text; spellings of special tokens in it are ordinary text unless allowed.
            allow_special: spellings of special tokens become their ids; of two that fit, the longer one.

        Raises:
            TokenizerError: a lone surrogate in the text, or an own pattern that does not match all of it.
        """
        if not allow_special:
            return self._engine.encode(text).tolist()
        ids: list[int] = []
        for part in self._special_pattern.split(text):
            special = self._vocabulary.special_tokens.get(part)
            ids.extend(self._engine.encode(part).tolist() if special is None else [special])
        return ids

    def encode_batch(self, texts: Sequence[str]) -> "list[NDArray[np.uint32]]":
        """Return the ids of each text as a uint32 array, without special tokens, in one thread. Read-only."""
        return [self._engine.encode(text) for text in texts]

    def decode(self, ids: "Iterable[int] | NDArray[Any]") -> str:
        """Return the text of ids; bytes that are no UTF-8 (a cut character) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: "Iterable[int] | NDArray[Any]") -> bytes:
        """Return the bytes of ids, special tokens as their spelling.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        table = self._all_bytes
        numbers: list[int] = ids.tolist() if isinstance(ids, np.ndarray) else [int(i) for i in ids]
        try:
            return b"".join(map(table.__getitem__, numbers))
        except KeyError as fault:
            raise TokenizerError(
                f"id {fault.args[0]} is not in the vocabulary of {self.name}, which has {self.vocab_size:,} ids",
                "Decode with the tokenizer that the ids were made with.",
            ) from fault

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id; for a special token, its spelling."""
        return self.decode_bytes([token])

    def byte_lengths(self) -> "NDArray[np.int64]":
        """Return the number of text bytes per id, (vocab_size,) int64; 0 for special tokens, which are not text."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        lengths[: len(self._table)] = [len(token) for token in self._table]
        return lengths

    def check_lossless(self, text: str, ids: "NDArray[np.uint32] | None" = None) -> None:
        """Decode what `text` encodes to and compare; cheap beside encoding where the ids are given.

        Args:
            text: what was encoded.
            ids: its ids from `encode_batch`, where they are already known.

        Raises:
            TokenizerError: the round trip changes the text.
        """
        ids = self._engine.encode(text) if ids is None else ids
        if self._engine.decode_bytes(ids) != text.encode():
            raise TokenizerError(
                f"{self.name} does not give back the text it was given",
                "Use one of the named split patterns, which match every character.",
            )

    def save(self, directory: Path) -> list[Path]:
        """Write `tokenizer.json`, a listing for people, and minbpe's `.model` where that format can carry it.

        Returns:
            The files written.

        Raises:
            TokenizerError: the folder cannot be written, or holds files of those names that vgpt did not write.
        """
        texts = {JSON_FILE: write_json(self._vocabulary), LISTING_FILE: write_listing(self._table, self._vocabulary)}
        if model_obstacle(self._vocabulary) is None:
            texts[MODEL_FILE] = write_model(self._vocabulary)
        directory = Path(directory)
        _refuse_foreign(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # A file that an earlier tokenizer left here would contradict the new one.
            (directory / MODEL_FILE).unlink(missing_ok=True)
            for file, text in texts.items():
                (directory / file).write_bytes(text.encode())
        except OSError as fault:
            raise TokenizerError(f"cannot write a tokenizer to {directory}: {fault.strerror}") from fault
        return [directory / file for file in texts]

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer from a folder, a `tokenizer.json` or a `.model` file; nothing in it is executed.

        Raises:
            TokenizerError: missing, damaged, too large, or of another kind.
        """
        path = Path(path)
        if path.is_dir():
            path = path / (JSON_FILE if (path / JSON_FILE).exists() else MODEL_FILE)
        if path.suffix not in {".json", ".model"}:
            raise TokenizerError(
                f"{path} is no tokenizer: expected a folder, a tokenizer.json or a .model file",
                "Train one with `vgpt tokenize train`.",
            )
        text = read_text_file(path)
        try:
            return cls(read_json(text, path) if path.suffix == ".json" else read_model(text, path))
        except TokenizerError as fault:
            if str(path) in fault.message:
                raise
            raise TokenizerError(f"{path}: {fault.message}", fault.hint) from fault

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, {self.vocab_size} ids, {self.fingerprint[:12]})"

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[Vocabulary]]:
        return Tokenizer, (self._vocabulary,)

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.pattern, self._table)

    @cached_property
    def _all_bytes(self) -> dict[int, bytes]:
        specials = {i: token.encode() for token, i in self._vocabulary.special_tokens.items()}
        return {**dict(enumerate(self._table)), **specials}

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._vocabulary.special_tokens, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def _refuse_foreign(directory: Path) -> None:
    """Refuse to replace a tokenizer of another program, or the one that token files beside it were made with."""
    marks = {JSON_FILE: b'"vgpt"', MODEL_FILE: MODEL_VERSION.encode(), LISTING_FILE: b"[\\u0000] "}
    foreign = [name for name, mark in marks.items() if not _begins_with(directory / name, mark)]
    if (directory / "manifest.json").exists() and any((directory / name).exists() for name in marks):
        foreign = [name for name in marks if (directory / name).exists()]
    if foreign:
        raise TokenizerError(
            f"{directory} holds a tokenizer that is not to be replaced: {', '.join(foreign)}",
            "Name another folder with --out.",
        )


def _begins_with(path: Path, mark: bytes) -> bool:
    """Tell whether a file is not there, is empty, or has the mark of vgpt's own in its beginning."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return not head or mark in head
