"""A decoding step's two ways against the textbook formula, and the rule that picks one."""

import pytest
import torch

from vgpt.attention.kernels import single_query as rule
from vgpt.attention.kernels.backends import naive
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes
from vgpt.attention.kernels.single_query import _parts, single_query, single_query_to_rows


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("groups", "parts"), [(1, 0), (1, 2), (1, 12), (2, 0), (2, 3), (4, 0), (4, 3)])
@pytest.mark.parametrize("live", [None, 1, 40])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_each_way_is_the_textbook_formula_with_gradients(noise, monkeypatch, batch, groups, parts, live, scale):
    monkeypatch.setattr(rule, "_parts", lambda *_: parts)
    q, k, v = noise(batch, 12, 1, 16), noise(batch, groups, 64, 16, seed=1), noise(batch, groups, 64, 16, seed=2)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    mask = torch.ones(1, 64 if live is None else live, dtype=torch.bool)
    mods = ScoreMods(scale)
    agree(single_query(q, k, v, live, mods=mods), naive(q, k[:, :, :live], v[:, :, :live], mask, mods=mods), inputs)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("parts", [0, 2, 4])
@pytest.mark.parametrize("switched", [False, True])
def test_rows_are_keys_and_with_their_front_values(noise, monkeypatch, batch, parts, switched):
    monkeypatch.setattr(rule, "_parts", lambda *_: parts)
    q, rows = noise(batch, 12, 24), noise(batch, 1, 64, 24, seed=1)
    inputs = [x.requires_grad_() for x in (q, rows)]
    mods = ScoreMods(None, noise(12, seed=2), alibi_slopes(12)) if switched else ScoreMods()
    mask = torch.ones(1, 40, dtype=torch.bool)
    expected = naive(q[:, :, None], rows[:, :, :40], rows[:, :, :40, :16], mask, 39, mods=mods)
    agree(single_query_to_rows(q, rows, 16, 40, mods=mods), expected[:, :, 0], inputs)


def agree(y, expected, inputs):
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad(x.square().sum(), inputs) for x in (y, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


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
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            answers.append((single_query(q, k, v, 50), single_query_to_rows(q[:, :, 0], k, 8, 50)))
    finally:
        torch.set_num_threads(before)
    for several in answers[1:]:
        torch.testing.assert_close(several, answers[0], rtol=1e-5, atol=1e-6)
