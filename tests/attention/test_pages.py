"""The cache's dense part: what lies in it, however its tokens came, and that spare rows never count."""

import pytest
import torch

from vgpt.attention.cache import PAGE, TokenCache
from vgpt.attention.kernels.backends import naive
from vgpt.attention.kernels.single_query import single_query


@pytest.mark.parametrize("steps", [[1] * (2 * PAGE + 3), [PAGE, 1, PAGE, 1], [3, 2 * PAGE, 1], [PAGE - 1, 1, 1]])
def test_rows_stay_theirs_when_pages_move_apart(noise, steps):
    cache = TokenCache(3, 3 * PAGE, [(2, 5), (1, 7)], dtype=torch.float32, device="cpu")
    total = sum(steps)
    keys, latents = noise(3, 2, total, 5), noise(3, 1, total, 7, seed=1)
    start = 0
    for n in steps:
        end = start + n
        live = cache.append(keys[:, :, start:end], latents[:, :, start:end])
        assert torch.equal(live[0], keys[:, :, :end])
        assert torch.equal(live[1], latents[:, :, :end])
        assert all(part.is_contiguous() and part.isfinite().all() for part in cache.dense)
        assert cache.dense[0].shape[2] - end < PAGE
        start = end


def test_after_a_rewind_rows_are_written_anew(noise):
    cache = TokenCache(2, 2 * PAGE, [(2, 4)], dtype=torch.float32, device="cpu")
    first, second = noise(2, 2, PAGE + 5, 4), noise(2, 2, PAGE + 9, 4, seed=1)
    cache.append(first)
    cache.rewind(3)
    (live,) = cache.append(second)
    assert torch.equal(live, torch.cat((first[:, :, :3], second), 2))


def test_the_capacity_is_never_exceeded_by_a_page():
    cache = TokenCache(2, PAGE + 1, [(2, 4)], dtype=torch.float32, device="cpu")
    reserved = cache.reserved
    cache.append(torch.ones(2, 2, PAGE + 1, 4))
    assert cache.dense[0].shape[2] == PAGE + 1
    assert cache.reserved == reserved == cache.nbytes


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("live", [1, 40, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spare_rows_have_no_weight(noise, groups, live, dtype):
    q = noise(2, 4, 1, 8, dtype=dtype)
    k, v = noise(2, groups, 64, 8, dtype=dtype, seed=1), noise(2, groups, 64, 8, dtype=dtype, seed=2)
    expected = naive(q, k[:, :, :live], v[:, :, :live], torch.ones(1, live, dtype=torch.bool))
    k[:, :, live:], v[:, :, live:] = 1e4, -1e4
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(single_query(q, k, v, live), expected, atol=tolerance, rtol=tolerance)
