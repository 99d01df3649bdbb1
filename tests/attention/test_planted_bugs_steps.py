"""Bugs planted in a step of fixed shapes: right when it is called for every token, wrong when it is replayed."""

import pytest

from vgpt.attention.build import build_attention
from vgpt.attention.cache import TokenCache
from vgpt.attention.config import Shape
from vgpt.attention.grouped.config import GQAConfig, MHAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.latent.config import MLAConfig
from vgpt.attention.latent.module import LatentAttention
from vgpt.attention.local.config import LocalConfig
from vgpt.attention.local.module import LocalAttention
from vgpt.attention.place import Place
from vgpt.conformance import failures


class Plain(GQAConfig):
    """A plug-in: grouped attention as it is."""


class Window(GQAConfig):
    """A plug-in with a window, which the mask of `forward` knows."""

    def visible(self, q, k, layer=0, head=0):
        return (k <= q) & (q - k < 5)


class Healthy(GroupedAttention):
    step_at = GroupedAttention.step_at


class KnowsTheLength(GroupedAttention):
    """Calls `forward`: each call is right, and the graph repeats the first."""

    def step_at(self, x, cache, place):
        y = self.forward(x, cache)
        cache.length -= 1
        return y


class AsksTheDevice(GroupedAttention):
    def step_at(self, x, cache, place):
        return super().step_at(x, cache, place) * (1 if int(place.position) >= 0 else 2)


class SeesEmptyRows(GroupedAttention):
    def step_at(self, x, cache, place):
        return super().step_at(x, cache, _AllVisible(place.position, place.limit))


class _AllVisible(Place):
    def bias(self, rows, slopes, dtype):
        return super().bias(rows, slopes, dtype).clamp(min=-100).mul(0)


class CountsTwice(TokenCache):
    def advance(self):
        super().advance()
        self.length += 1


class CountsTwiceInSteps(GroupedAttention):
    step_at = GroupedAttention.step_at

    def make_cache(self, batch, max_tokens, *, dtype, device):
        parts = [(self.kv_heads, self.shape.head_dim)] * 2
        return CountsTwice(batch, 2 * max_tokens, parts, dtype=dtype, device=device)


class ForgetsTheWindow(GroupedAttention):
    """Says that the step of its base class will do."""

    @property
    def steps(self):
        return True


class NeverGoesRound(LocalAttention):
    def step_at(self, x, cache, place):
        return super().step_at(x, cache, _NoRing(place.position, place.limit))


class _NoRing(Place):
    def row(self, rows):
        return self.position.clamp(max=rows - 1)


class NeverTurned(LatentAttention):
    def step_at(self, x, cache, place):
        return super().step_at(x, cache, _Still(place.position, place.limit))


class _Still(Place):
    def rotated(self, x, base):
        return x


@pytest.mark.parametrize(
    ("config", "module", "phrase"),
    [
        (Plain, KnowsTheLength, "fixed steps"),
        (Plain, AsksTheDevice, "reads a number from the device"),
        (Plain, SeesEmptyRows, "fixed steps"),
        (Plain, CountsTwiceInSteps, "fixed_steps: "),
        (Window, ForgetsTheWindow, "fixed steps"),
        (LocalConfig, NeverGoesRound, "fixed steps"),
        (MLAConfig, NeverTurned, "fixed steps"),
    ],
)
def test_a_bug_in_a_fixed_step_is_caught(register, config, module, phrase):
    planted = type("Planted", (config,), {"__doc__": config.__doc__, "__module__": __name__})
    (found,) = failures(register(planted, module), only=["fixed_steps"])
    assert phrase in found


def test_a_healthy_step_of_a_plug_in_passes_and_one_that_is_only_inherited_is_not_used(register):
    shape = Shape(32, 4, 64)
    healthy = register(type("Planted", (Plain,), {"__doc__": "", "__module__": __name__}), Healthy)
    assert build_attention(healthy, shape).steps
    assert failures(healthy, only=["fixed_steps"]) == []
    for config, module in ((Window, Healthy), (Plain, type("Silent", (GroupedAttention,), {}))):
        planted = register(type("Planted", (config,), {"__doc__": "", "__module__": __name__}), module)
        assert not build_attention(planted, shape).steps
    assert build_attention(MHAConfig(), shape).steps
