import ast
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from vgpt.errors import TokenizerError
from vgpt.text.bpe import train_bpe
from vgpt.text.patterns import PATTERNS
from vgpt.text.tokenizer import END_OF_TEXT

PLAY = (Path(__file__).parent / "data" / "play.txt").read_text(encoding="utf-8")
PYTHON = Path(ast.__file__).read_text(encoding="utf-8")[:8000]
WORLD = (
    "Größe, naïve café; Привет, мир! 你好，世界。こんにちは世界 שלום עולם مرحبا بالعالم नमस्ते दुनिया "
    "👩‍👩‍👧‍👦 🏳️‍🌈 🙂🙂🙂 e\u0301 é \u200d\x00\x01 ½ ⅷ １２３ ﬁ\n\t\r\n  fin "
) * 6
# Nearly every pair is as frequent as every other, and runs of one letter overlap with themselves.
TIES = (
    " ".join("".join(random.Random(i).choices("abc", k=i % 7 + 1)) for i in range(150)) + " aaa aaaa aaaaa bbbbbb" * 3
)


def naive_merges(text: str, count: int, pattern: str) -> list[tuple[int, int]]:
    """Recount every pair before every merge; the first pair seen wins a tie; merge from the left."""
    chunks = [list(chunk.encode()) for chunk in regex.findall(pattern, text)]
    merges = []
    for new in range(256, 256 + count):
        counts = {}
        for ids in chunks:
            for pair in pairwise(ids):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=counts.get)
        merges.append(best)
        chunks = [replace_pair(ids, best, new) for ids in chunks]
    return merges


def replace_pair(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text", [PLAY, PYTHON, WORLD, TIES], ids=["play", "python", "world", "ties"])
def test_merges_equal_those_of_a_naive_trainer_to_the_last_possible_one(text, pattern):
    want = naive_merges(text, 300, PATTERNS[pattern])
    tokenizer = train_bpe([text], 257 + len(want), pattern=pattern)
    assert tokenizer.merges == want
    assert tokenizer.vocab_size == 257 + len(want)
    assert tokenizer.special_tokens == {END_OF_TEXT: 256 + len(want)}


@settings(max_examples=150, database=None)
@given(st.text(alphabet="ab ", min_size=1, max_size=60))
def test_merges_equal_the_naive_ones_on_any_text_of_few_letters(text):
    want = naive_merges(text, 1000, PATTERNS["gpt2"])
    assert train_bpe([text], 257 + len(want), pattern="gpt2").merges == want


def test_one_chunk_without_a_split_equals_the_naive_trainer_too():
    want = naive_merges(TIES, 200, r"[\s\S]+")
    assert train_bpe([TIES], 257 + len(want), pattern=r"[\s\S]+").merges == want


def test_documents_are_chunked_apart_and_may_be_a_stream():
    whole = train_bpe(iter(["ab", "ab", "ab"]), 258, pattern=r"[\s\S]+")
    assert whole.merges == [(97, 98)]
    with pytest.raises(TokenizerError, match="larger than the text allows"):
        train_bpe(["ab", "ab", "ab"], 259, pattern=r"[\s\S]+")


def test_a_vocabulary_the_text_does_not_allow_is_refused_with_the_largest_possible():
    with pytest.raises(TokenizerError, match="largest possible is 260") as caught:
        train_bpe(["abcd"], 300)
    assert "--vocab-size 260" in caught.value.hint
    assert train_bpe(["abcd"], 260).encode("abcd") == [258]


@pytest.mark.parametrize(("size", "specials"), [(256, 1), (0, 1), (-5, 1), (258, 3), (3_000_000, 1)])
def test_an_impossible_vocabulary_size_is_refused(size, specials):
    tokens = [END_OF_TEXT, "<|a|>", "<|b|>"][:specials]
    with pytest.raises(TokenizerError, match="is not possible"):
        train_bpe(["some text"], size, special_tokens=tokens)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_empty_text_is_refused(texts):
    with pytest.raises(TokenizerError, match="no text"):
        train_bpe(texts, 300)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(TokenizerError, match="surrogate"):
        train_bpe(["abc \ud83d def"], 258)


def test_a_pattern_that_loses_text_is_refused_before_training():
    with pytest.raises(TokenizerError, match="drops"):
        train_bpe(["words, and commas"], 260, pattern=r"\w+|\s+")


def test_special_tokens_follow_the_merges_in_the_order_given():
    tokenizer = train_bpe([PLAY], 300, special_tokens=[END_OF_TEXT, "<|user|>", END_OF_TEXT])
    assert len(tokenizer.merges) == 42
    assert tokenizer.special_tokens == {END_OF_TEXT: 298, "<|user|>": 299}
    with pytest.raises(TokenizerError, match="needs the special token"):
        train_bpe([PLAY], 300, special_tokens=["<|user|>"])


def test_progress_starts_at_nothing_and_ends_at_everything():
    seen = []
    train_bpe([PLAY], 457, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 200)
    assert seen[-1] == (200, 200)
    assert seen == sorted(seen)


def test_training_is_the_same_every_time():
    assert train_bpe([WORLD], 400).fingerprint == train_bpe([WORLD], 400).fingerprint


def test_four_thousand_merges_of_a_megabyte_take_seconds():
    words = [f"{a}{b}" for a in PLAY.split() for b in ("", "s", "ing")]
    text = " ".join(random.Random(0).choices(words, k=170_000))
    assert len(text) > 1_000_000
    start = time.process_time()
    train_bpe([text], 2048)
    # Takes well under a second; a trainer that recounts all pairs takes many minutes.
    assert time.process_time() - start < 10
