"""Small models that the model tests share."""

import pytest
import torch

from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize

SMALL = {"vocab_size": 61, "n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24}


def make_config(**changes) -> GPT2Config:
    """Settings of a small model."""
    return GPT2Config.model_validate({**SMALL, **changes})


def make_model(seed: int = 0, *, loud: bool = False, **changes) -> GPT2Model:
    """A small model; `loud` fills every tensor, biases and norms too, with larger numbers, so that none goes unseen."""
    model = GPT2Model(make_config(**changes))
    initialize(model, seed)
    if loud:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.empty(parameter.shape).normal_(0, 0.1, generator=generator))
    return model


@pytest.fixture
def config():
    """The function that makes settings."""
    return make_config


@pytest.fixture
def model():
    """The function that makes a model."""
    return make_model


@pytest.fixture
def ids() -> torch.Tensor:
    """Token ids (3, 20) of a fixed seed."""
    return torch.randint(61, (3, 20), generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=["mha", "mqa", "gqa:n_kv_head=2"])
def attn(request: pytest.FixtureRequest) -> str:
    """Each grouped variant."""
    return request.param


@pytest.fixture(params=["learned", "rope", "none"])
def pos(request: pytest.FixtureRequest) -> str:
    """Each position encoding."""
    return request.param
