"""Tables that are made once per device and kept, and what scores become."""

import pytest
import torch

from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes, softmax_backward, softmax_with_sinks
from vgpt.attention.kernels.tables import KeptTables


@pytest.fixture
def made():
    """Sizes asked for, in order, and a function that makes a table."""
    sizes = []

    def make(size, device):
        sizes.append(size)
        return torch.ones(size, device=device)

    return sizes, make


def test_a_table_is_made_once_and_what_is_longest_unasked_for_goes_first(made):
    sizes, make = made
    kept = KeptTables(most=2)
    first = kept(make, 1, "cpu")
    kept(make, 2, "cpu")
    assert kept(make, 1, "cpu") is first
    kept(make, 3, "cpu")
    assert sizes == [1, 2, 3]
    assert [size for _, size, _ in kept] == [1, 3]
    kept(make, 2, "cpu")
    assert sizes == [1, 2, 3, 2]


def test_without_a_limit_all_tables_stay_and_one_born_while_sampling_can_be_trained_with(made):
    sizes, make = made
    kept = KeptTables()
    with torch.inference_mode():
        tables = [kept(make, size, "cpu") for size in range(1, 300)]
    assert not any(table.is_inference() for table in tables)
    assert all(kept(make, size, "cpu") is table for size, table in enumerate(tables, 1))
    assert sizes == list(range(1, 300))


def test_a_compiler_keeps_nothing(made):
    _, make = made
    kept = KeptTables()
    torch.compile(lambda x: x + kept(make, 4, "cpu"), backend="eager", fullgraph=True)(torch.zeros(4))
    assert list(kept) == []


def test_modifications_of_scores_go_through_a_compiler_without_a_break(noise):
    def weights(x, mods):
        return softmax_with_sinks(x * mods.factor(x.shape[-1]), mods.sinks), mods.only_scaled

    def run(x, scale, sinks):
        return weights(x, ScoreMods(scale, sinks, alibi_slopes(2)))

    x, sinks = noise(1, 2, 3, 4), noise(2, seed=1)
    got, only_scaled = torch.compile(run, backend="eager", fullgraph=True)(x, 0.3, sinks)
    torch.testing.assert_close(got, run(x, 0.3, sinks)[0], rtol=0, atol=0)
    assert not only_scaled
    given, _ = torch.compile(weights, backend="eager", fullgraph=True)(x, ScoreMods(sinks=sinks))
    torch.testing.assert_close(given, softmax_with_sinks(x / 2, sinks), rtol=0, atol=0)


@pytest.mark.parametrize("sinks", [False, True])
def test_the_gradient_of_the_softmax_is_autograds(noise, sinks):
    scores = noise(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    sink = noise(3, dtype=torch.float64, seed=1) if sinks else None
    weights = softmax_with_sinks(scores, sink)
    grad = noise(2, 3, 4, 5, dtype=torch.float64, seed=2)
    (want,) = torch.autograd.grad(weights, scores, grad)
    torch.testing.assert_close(softmax_backward(grad, weights.detach()), want, rtol=0, atol=1e-14)
