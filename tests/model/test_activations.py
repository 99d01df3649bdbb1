"""Activations by name, and by anyone."""

import math

import pytest
import torch

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


def test_a_registered_one_works_in_settings_and_models(model, monkeypatch):
    monkeypatch.setattr(activations, "_known", dict(activations._known))
    register_activation("half")(lambda x: x / 2)
    try:
        assert model(activation="half").h[0].mlp.activation(torch.tensor(3.0)) == 1.5
        with pytest.raises(TypeError, match="'half' is registered twice"):
            register_activation("half")(lambda x: x)
    finally:
        ACTIVATIONS.remove("half")


def test_an_unknown_one_names_its_neighbour():
    with pytest.raises(UsageError, match=r"unknown activation 'gelu_now'; did you mean 'gelu_new'\?"):
        activation("gelu_now")
    assert list(FORMULAS) == ACTIVATIONS
