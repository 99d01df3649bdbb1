"""`tokenizer.json`: the canonical file, in the layout that Hugging Face's `tokenizers` loads with the same ids.

That layout spells tokens in GPT-2's byte alphabet, one printable character per byte. One more key of its model, `vgpt`,
holds the name and the fingerprint; `tokenizers` ignores unknown keys there, though not at the top. It may split beside
characters newer than its own Unicode tables in another place.
"""

import json
from pathlib import Path
from typing import Any

from vgpt.errors import TokenizerError
from vgpt.files.text import parse_json
from vgpt.text.patterns import PATTERNS, resolve_pattern
from vgpt.text.vocabulary import MAX_MERGES, Pair, Vocabulary, with_end_of_text

_OF_OTHER_MODELS = ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix")


def _byte_alphabet() -> list[str]:
    """Return GPT-2's character for each byte: itself where printable, the next unused one from U+0100 on otherwise."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_ALPHABET: list[str] = _byte_alphabet()
"""GPT-2's printable character for each byte."""


def write_json(vocabulary: Vocabulary) -> str:
    """Return the text of `tokenizer.json`.

    Raises:
        TokenizerError: a special token is spelled like an ordinary one, which the layout cannot tell apart.
    """
    spelled = [BYTE_ALPHABET[byte] for byte in vocabulary.byte_order]
    for left, right in vocabulary.merges:
        spelled.append(spelled[left] + spelled[right])
    vocab = {token: i for i, token in enumerate(spelled)}
    specials = sorted(vocabulary.special_tokens.items(), key=lambda item: item[1])
    for token, i in specials:
        # Listed here as well, so that ids after a gap stay what they are.
        if vocab.setdefault(token, i) != i:
            raise TokenizerError(f"special token {token!r} is also an ordinary token", "Choose another special token.")
    split = {"type": "Split", "pattern": {"Regex": vocabulary.pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for token, i in specials],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vgpt": {"name": vocabulary.name, "fingerprint": vocabulary.fingerprint()},
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [[spelled[left], spelled[right]] for left, right in vocabulary.merges],
        },
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def read_json(text: str, path: Path) -> Vocabulary:
    """Read the text of a `tokenizer.json`, ours or another byte-level BPE that numbers bytes, then merges.

    Raises:
        TokenizerError: not JSON, another kind of tokenizer, inconsistent, or changed since it was written.
    """
    try:
        document = parse_json(text)
    except (ValueError, RecursionError) as fault:
        raise TokenizerError(
            f"{path} is not readable JSON: {fault}", "Copy the file again, or train the tokenizer anew."
        ) from fault
    try:
        vocabulary = _vocabulary(document)
    except (LookupError, TypeError, ValueError, AttributeError) as fault:
        raise TokenizerError(
            f"{path} is not a byte-level BPE tokenizer that vgpt can use: {type(fault).__name__}: {fault}",
            "It needs a BPE model over bytes, no normalizer, and ids that number bytes, then merges, then specials.",
        ) from fault
    ours = document["model"].get("vgpt")
    if isinstance(ours, dict) and ours.get("fingerprint") != vocabulary.fingerprint():
        raise TokenizerError(
            f"{path} was changed after it was written: its fingerprint does not fit its contents",
            "Restore the file, or remove its 'vgpt' entry to accept it as it is.",
        )
    return vocabulary


def _vocabulary(document: dict[str, Any]) -> Vocabulary:
    model = document["model"]
    if model["type"] != "BPE" or any(model.get(name) for name in _OF_OTHER_MODELS) or document.get("normalizer"):
        raise ValueError("it is no plain BPE model")
    if document.get("truncation"):
        raise ValueError("it cuts texts off at a length (its 'truncation')")
    vocab: dict[str, int] = model["vocab"]
    if any(type(i) is not int for i in vocab.values()):
        raise TypeError("an id in its vocabulary is no whole number")
    _check_added_tokens(document["added_tokens"])
    specials = {entry["content"]: entry["id"] for entry in document["added_tokens"]}
    for token, i in specials.items():
        if type(token) is not str or type(i) is not int or vocab.get(token, i) != i:
            raise ValueError(f"special token {token!r} has the id {i!r} here and another one there")
    _check_order(specials, vocab)
    merges = _merges(model["merges"], vocab)
    byte_order = bytearray(256)
    for byte, character in enumerate(BYTE_ALPHABET):
        byte_order[vocab[character]] = byte
    if unknown := len(vocab.keys() - specials.keys()) - 256 - len(merges):
        raise ValueError(f"{unknown} tokens are neither bytes, merges nor special tokens")
    size = 256 + len(merges)
    specials = with_end_of_text(specials, size)
    ours = model.get("vgpt")
    name = ours["name"] if isinstance(ours, dict) else f"bpe-{size + len(specials)}"
    if not isinstance(name, str):
        raise TypeError("its name is not text")
    return Vocabulary(name, _pattern(document["pre_tokenizer"]), merges, specials, bytes(byte_order))


def _check_added_tokens(entries: list[dict[str, Any]]) -> None:
    """Refuse tokens that their own library finds in any text, or with the blanks around them: ids would differ."""
    plain = [entry["content"] for entry in entries if not entry.get("special", True)]
    if plain:
        shown = ", ".join(map(repr, plain[:3])) + (", ..." if len(plain) > 3 else "")
        raise ValueError(f"{len(plain)} of its tokens are found in any text before pairs are merged: {shown}")
    for entry in entries:
        if flags := [name for name in ("single_word", "lstrip", "rstrip") if entry.get(name)]:
            raise ValueError(f"its token {entry['content']!r} is matched by a rule of its own ({', '.join(flags)})")


def _check_order(specials: dict[str, int], vocab: dict[str, int]) -> None:
    """Say plainly where special tokens come first, as trainers of `tokenizers` number them by themselves."""
    first = min(specials.values(), default=len(vocab))
    if any(vocab[character] > first for character in BYTE_ALPHABET):
        token = min(specials, key=lambda name: specials[name])
        raise ValueError(
            f"its special tokens come first ({token!r} has the id {first}); train it without special tokens, then add "
            "them with add_special_tokens, or train one with `vgpt tokenize train`"
        )


def _merges(entries: list[Any], vocab: dict[str, int]) -> tuple[Pair, ...]:
    """Turn spelled merges, as pairs or as older files' `"a b"`, into ids; merge i must have made id 256 + i."""
    if len(entries) > MAX_MERGES:
        raise ValueError(f"{len(entries):,} merges are more than {MAX_MERGES:,}")
    merges: list[Pair] = []
    for i, entry in enumerate(entries):
        left, right = entry.split(" ") if isinstance(entry, str) else entry
        if vocab[left + right] != 256 + i:
            raise ValueError(f"merge {i} makes id {vocab[left + right]}, not {256 + i}")
        merges.append((vocab[left], vocab[right]))
    return tuple(merges)


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """Find the split pattern: a Split before a ByteLevel, or a ByteLevel that brings GPT-2's own."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        raise ValueError("its text is not split on plain bytes")
    if len(steps) == 1 and steps[0].get("use_regex", True):
        return PATTERNS["gpt2"]
    split = steps[0]
    if len(steps) != 2 or split["type"] != "Split" or split["behavior"] != "Isolated" or split["invert"]:
        raise ValueError("its text is not split by one pattern")
    if steps[1].get("use_regex", True):
        raise ValueError("its text is split by two patterns")
    return resolve_pattern(split["pattern"]["Regex"])
