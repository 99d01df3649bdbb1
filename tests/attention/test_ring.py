"""The ring holds the window's tokens, wherever they lie, and says no where something needed is gone."""

import pytest
import torch

from vgpt.attention.cache import PAGE
from vgpt.attention.ring import RingCache
from vgpt.errors import VgptError


def ring(window: int, max_tokens: int = 1000, **more) -> RingCache:
    return RingCache(2, max_tokens, window, [(3, 4), (1, 5)], **{"dtype": torch.float32, "device": "cpu", **more})


def rows(start: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that carry their position in every number."""
    position = torch.arange(start, start + tokens, dtype=torch.float32)[:, None]
    return position.expand(2, 3, -1, 4), position.expand(2, 1, -1, 5)


def positions(part: torch.Tensor) -> list[int]:
    assert (part == part[:1, :1, :, :1]).all()
    return part[0, 0, :, 0].int().tolist()


@pytest.mark.parametrize("window", [1, 2, 5, 8, PAGE + 3, 3 * PAGE])
@pytest.mark.parametrize(
    "pieces", [[1] * 30, [3] * 12, [7, 1, 1, 9, 1, 30, 1, 2], [200, 1, 3, 1], [PAGE + 3, 1, 2], [1, 250, 1]]
)
def test_pieces_see_their_window_in_order_and_the_ring_keeps_the_last_rows(window, pieces):
    cache, start = ring(window), 0
    for n in pieces:
        for part in cache.append(*rows(start, n)):
            seen = positions(part)
            # Up to one window is handed over as it lies, older rows than needed included.
            assert seen == list(range(start + n - len(seen), start + n))
            assert len(seen) >= min(start, window - 1) + n
        start += n
        assert cache.length == start
        assert cache.live == min(start, window)
        for part, dense in zip(cache.stored(), cache.dense, strict=True):
            kept = positions(part)
            assert sorted(kept) == list(range(start - cache.live, start))
            assert all(p % window == slot for slot, p in enumerate(kept))
            assert kept[cache.last] == start - 1
            assert dense.is_contiguous()


@pytest.mark.parametrize("prefill", [1, 4, 5, 6, 23])
def test_a_step_writes_one_row_and_moves_nothing(prefill):
    cache = ring(5)
    cache.append(*rows(0, prefill))
    for p in range(prefill, prefill + 12):
        before = [part.clone() for part in cache.dense]
        cache.step(*rows(p, 1))
        assert sorted(positions(cache.stored()[0])) == list(range(max(0, p - 4), p + 1))
        if p >= 5:
            changed = [(old != new).any(-1).sum((0, 1)) for old, new in zip(before, cache.dense, strict=True)]
            assert all(int((part > 0).sum()) == 1 and part[cache.last] > 0 for part in changed)


@pytest.mark.parametrize(("window", "max_tokens"), [(5, 100), (100, 7), (7, 7), (1, 1)])
def test_bytes_stop_growing_at_the_window(window, max_tokens):
    per_token = 2 * (3 * 4 + 5) * 4
    cache = ring(window, max_tokens)
    assert cache.reserved == min(window, max_tokens) * per_token
    for length in range(max_tokens + 1):
        assert cache.nbytes == min(length, window) * per_token
        if length < max_tokens:
            cache.step(*rows(length, 1))
    assert cache.reserved == min(window, max_tokens) * per_token


@pytest.mark.parametrize("window", [3, 50])
def test_sequences_longer_than_agreed_are_refused_and_leave_the_cache_as_it_was(window):
    cache = ring(window, 10)
    cache.append(*rows(0, 9))
    for refused in (lambda: cache.append(*rows(9, 2)), lambda: [cache.step(*rows(9 + i, 1)) for i in range(2)]):
        with pytest.raises(VgptError, match="serves sequences of 10 tokens and cannot take 11"):
            refused()
    assert cache.length == 10


def test_before_the_window_is_full_any_rewinding_works():
    cache = ring(8)
    cache.append(*rows(0, 8))
    cache.rewind(3)
    assert positions(cache.append(*rows(3, 5))[0]) == list(range(8))


def test_a_full_ring_goes_back_by_one_token_and_no_further():
    cache = ring(5)
    cache.append(*rows(0, 12))
    cache.rewind(11)
    assert cache.live == 5
    for length in (10, 6, 5, 4, 1):
        with pytest.raises(VgptError, match=f"keeps the last 5 of 11 tokens and cannot go back to {length}"):
            cache.rewind(length)
    assert positions(cache.append(*rows(11, 1))[0]) == [7, 8, 9, 10, 11]
    cache.rewind(11)
    cache.step(*rows(11, 1))
    assert sorted(positions(cache.stored()[0])) == [7, 8, 9, 10, 11]


def test_rewinding_bit_by_bit_cannot_reach_what_is_lost():
    cache = ring(5)
    cache.append(*rows(0, 6))
    cache.rewind(5)
    with pytest.raises(VgptError, match="cannot go back to 4"):
        cache.rewind(4)
    with pytest.raises(VgptError, match="cannot go back to 7"):
        cache.rewind(7)


def test_after_a_reset_a_ring_is_as_new():
    cache = ring(5)
    cache.append(*rows(0, 12))
    cache.reset()
    assert (cache.length, cache.nbytes) == (0, 0)
    cache.append(*rows(0, 4))
    cache.rewind(1)
    assert positions(cache.append(*rows(1, 6))[0]) == list(range(7))


def test_what_a_piece_sees_is_in_the_precision_of_the_ring():
    cache = ring(3, dtype=torch.bfloat16)
    for n in (2, 5):
        seen = cache.append(torch.full((2, 3, n, 4), 1 / 3), torch.full((2, 1, n, 5), 1 / 3))
        assert all(part.dtype is torch.bfloat16 and (part == 0.333984375).all() for part in seen)
