import numpy as np
import pytest

from vgpt.data import split as overlap
from vgpt.data.split import NGRAM, find_overlap, share_of


def tokens(count, seed):
    return np.random.default_rng(seed).integers(0, 50_000, count, dtype=np.uint16)


def naive(val, train):
    """Count the n-grams by comparing them with every place of the training text."""
    ngrams = [
        tuple(val[start : start + NGRAM]) for start in np.linspace(0, len(val) - NGRAM, len(val) // NGRAM).astype(int)
    ]
    places = {tuple(train[start : start + NGRAM]) for start in range(len(train) - NGRAM + 1)}
    return sum(one in places for one in ngrams)


def test_random_texts_have_nothing_in_common():
    assert find_overlap(tokens(3_000, 0), tokens(20_000, 1)).share == 0


@pytest.mark.parametrize("place", [0, 777, 20_000 - 40 * NGRAM])
def test_copied_text_is_found_wherever_it_stands(place):
    val, train = tokens(100 * NGRAM, 0), tokens(20_000, 1)
    train[place : place + 40 * NGRAM] = val[: 40 * NGRAM]
    found = find_overlap(val, train)
    assert (found.found, found.ngrams) == (naive(val, train), 100)
    assert found.found == 40


def test_repetitive_text_is_counted_as_a_slow_search_counts_it():
    val = np.tile(np.arange(10, dtype=np.uint16), 40)
    train = np.concatenate([tokens(500, 0), np.tile(np.arange(10, dtype=np.uint16), 7), tokens(500, 1)])
    assert find_overlap(val, train).found == naive(val, train) > 0


def test_text_across_the_border_of_two_blocks_is_found(monkeypatch):
    monkeypatch.setattr(overlap, "_BLOCK", 1_000)
    val, train = tokens(NGRAM, 0), tokens(3_000, 1)
    train[1_000 - NGRAM // 2 : 1_000 + NGRAM // 2] = val
    assert find_overlap(val, train).found == 1


def test_of_a_long_text_a_sample_is_read_and_that_is_said(monkeypatch):
    monkeypatch.setattr(overlap, "_BLOCK", 1_000)
    monkeypatch.setattr(overlap, "_MOST_TOKENS", 4_000)
    found = find_overlap(tokens(10 * NGRAM, 0), tokens(50_000, 1))
    assert not found.complete
    assert "sample" in str(found)


def test_a_text_shorter_than_an_n_gram_has_no_share():
    assert find_overlap(tokens(NGRAM - 1, 0), tokens(1_000, 1)).ngrams == 0
    assert find_overlap(tokens(NGRAM, 0), tokens(10, 1)).found == 0


def test_the_recorded_text_tells_the_share():
    val = tokens(100 * NGRAM, 0)
    assert share_of(str(find_overlap(val, val))) == 1
    assert share_of("") == 0
