"""Any text scored: every token once, in sums that can be done by hand."""

import os

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vgpt.data.progress import Silent
from vgpt.errors import DataError
from vgpt.evaluation.text import read_scored_text, score_text
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.text.bpe import train_bpe

BLOCK = 12
TEXT = "Größe, naïve café: a text of its own.\n" * 3 + "👩‍👩‍👧‍👦 fin"


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([TEXT * 3, "and other words that it does not hold"], 280)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = GPT2Config(vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=16, block_size=BLOCK)
    model = GPT2Model(config)
    initialize(model, 3)
    return model.eval()


def scored_by_hand(model, tokenizer, text):
    """Losses of all tokens, window after window; the first token follows the end of the text before."""
    ids = [tokenizer.end_of_text, *tokenizer.encode(text)]
    windows = []
    for start in range(0, len(ids) - 1, BLOCK):
        row = ids[start : start + BLOCK + 1]
        with torch.no_grad():
            logs = F.log_softmax(model(torch.tensor([row[:-1]]))[0].double(), -1)
        windows.append([-logs[place, target].item() for place, target in enumerate(row[1:])])
    return windows


@pytest.mark.parametrize("text", [TEXT, "a", TEXT[:17], "x" * BLOCK])
def test_every_token_is_scored_once_in_the_sums_of_the_plain_formula(model, tokenizer, text):
    part, spelled, name = score_text(model, tokenizer, text, dtype=torch.float32, advance=Silent().advance)
    windows = scored_by_hand(model, tokenizer, text)
    assert part.tokens == len(tokenizer.encode(text)) == sum(map(len, windows))
    assert part.counts.tolist() == [len(window) for window in windows]
    assert part.losses == pytest.approx([np.mean(window) for window in windows], rel=1e-5)
    total = sum(map(sum, windows))
    assert part.loss * part.tokens == pytest.approx(total, rel=1e-6)
    assert spelled == len(text.encode())
    assert name.startswith(f"{len(windows)}x{BLOCK}:")


def test_a_text_that_divides_into_windows_has_no_empty_last_one(model, tokenizer):
    text = "~" * 2 * BLOCK  # which no merge joins
    assert len(tokenizer.encode(text)) == 2 * BLOCK
    part, _, _ = score_text(model, tokenizer, text, dtype=torch.float32, advance=Silent().advance)
    assert part.counts.tolist() == [BLOCK, BLOCK]


def test_spellings_of_special_tokens_are_letters(model, tokenizer):
    text = "a<|endoftext|>b"
    part, spelled, _ = score_text(model, tokenizer, text, dtype=torch.float32, advance=Silent().advance)
    assert part.tokens > 3
    assert spelled == len(text)


def test_only_a_file_of_text_is_read(tmp_path):
    place = tmp_path / "file"
    for content, said in ((b"", "empty"), (b"\xef\xbb\xbf", "empty"), (b"a\0b", "NUL"), (b"caf\xe9", "no UTF-8")):
        place.write_bytes(content)
        with pytest.raises(DataError, match=said) as caught:
            read_scored_text(place)
        assert caught.value.hint
    for other in (tmp_path, "/dev/zero"):
        with pytest.raises(DataError, match="is no file"):
            read_scored_text(type(tmp_path)(other))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_scored_text(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is no file"):
        read_scored_text(tmp_path / "pipe")
    place.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert read_scored_text(place) == TEXT
