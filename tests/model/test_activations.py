"""Activations by name, and by anyone."""

import math

import pytest
import torch
from torch.nn import functional as F

from vgpt.errors import UsageError
from vgpt.model import activations
from vgpt.model.activations import activation, register_activation
from vgpt.settings.model import ACTIVATIONS

X = [-3.0, -0.5, 0.0, 0.7, 2.5]
FORMULAS = {
    "gelu_new": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_each_is_its_formula(name):
    got = activation(name)(torch.tensor(X, dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor([FORMULAS[name](x) for x in X], dtype=torch.float64))


@pytest.fixture
def many():
    """Numbers in every order of magnitude that matters, more than one piece of the fast form holds."""
    x = (torch.linspace(-12, 12, 149_998), 5 * torch.randn(149_998), torch.tensor([-1e13, -60.0, 60.0, 1e13]))
    return torch.cat(x).view(2, -1)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 3e-6), (torch.bfloat16, 2**-7)])
def test_gelu_new_and_its_slope_are_right_to_rounding_where_there_are_many_numbers(many, dtype, rounding):
    x = many.to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    ours, theirs = activation("gelu_new")(x), F.gelu(exact, approximate="tanh")
    weights = torch.linspace(-1, 1, x.numel(), dtype=dtype).view(x.shape)
    ours.backward(weights)
    theirs.backward(weights.double())
    for got, want in ((ours, theirs), (x.grad, exact.grad)):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=rounding, atol=rounding)
    with torch.no_grad():
        assert torch.equal(activation("gelu_new")(x), ours)  # with and without a slope to keep


def test_gelu_new_takes_pieces_of_any_stride_and_keeps_zero_and_not_a_number(many):
    x = many.T
    assert torch.equal(activation("gelu_new")(x), activation("gelu_new")(x.contiguous()))
    odd = torch.zeros(1 << 17)
    odd[7] = torch.nan
    got = activation("gelu_new")(odd)
    assert got[7].isnan()
    assert got.nansum() == 0


def test_gelu_new_under_autocast_gives_the_gradient_of_the_type_that_comes_in():
    weight = torch.randn(8, 16, requires_grad=True)
    x = torch.randn(1 << 14, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = activation("gelu_new")(F.linear(x, weight))
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    exact = weight.detach().double().requires_grad_()
    F.gelu(F.linear(x.double(), exact), approximate="tanh").square().sum().backward()
    torch.testing.assert_close(weight.grad.double(), exact.grad, rtol=0.02, atol=0.02 * float(exact.grad.abs().max()))


def test_a_registered_one_works_in_settings_and_models(model, monkeypatch):
    monkeypatch.setattr(activations, "_known", dict(activations._known))
    register_activation("half")(lambda x: x / 2)
    try:
        assert model(activation="half").h[0].mlp.activation(torch.tensor(3.0)) == 1.5
        with pytest.raises(TypeError, match="'half' is registered twice"):
            register_activation("half")(lambda x: x)
    finally:
        ACTIVATIONS.remove("half")


def test_an_unknown_one_names_its_neighbor():
    with pytest.raises(UsageError, match=r"unknown activation 'gelu_now'; did you mean 'gelu_new'\?"):
        activation("gelu_now")
    assert list(FORMULAS) == ACTIVATIONS
