"""Positions inside a layer that its settings do not state: the audit could not know of them."""

import pytest

from vgpt.attention.config import AttentionConfig, Shape, positions_of
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.latent.config import MLAConfig
from vgpt.attention.latent.module import LatentAttention
from vgpt.conformance import check_variant


class Hidden(MHAConfig):
    """A variant whose module knows more than it says."""


class ShiftsTheInput(GroupedAttention):
    """Mixes each token with the one before it, as a short convolution does."""

    def forward(self, x, cache=None):
        before = x.roll(1, 1)
        before[:, :1] = 0
        return super().forward(x + before, cache)


class CountsTokens(GroupedAttention):
    """Adds the number of the token to one feature of its input."""

    def forward(self, x, cache=None):
        y = x.clone()
        y[..., 0] += 0.1 * x.new_tensor(range(x.shape[1]))
        return super().forward(y, cache)


class SilentLatent(MLAConfig):
    """MLA that does not name its rotary part."""

    effective_positions = AttentionConfig.effective_positions


@pytest.mark.parametrize("module", [ShiftsTheInput, CountsTokens])
def test_positions_that_are_not_stated_are_found(module, register):
    (found,) = check_variant(register(Hidden, module), only=["stated_positions"])
    assert not found.passed
    assert "effective_positions() should name" in found.detail


def test_an_mla_that_does_not_name_its_rotary_part_is_found(register):
    (found,) = check_variant(register(SilentLatent, LatentAttention), only=["stated_positions"])
    assert not found.passed


def test_positions_differ_by_layer_in_a_mix():
    shape, mix = Shape(64, 4, 128), resolve_attention("2xmha+mla")
    assert positions_of([mix.at(layer) for layer in range(6)], shape) == (
        "learned (layers 0-1, 3-4), learned+rope:8 (layers 2, 5)"
    )
    rotary = Shape(64, 4, 128, pos="rope")
    assert positions_of([mix.at(layer) for layer in range(6)], rotary) == "rope"
