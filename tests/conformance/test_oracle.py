"""A variant beside a named one of equal weights."""

import pytest

from vgpt.attention.config import Shape
from vgpt.attention.grouped.config import GQAConfig, MHAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.conformance import failures
from vgpt.errors import UsageError


class Mine(MHAConfig):
    """A plug-in that claims to be multi-head attention."""


class MyGroups(GQAConfig):
    """A plug-in that claims to be grouped-query attention."""


class WrongScale(GroupedAttention):
    def _heads(self, x, start):
        q, k, v = super()._heads(x, start)
        return q * q.shape[-1] ** -0.5, k, v


class TiledHeads(GroupedAttention):
    """Query head h reads key/value head h modulo G, not its neighbors'."""

    def _heads(self, x, start):
        q, k, v = super()._heads(x, start)
        return q.unflatten(1, (-1, self.kv_heads)).transpose(1, 2).flatten(1, 2), k, v

    def _attend(self, q, k, v, cache):
        y = super()._attend(q, k, v, cache)
        return y.unflatten(1, (self.kv_heads, -1)).transpose(1, 2).flatten(1, 2)


class WrongGradientOfKeys(GroupedAttention):
    def _heads(self, x, start):
        q, k, v = super()._heads(x, start)
        return q, k.detach() + 0.5 * (k - k.detach()), v


ONLY = ["oracle"]


@pytest.mark.parametrize(
    ("attn", "reference"),
    [
        ("mha", "mha"),
        ("mqa", "mha"),
        ("gqa:n_kv_head=2", "mha"),
        ("mqa", "gqa:n_kv_head=2"),
        ("local:window_size=24", "mha"),
        ("sparse:sparse_block_size=8", "local:window_size=24"),
        ("mla", "mla"),
        ("local+mqa", "mha"),
    ],
)
def test_built_in_variants_are_what_they_are_named_after(attn, reference):
    assert failures(attn, oracle=reference, only=ONLY) == []


@pytest.mark.parametrize(
    ("config", "module", "phrase"),
    [
        (Mine, WrongScale, "outputs differ from the reference's"),
        (MyGroups, WrongScale, "outputs differ from the reference's"),
        (MyGroups, TiledHeads, "outputs differ from the reference's"),
        (Mine, WrongGradientOfKeys, "differs from the reference's"),
    ],
)
def test_what_is_wrong_everywhere_alike_is_caught_by_a_reference(register, config, module, phrase):
    planted = register(config, module)
    (found,) = failures(planted, oracle="mha", only=ONLY)
    assert phrase in found


def test_a_scale_that_is_wrong_everywhere_alike_is_caught_by_nothing_else(register):
    only = ["visibility", "decoding", "fast_is_naive", "flops", "modes", "gradients_under_autocast"]
    assert failures(register(Mine, WrongScale), only=only) == []


def test_a_reference_whose_weights_cannot_be_made_is_refused_with_the_shapes():
    for attn, reference in (("mla", "mha"), ("mha", "mqa")):
        with pytest.raises(UsageError, match="its weights cannot be made from those of") as refused:
            failures(attn, oracle=reference, only=ONLY)
        assert "Name a variant" in str(refused.value)
    with pytest.raises(UsageError, match=r"c_attn\.weight: 96x32, 48x32 in mqa"):
        failures("mha", oracle="mqa", only=ONLY)
    with pytest.raises(UsageError, match="--oracle gqa: --n-kv-head 2 must divide --n-head 3"):
        failures("mha", Shape(24, 3, 64), oracle="gqa", only=ONLY)
    with pytest.raises(UsageError, match="the check 'oracle' needs a reference"):
        failures("mha", only=ONLY)
