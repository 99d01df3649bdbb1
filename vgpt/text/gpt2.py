"""Vocabularies in the two files that GPT-2's was published as, and that one itself; nothing is downloaded."""

import hashlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from vgpt.errors import TokenizerError
from vgpt.files.text import parse_json
from vgpt.text.patterns import PATTERNS
from vgpt.text.tokenizer import Tokenizer
from vgpt.text.tokenizer_json import BYTE_ALPHABET
from vgpt.text.vocabulary import END_OF_TEXT, Vocabulary, read_text_file

PUBLISHED_FINGERPRINT = "f48fb70b10a6948abcdb194453d35aff6d848fa93673fad75c91827c00dae6ef"
"""The fingerprint of the vocabulary that GPT-2's released weights were trained with."""

_SOURCE = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
# Merges and ids; the second name of each is what Hugging Face calls the same file.
_WANTED = (("vocab.bpe", "merges.txt"), ("encoder.json", "vocab.json"))


def load_gpt2(vocab_dir: Path | None = None) -> Tokenizer:
    """Load GPT-2's tokenizer: 50,257 ids, `<|endoftext|>` is 50,256.

    Args:
        vocab_dir: a folder with `vocab.bpe` and `encoder.json`; without it, tiktoken's cache is looked into
            (`TIKTOKEN_CACHE_DIR`, `DATA_GYM_CACHE_DIR`, or its folder among the temporary files).

    Raises:
        TokenizerError: the files are not there, damaged, or hold another vocabulary.
    """
    merges_path, ids_path = _in_folder(Path(vocab_dir)) if vocab_dir is not None else _in_cache()
    try:
        vocabulary = _parse(read_text_file(merges_path), read_text_file(ids_path))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
        raise _wrong_files(merges_path, ids_path) from fault
    if vocabulary.fingerprint() != PUBLISHED_FINGERPRINT:
        raise _wrong_files(merges_path, ids_path)
    return Tokenizer(vocabulary)


def load_vocab_files(folder: Path) -> Tokenizer:
    """Load any vocabulary from GPT-2's two files, under either of their names, with GPT-2's split pattern.

    Raises:
        TokenizerError: the files are not there, damaged, or do not number bytes, then merges, then special tokens.
    """
    merges_path, ids_path = _in_folder(folder)
    try:
        tokenizer = Tokenizer(_parse(read_text_file(merges_path), read_text_file(ids_path)))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
        raise TokenizerError(
            f"{merges_path} and {ids_path.name} are no vocabulary that vgpt can use: {type(fault).__name__}: {fault}",
            "Their ids must number bytes, then merges, then <|endoftext|>, as GPT-2's do.",
        ) from fault
    if tokenizer.fingerprint == PUBLISHED_FINGERPRINT:
        return tokenizer
    return Tokenizer(replace(tokenizer.vocabulary, name=f"bpe-{tokenizer.vocab_size}"))


def _parse(merges_text: str, ids_text: str) -> Vocabulary:
    ids: dict[str, int] = parse_json(ids_text)
    byte_order = bytearray(256)
    for byte, character in enumerate(BYTE_ALPHABET):
        byte_order[ids[character]] = byte
    merges: list[tuple[int, int]] = []
    for line in merges_text.splitlines():
        if line and not line.startswith("#version"):
            left, right = line.split(" ")
            if ids[left + right] != 256 + len(merges):
                raise ValueError(f"the merge {line!r} makes another id")
            merges.append((ids[left], ids[right]))
    special = {END_OF_TEXT: ids[END_OF_TEXT]}
    return Vocabulary("gpt2", PATTERNS["gpt2"], tuple(merges), special, bytes(byte_order))


def _in_folder(folder: Path) -> tuple[Path, Path]:
    found = [next((folder / name for name in names if (folder / name).is_file()), None) for names in _WANTED]
    merges_path, ids_path = found
    if merges_path is None or ids_path is None:
        missing = " and ".join(names[0] for names, path in zip(_WANTED, found, strict=True) if path is None)
        raise TokenizerError(f"{folder} does not hold GPT-2's vocabulary: {missing} is missing", _how_to_get())
    return merges_path, ids_path


def _in_cache() -> tuple[Path, Path]:
    """Return the files as tiktoken stores them: named by the SHA-1 of the address they came from."""
    given = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    folder = Path(given) if given else Path(tempfile.gettempdir()) / "data-gym-cache"
    names = [hashlib.sha1(f"{_SOURCE}{names[0]}".encode(), usedforsecurity=False).hexdigest() for names in _WANTED]
    merges_path, ids_path = (folder / name for name in names)
    if not (merges_path.is_file() and ids_path.is_file()):
        raise TokenizerError(f"GPT-2's vocabulary is not in tiktoken's cache ({folder})", _how_to_get())
    return merges_path, ids_path


def _wrong_files(merges_path: Path, ids_path: Path) -> TokenizerError:
    message = f"{merges_path} and {ids_path.name} do not hold GPT-2's published vocabulary"
    return TokenizerError(message, _how_to_get())


def _how_to_get() -> str:
    return (
        f"Download {_SOURCE}vocab.bpe and encoder.json from the same place into a folder and pass --vocab-dir FOLDER; "
        "or, once while online, run: python -c \"import tiktoken; tiktoken.get_encoding('gpt2')\""
    )
