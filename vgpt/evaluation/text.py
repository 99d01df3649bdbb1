"""Any text scored by a model: every token of it, each once.

The text is read as one document: its first token is predicted from the end of the document before, as the model has
learned to begin. It is laid out in windows of the model's context without overlap, the last one as long as what is
left, so that a token sees what stands before it in its window.
"""

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vgpt.errors import DataError
from vgpt.evaluation.loss import Evaluator
from vgpt.evaluation.positions import tally_all
from vgpt.files.paths import access_hint
from vgpt.files.text import decode_text
from vgpt.model.gpt2 import GPT2Model
from vgpt.text.corpus_readers import conversion_hint
from vgpt.text.tokenizer import Tokenizer
from vgpt.tracking.breakdowns.record import Part

_HEAD_BYTES = 4096


def read_scored_text(path: Path) -> str:
    """Read a file of text that is to be scored.

    Raises:
        DataError: there is none, it is empty, or no UTF-8 text.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"--text {path} is no file", "Name one file of UTF-8 text.")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"--text {path} cannot be read: {error.strerror or error}", access_hint(error, "Check the path.")
        ) from error
    hint = conversion_hint(str(path), content[:_HEAD_BYTES])
    if b"\0" in content:
        raise DataError(f"--text {path} is no text: it holds NUL bytes", hint)
    try:
        text = decode_text(content)
    except UnicodeDecodeError as error:
        raise DataError(f"--text {path} is no UTF-8 text: byte {error.start:,} cannot be read", hint) from error
    if not text:
        raise DataError(f"--text {path} is empty: there is nothing to score", "Name a file with text in it.")
    return text


def score_text(
    model: GPT2Model, tokenizer: Tokenizer, text: str, *, dtype: torch.dtype, advance: Callable[[int], None]
) -> tuple[Part, int, str]:
    """Score a text.

    Args:
        model: scores it.
        tokenizer: its own.
        text: not empty; what spells special tokens is read as letters.
        dtype: precision of matrix products.
        advance: hears how many tokens more are done.

    Returns:
        The losses, window by window; the UTF-8 bytes that were predicted; number, length and hash of the windows.

    Raises:
        TokenizerError: the tokenizer's own pattern does not match all of it.
    """
    ids = np.array([tokenizer.end_of_text, *tokenizer.encode(text)], dtype=np.int64)
    length, total = model.config.block_size, len(ids) - 1
    whole, rest = divmod(total, length)
    lengths = tokenizer.byte_lengths()
    layouts = [(length, np.arange(whole) * length), (rest, np.array([whole * length]))]
    means: list[np.ndarray] = []
    counts: list[int] = []
    spelled = 0
    for each, starts in layouts:
        if not each or not len(starts):
            continue
        evaluator = Evaluator.at(ids, lengths, each, starts)
        means.append(tally_all(evaluator, model, [], lambda done, size=each: advance(done * size), dtype=dtype))
        counts += [each] * len(starts)
        spelled += evaluator.bytes
    name = f"{len(counts)}x{length}:{hashlib.sha256(ids.tobytes()).hexdigest()[:12]}"
    return Part("all", 0, np.concatenate(means), np.array(counts)), spelled, name
