"""Caches hold what they say, and say no where they cannot."""

import pytest
import torch

from vgpt.attention.cache import TokenCache
from vgpt.errors import VgptError


@pytest.fixture
def cache() -> TokenCache:
    return TokenCache(2, 6, [(3, 4), (1, 5)], dtype=torch.float32, device="cpu")


def rows(tokens: int, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((2, 3, tokens, 4), value), torch.full((2, 1, tokens, 5), value)


def test_rows_come_back_in_order_without_a_copy(cache):
    cache.append(*rows(2, 1.0))
    keys, latents = cache.append(*rows(3, 2.0))
    assert keys[0, 0, :, 0].tolist() == [1, 1, 2, 2, 2]
    assert latents[1, 0, :, 4].tolist() == [1, 1, 2, 2, 2]
    assert keys.data_ptr() == cache.buffers()[0].data_ptr()


def test_bytes_in_use_follow_the_length_and_reserved_ones_do_not(cache):
    per_token = 2 * (3 * 4 + 5) * 4
    assert (cache.nbytes, cache.reserved) == (0, 6 * per_token)
    cache.append(*rows(5, 0.0))
    assert (cache.nbytes, cache.reserved) == (5 * per_token, 6 * per_token)
    cache.rewind(2)
    assert cache.nbytes == 2 * per_token
    cache.reset()
    assert (cache.nbytes, cache.length) == (0, 0)


def test_a_full_cache_says_so_and_keeps_what_it_has(cache):
    cache.append(*rows(5, 1.0))
    with pytest.raises(VgptError, match="holds 6 tokens and cannot take 7"):
        cache.append(*rows(2, 2.0))
    assert cache.length == 5
    cache.append(*rows(1, 2.0))


def test_a_cache_cannot_go_forward_by_rewinding(cache):
    cache.append(*rows(2, 1.0))
    with pytest.raises(VgptError, match="holds 2 tokens and cannot go back to 3"):
        cache.rewind(3)
