"""Looking at a tokenizer: its facts, and what it makes of a text."""

from dataclasses import dataclass

import numpy as np

from vgpt.text.formats import format_token
from vgpt.text.patterns import pattern_name
from vgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextToken:
    """One token of a text: its id, its bytes, and these as printable text."""

    id: int
    data: bytes
    text: str


def text_tokens(tokenizer: Tokenizer, text: str, *, allow_special: bool = False) -> list[TextToken]:
    """Cut `text` into its tokens, in order."""
    found = []
    for token in tokenizer.encode(text, allow_special=allow_special):
        data = tokenizer.token_bytes(token)
        found.append(TextToken(token, data, format_token(data)))
    return found


def bytes_per_token(tokenizer: Tokenizer, text: str) -> float:
    """Return the UTF-8 bytes of `text` per token: how well it is compressed. 0 for empty text."""
    count = len(tokenizer.encode_batch([text])[0])
    return len(text.encode()) / count if count else 0.0


def facts(tokenizer: Tokenizer) -> dict[str, str | int | float | dict[str, int]]:
    """Return what there is to know about a tokenizer, in an order for reading; plain values, fit for JSON."""
    lengths = tokenizer.byte_lengths()
    longest = int(np.argmax(lengths))
    return {
        "name": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "merges": len(tokenizer.merges),
        "special_tokens": tokenizer.special_tokens,
        "pattern_name": pattern_name(tokenizer.pattern) or "own",
        "pattern": tokenizer.pattern,
        "mean_token_bytes": round(float(lengths[lengths > 0].mean()), 3),
        "longest_token": format_token(tokenizer.token_bytes(longest)),
        "longest_token_bytes": int(lengths[longest]),
        "fingerprint": tokenizer.fingerprint,
    }
