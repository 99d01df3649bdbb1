"""minbpe's text files: `.model`, read and written, and `.vocab`, a listing for people.

A `.model` holds a version line, the pattern, the number of special tokens, one line for each, and one line per merge.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from vgpt.errors import TokenizerError
from vgpt.text.patterns import WHOLE_TEXT, resolve_pattern
from vgpt.text.vocabulary import MAX_MERGES, Vocabulary, with_end_of_text

MODEL_VERSION = "minbpe v1"


def model_obstacle(vocabulary: Vocabulary) -> str | None:
    """Return why the `.model` format cannot carry a vocabulary, or None where it can."""
    if vocabulary.byte_order != bytes(range(256)):
        return "its first ids are not the bytes in order"
    pattern = vocabulary.pattern
    if pattern != pattern.strip() or len(pattern.splitlines()) != 1:
        return f"its pattern {pattern!r} holds a line break, or starts or ends with white space"
    for token in vocabulary.special_tokens:
        if token.split() != [token]:
            return f"its special token {token!r} holds white space"
    return None


def write_model(vocabulary: Vocabulary) -> str:
    """Return the text of a `.model` file.

    Raises:
        TokenizerError: the format cannot carry this vocabulary (`model_obstacle`).
    """
    if obstacle := model_obstacle(vocabulary):
        raise TokenizerError(
            f"{vocabulary.name} cannot be written as {MODEL_VERSION}: {obstacle}", "Use tokenizer.json."
        )
    lines = [MODEL_VERSION, vocabulary.pattern, str(len(vocabulary.special_tokens))]
    lines += [f"{token} {i}" for token, i in vocabulary.special_tokens.items()]
    lines += [f"{left} {right}" for left, right in vocabulary.merges]
    return "\n".join(lines) + "\n"


def read_model(text: str, path: Path) -> Vocabulary:
    """Read the text of a `.model` file; `path` is for messages.

    An empty pattern (minbpe's tokenizer without a split) becomes the whole text as one chunk. A file without
    `<|endoftext|>` gets it as one more id.

    Raises:
        TokenizerError: not this format, or cut short.
    """
    lines = (line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))
    if (version := next(lines)) != MODEL_VERSION:
        raise TokenizerError(
            f"{path} is not a {MODEL_VERSION!r} file: its first line is {version[:40]!r}",
            "Train a tokenizer with `vgpt tokenize train`, or name a tokenizer.json.",
        )
    pattern = _next(lines, path, "the split pattern") or WHOLE_TEXT
    special_tokens: dict[str, int] = {}
    for _ in range(_number(_next(lines, path, "the number of special tokens"), path)):
        words = _next(lines, path, "a special token").split()
        if len(words) != 2 or words[0] in special_tokens:
            raise TokenizerError(f"{path}: {' '.join(words)[:60]!r} is no new special token with its id")
        special_tokens[words[0]] = _number(words[1], path)
    merges: list[tuple[int, int]] = []
    for line in lines:
        pair = line.split()
        if len(pair) != 2 or len(merges) == MAX_MERGES:
            raise TokenizerError(f"{path}: {line[:60]!r} is no merge of two ids, or one too many")
        merges.append((_number(pair[0], path), _number(pair[1], path)))
    special_tokens = with_end_of_text(special_tokens, 256 + len(merges))
    name = f"bpe-{256 + len(merges) + len(special_tokens)}"
    return Vocabulary(name, resolve_pattern(pattern), tuple(merges), special_tokens)


def _next(lines: Iterator[str], path: Path, what: str) -> str:
    line = next(lines, None)
    if line is None:
        raise TokenizerError(f"{path} is cut short: {what} is missing", "Copy the file again, or train it anew.")
    return line


def _number(word: str, path: Path) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) <= 9):
        raise TokenizerError(
            f"{path}: {word[:60]!r} should be a whole number", "Copy the file again, or train it anew."
        )
    return int(word)


def write_listing(table: Sequence[bytes], vocabulary: Vocabulary) -> str:
    """Return the `.vocab` listing: per id its text, for a merge also the two parts. For people; it loses bytes."""
    lines = [f"[{format_token(token)}] {i}" for i, token in enumerate(table[:256])]
    for i, (left, right) in enumerate(vocabulary.merges):
        lines.append(
            f"[{format_token(table[left])}][{format_token(table[right])}] -> [{format_token(table[256 + i])}] {256 + i}"
        )
    lines += [f"[{token}] {i}" for token, i in sorted(vocabulary.special_tokens.items(), key=lambda item: item[1])]
    return "\n".join(lines) + "\n"


def format_token(token: bytes) -> str:
    """Return a token as printable text: control characters escaped, broken UTF-8 as the replacement character."""
    text = token.decode("utf-8", errors="replace")
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c).startswith("C") else c for c in text)
