"""Sampling follows the distribution it states."""

import math

import pytest
import torch

from vgpt.model.sampling import Sampler, uniform

SCORES = torch.tensor([2.0, 0.5, -1.0, 1.0, 1.5, -3.0])


def frequencies(sampler_settings, rows=64, steps=150, scores=SCORES):
    counts = torch.zeros(len(scores), dtype=torch.float64)
    sampler = Sampler(**{"seed": 11, **sampler_settings})
    for step in range(steps):
        counts += torch.bincount(sampler.choose(scores.expand(rows, -1), step), minlength=len(scores))
    return counts / (rows * steps), rows * steps


def assert_follows(found, total, expected):
    """Every frequency within five standard errors; what has no probability never comes."""
    for f, p in zip(found.tolist(), expected.tolist(), strict=True):
        assert abs(f - p) <= 5 * math.sqrt(p * (1 - p) / total)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax_at_any_temperature(temperature):
    found, total = frequencies({"temperature": temperature})
    assert_follows(found, total, (SCORES / temperature).softmax(-1))


def test_top_k_draws_among_the_k_likeliest_in_their_proportions():
    found, total = frequencies({"top_k": 3})
    expected = SCORES.softmax(-1) * torch.tensor([1, 0, 0, 1, 1, 0])
    assert_follows(found, total, expected / expected.sum())


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, [0]), (0.5, [0, 4]), (0.75, [0, 4, 3]), (1.0, range(6))])
def test_top_p_keeps_the_fewest_that_reach_p(top_p, kept):
    probabilities = SCORES.softmax(-1)  # 0.45, 0.10, 0.02, 0.16, 0.27, 0.00
    found, total = frequencies({"top_p": top_p})
    expected = torch.zeros(6)
    expected[list(kept)] = probabilities[list(kept)]
    assert_follows(found, total, expected / expected.sum())


def test_top_p_counts_what_top_k_left():
    found, total = frequencies({"top_k": 2, "top_p": 0.6})
    # Of the two likeliest the first alone has e^2 / (e^2 + e^1.5) = 0.62.
    assert_follows(found, total, torch.tensor([1.0, 0, 0, 0, 0, 0]))


@pytest.mark.parametrize("top_p", [0.3, 0.999])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_a_full_sort(top_p):
    scores = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) * 2
    sampler = Sampler(top_p=top_p, seed=3)
    for step in range(40):
        chosen = sampler.choose(scores, step)
        for row in range(2):
            probabilities, order = scores[row].softmax(-1).double().sort(descending=True)
            kept = int((probabilities.cumsum(-1) - probabilities < top_p).sum())
            mass = probabilities[:kept].cumsum(-1)
            index = int((mass <= uniform(3, row, step) * mass[-1]).sum())
            assert int(chosen[row]) == int(order[index])


def test_greedy_takes_the_first_of_equals():
    assert Sampler(temperature=0).choose(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]]), 0).tolist() == [1, 0]


def test_a_tiny_temperature_is_greedy_and_a_huge_one_is_uniform():
    assert Sampler(temperature=1e-30).choose(SCORES[None], 0).tolist() == [0]
    found, total = frequencies({"temperature": 1e30})
    assert_follows(found, total, torch.full((6,), 1 / 6))


def test_a_top_k_above_the_vocabulary_changes_nothing():
    scores = SCORES.expand(8, -1)
    assert torch.equal(Sampler(top_k=100, seed=1).choose(scores, 4), Sampler(seed=1).choose(scores, 4))


def test_hidden_tokens_are_never_drawn():
    scores = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]]).expand(500, -1)
    assert set(Sampler(seed=2).choose(scores, 0).tolist()) == {0, 2}


def test_the_numbers_behind_the_draws_are_uniform_and_differ_by_seed_row_and_step():
    numbers = [uniform(seed, row, step) for seed in range(10) for row in range(20) for step in range(50)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 1 for number in numbers)
    tenths = torch.histc(torch.tensor(numbers), 10, 0, 1) / len(numbers)
    assert (tenths - 0.1).abs().max() < 0.02
