"""A decoding step's two ways against the textbook formula, and the rule that picks one."""

import pytest
import torch

from vgpt.attention.backends import naive
from vgpt.attention.one_query import _by_products, _fused, _parts, one_query, wants_whole_rows


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("groups", "parts"), [(1, 2), (1, 12), (2, 3), (4, 3)])
@pytest.mark.parametrize("live", [None, 1, 40])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_both_ways_are_the_textbook_formula_with_gradients(noise, batch, groups, parts, live, scale):
    q, k, v = noise(batch, 12, 1, 16), noise(batch, groups, 64, 16, seed=1), noise(batch, groups, 64, 16, seed=2)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    mask = torch.ones(1, 64 if live is None else live, dtype=torch.bool)
    expected = naive(q, k[:, :, :live], v[:, :, :live], mask, scale=scale)
    gradients = torch.autograd.grad(expected.square().sum(), inputs)
    for y in (_fused(q, k, v, live, parts, scale), _by_products(q, k, v, live, None, scale, None, None)):
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(torch.autograd.grad(y.square().sum(), inputs), gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_values_may_be_the_keys(noise):
    q, k = noise(1, 12, 1, 16), noise(1, 1, 64, 16, seed=1)
    expected = naive(q, k, k, torch.ones(1, 64, dtype=torch.bool))
    torch.testing.assert_close(_fused(q, k, k, 64, 4, None), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("entries", "fold", "keys", "dtype", "threads", "parts"),
    [
        (1, 12, 4096, torch.float32, 2, 2),
        (1, 12, 4096, torch.float32, 5, 6),
        (2, 12, 4096, torch.float32, 5, 3),
        (1, 12, 4096, torch.float32, 64, 12),
        (1, 7, 64, torch.float32, 4, 7),
        (2, 12, 64, torch.float32, 2, 0),  # every thread has a group
        (1, 12, 64, torch.float32, 1, 0),
        (1, 1, 64, torch.float32, 8, 0),  # nothing to split
        (1, 12, 64, torch.float64, 8, 0),
        (1, 12, 256, torch.bfloat16, 8, 12),
        (1, 12, 257, torch.bfloat16, 8, 0),
    ],
)
def test_groups_are_split_where_threads_would_be_idle(entries, fold, keys, dtype, threads, parts):
    assert _parts(entries, fold, keys, dtype, threads) == parts


def test_the_answer_does_not_depend_on_the_threads(noise):
    q, k, v = noise(1, 12, 1, 16), noise(1, 1, 64, 16, seed=1), noise(1, 1, 64, 16, seed=2)
    before, answers, whole = torch.get_num_threads(), [], []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            answers.append(one_query(q, k, v, 50))
            whole.append(wants_whole_rows(q, k))
    finally:
        torch.set_num_threads(before)
    assert whole == [False, True, True]
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-5, atol=1e-6)
