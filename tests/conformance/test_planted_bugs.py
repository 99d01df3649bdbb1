"""Bugs planted in a plug-in on top of grouped attention, each caught by the check that is meant for it."""

import numpy as np
import pytest
import torch
from torch import nn

from vgpt.attention.cache import TokenCache
from vgpt.attention.config import CacheCost, Shape
from vgpt.attention.grouped.config import GQAConfig, MHAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.switches import Switches
from vgpt.conformance import check_names, failures
from vgpt.errors import VgptError


class Window(GQAConfig):
    """A plug-in: grouped attention to the last few tokens, by a mask."""

    window: int = 5

    def visible(self, q, k, layer=0, head=0):
        return (k <= q) & (q - k < self.window)

    def pairs(self, tokens):
        w = min(self.window, tokens)
        return w * (w + 1) // 2 + (tokens - w) * w


class HeadWindows(Window):
    """Each head sees further than the one before."""

    def visible(self, q, k, layer=0, head=0):
        return (k <= q) & (q - k < self.window + 3 * head)

    def pairs(self, tokens):
        widths = [min(self.window + 3 * head, tokens) for head in range(4)]
        return round(sum(w * (w + 1) // 2 + (tokens - w) * w for w in widths) / 4)


class HeadWindowsModule(GroupedAttention):
    def mask(self, *place, **more):
        return torch.stack([super(HeadWindowsModule, self).mask(*place, head=h) for h in range(self.shape.n_head)])


@pytest.mark.slow
def test_a_plug_in_with_a_window_keeps_the_contract_and_its_mask_is_reached(register):
    assert failures(register(Window, GroupedAttention)) == []
    assert failures(register(Window, GroupedAttention, window=90), only=["visibility", "decoding", "pairs"]) == []


def test_masks_may_differ_between_heads(register):
    only = ["visibility", "pairs", "fast_is_naive", "decoding", "causality_by_gradient"]
    assert failures(register(HeadWindows, HeadWindowsModule), only=only) == []


# --- Planted bugs: each module or settings class is a healthy one with one thing wrong.


class InvertedMask(GroupedAttention):
    def mask(self, *place, **more):
        return ~super().mask(*place, **more)


class InvertedWithinThePast(GroupedAttention):
    def mask(self, q0, nq, k0, nk, device=None, **more):
        q, k = torch.arange(q0, q0 + nq)[:, None], torch.arange(k0, k0 + nk)[None, :]
        return (k == q) | ((k < q) & ~super().mask(q0, nq, k0, nk, device, **more))


class OneTooFar(GroupedAttention):
    def mask(self, q0, nq, k0, nk, device=None, **more):
        q, k = torch.arange(q0, q0 + nq)[:, None], torch.arange(k0, k0 + nk)[None, :]
        return (k <= q) & (q - k < self.config.window + 1)


class OneTooNear(GroupedAttention):
    def mask(self, q0, nq, k0, nk, device=None, **more):
        q, k = torch.arange(q0, q0 + nq)[:, None], torch.arange(k0, k0 + nk)[None, :]
        return (k <= q) & (q - k < self.config.window - 1)


class SeesOneAhead(GroupedAttention):
    def mask(self, q0, nq, k0, nk, device=None, **more):
        q, k = torch.arange(q0, q0 + nq)[:, None], torch.arange(k0, k0 + nk)[None, :]
        return (k <= q + 1) & (q - k < self.config.window)


class LinksThatDependOnTheLength(GroupedAttention):
    def mask(self, q0, nq, k0, nk, device=None, **more):
        q, k = torch.arange(q0, q0 + nq)[:, None], torch.arange(k0, k0 + nk)[None, :]
        return (k <= q) & ((q - k < self.config.window) | (k == nk // 7))


class AllHeadsSeeTheFarthest(GroupedAttention):
    def mask(self, *place, **more):
        return super().mask(*place, head=self.shape.n_head - 1)


class OnlyTheFirstLayerIsRight(GroupedAttention):
    def mask(self, q0, nq, k0, nk, device=None, **more):
        q, k = torch.arange(q0, q0 + nq)[:, None], torch.arange(k0, k0 + nk)[None, :]
        return (k <= q) & (q - k < self.config.window + self.layer)


class MixesTheBatch(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        return y + 1e-3 * y.detach().mean(0, keepdim=True)


class MixesTheBatchInTheBackwardPass(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        mean = y.mean(0, keepdim=True)
        return y + mean - mean.detach()


class IgnoresTheLength(GroupedAttention):
    def _heads(self, x, start):
        return super()._heads(x, 0)


class ForgetsAfterAPrefill(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        if cache is not None and x.shape[1] > 60:
            cache.dense[0][:, :, cache.length - 8 : cache.length] = 0
        return y


class Leaning(TokenCache):
    """A cache that can only be taken back by making another."""

    def rewind(self, length):
        raise VgptError("no way back")


class Amnesiac(TokenCache):
    """A cache that counts back and spoils what stays."""

    def rewind(self, length):
        super().rewind(length)
        if length:
            self.dense[0][:, :, length - 1] = 0


class ExpandedBeside(TokenCache):
    """Keeps the keys once more, one per query head, and does not say so."""

    def append(self, *rows):
        keys, values = super().append(*rows)
        self.ready = {"keys": [keys.repeat_interleave(2, 1)]}
        return [keys, values]


class ExpandedInTheOpen(TokenCache):
    """Reserves the keys once more, one per query head, and uses nothing of it."""

    def __init__(self, batch, max_tokens, parts, **more):
        super().__init__(batch, max_tokens, parts, **more)
        self.ready = [part.repeat_interleave(4, 1) for part in self._memory]

    def buffers(self):
        return [*self._memory, *self.ready]


class UnderReports(TokenCache):
    def stored(self):
        return super().stored()[:1]


class ReportsWhatIsReserved(TokenCache):
    def stored(self):
        return self.buffers()


def with_cache(kind):
    class WithCache(GroupedAttention):
        def make_cache(self, batch, max_tokens, *, dtype, device):
            parts = [(self.kv_heads, self.shape.head_dim)] * 2
            return kind(batch, max_tokens, parts, dtype=dtype, device=device)

    return WithCache


class RandomAtConstruction(GroupedAttention):
    def __init__(self, config, shape, layer=0):
        super().__init__(config, shape, layer)
        self.temperature = float(torch.rand(()))

    def forward(self, x, cache=None):
        return super().forward(x, cache) * (1 + self.temperature)


class DrawsFromNumpy(GroupedAttention):
    def __init__(self, config, shape, layer=0):
        super().__init__(config, shape, layer)
        np.random.rand()


class IdleParameter(GroupedAttention):
    def __init__(self, config, shape, layer=0):
        super().__init__(config, shape, layer)
        self.idle_bias = nn.Parameter(torch.empty(shape.n_embd))


class OtherNameForTheProjection(GroupedAttention):
    def __init__(self, config, shape, layer=0):
        super().__init__(config, shape, layer)
        self.out, self.c_proj = self.c_proj, nn.Identity()

    def forward(self, x, cache=None):
        return self.out(super().forward(x, cache))


class IgnoresTheNorm(GroupedAttention):
    def __init__(self, config, shape, layer=0):
        super().__init__(config, shape, layer)
        self.extra.normed = lambda q, k: (q, k)


class IgnoresAlibi(GroupedAttention):
    def __init__(self, config, shape, layer=0):
        super().__init__(config, shape, layer)
        self.extra.slopes = lambda device: None


class OtherScaleWhenFused(GroupedAttention):
    def forward(self, x, cache=None):
        return super().forward(x if self.shape.flash else 1.0001 * x, cache)


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.factor * grad, None


class DifferentiatesWrongly(GroupedAttention):
    def forward(self, x, cache=None):
        return WrongGradient.apply(super().forward(x, cache), 1.001)


class DividesByItsInput(GroupedAttention):
    def forward(self, x, cache=None):
        return super().forward(x / x.norm(dim=-1, keepdim=True), cache)


class ComputesTheSquareTwice(GroupedAttention):
    def forward(self, x, cache=None):
        if not self.shape.flash and cache is None:
            (x @ x.mT).sum()
        return super().forward(x, cache)


class ExpandsWhileDecoding(GroupedAttention):
    def forward(self, x, cache=None):
        if cache is not None:
            for width in (96, 96):
                cache.stored()[0].transpose(1, 2).flatten(2) @ x.new_ones(16, width)
        return super().forward(x, cache)


class Raises(GroupedAttention):
    def forward(self, x, cache=None):
        raise RuntimeError("no kernel for this\nand more lines")


class SaysTooManyParameters(Window):
    def params(self, shape):
        return super().params(shape) + shape.sinks


class SaysTooFewMatrices(Window):
    def matmul_params(self, shape):
        return super().matmul_params(shape) - self.switch_matmul_params(shape)

    def params(self, shape):
        return super().params(shape) + self.switch_matmul_params(shape)


class SaysOnePairTooMany(Window):
    def pairs(self, tokens):
        return super().pairs(tokens) + (tokens > 60)


class SaysFewerDensePairs(Window):
    def dense_pairs(self, tokens):
        return self.pairs(tokens) - 1


class ShowsTheFuture(MHAConfig):
    def visible(self, q, k, layer=0, head=0):
        return k <= q + 1


class TensorsOnly(Window):
    def visible(self, q, k, layer=0, head=0):
        return (k <= q) & (q - k < self.window + (not isinstance(q, torch.Tensor)))


class ForgetsToRefuse(Window):
    switches = ()

    def check(self, shape):
        return []


class ChargesTheSquare(Window):
    def flops(self, shape, tokens):
        return self.dense_flops(shape, tokens)


class SaysHalfTheCache(Window):
    def cache_cost(self, shape):
        return CacheCost(per_token=self.kv_heads(shape) * shape.head_dim)


class ForgetsTheRing(Window):
    """Promises to keep the window alone, and keeps everything."""

    def cache_cost(self, shape):
        return CacheCost(per_token=2 * self.kv_heads(shape) * shape.head_dim, span=self.window)


MODULE_BUGS = [
    (InvertedMask, "visibility", "which is hidden"),
    (InvertedMask, "causality_by_gradient", "has a gradient to input"),
    (InvertedWithinThePast, "visibility", "takes nothing from"),
    (OneTooFar, "visibility", "takes from 0, which is hidden"),
    (OneTooNear, "visibility", "takes nothing from"),
    (OnlyTheFirstLayerIsRight, "visibility", "layer 1"),
    (SeesOneAhead, "causality_by_gradient", "output 0 has a gradient to input 1"),
    (SeesOneAhead, "causality_by_perturbation", "move with inputs from it on"),
    (LinksThatDependOnTheLength, "prefix_invariance", "against them alone"),
    (LinksThatDependOnTheLength, "decoding", "against the full forward"),
    (MixesTheBatch, "batch_invariance", "alone"),
    (MixesTheBatchInTheBackwardPass, "batch_invariance", "has gradients to others"),
    (IgnoresTheLength, "positions", "--pos rope"),
    (ForgetsAfterAPrefill, "decoding", "prefill"),
    (with_cache(Leaning), "rewinding", "cannot be reset"),
    (with_cache(Amnesiac), "rewinding", "tokens, and on"),
    (with_cache(ExpandedBeside), "hidden_memory", "hang on a cache that reports"),
    (with_cache(ExpandedInTheOpen), "hidden_memory", "are reserved where"),
    (with_cache(UnderReports), "cache_bytes", "stated"),
    (with_cache(ReportsWhatIsReserved), "cache_bytes", "stated"),
    (RandomAtConstruction, "construction", "depend on the random state at construction"),
    (RandomAtConstruction, "state_dict", "backbone"),
    (DrawsFromNumpy, "construction", "draws from the random state of NumPy"),
    (IdleParameter, "construction", "no gradient reaches idle_bias"),
    (OtherNameForTheProjection, "construction", "no `c_proj`"),
    (IgnoresTheNorm, "switches", "--qk-norm is accepted, yet changes nothing"),
    (IgnoresAlibi, "switches", "--pos alibi is accepted, yet changes nothing"),
    (OtherScaleWhenFused, "fast_is_naive", "float64, T="),
    (DifferentiatesWrongly, "gradients", "T=4: finite differences give another gradient of the input, c_attn.weight"),
    (DividesByItsInput, "finite_at_extremes", "zero inputs"),
    (ComputesTheSquareTwice, "flops", "FLOPs per pair of tokens"),
    (ExpandsWhileDecoding, "decode_flops", "attention FLOPs counted in a step"),
    (Raises, "decoding", "raised RuntimeError: no kernel for this"),
]
CONFIG_BUGS = [
    (SaysTooManyParameters, "parameters", "--sinks: parameters"),
    (SaysTooFewMatrices, "parameters", "weights of matrices"),
    (SaysTooFewMatrices, "flops", "projections in"),
    (SaysOnePairTooMany, "pairs", "pairs() says"),
    (SaysFewerDensePairs, "pairs", "fewer than pairs()"),
    (ShowsTheFuture, "pairs", "pairs() says 3"),
    (ShowsTheFuture, "causality_by_gradient", "output 0 has a gradient to input 1"),
    (TensorsOnly, "pairs", "to numbers or arrays than to tensors"),
    (ForgetsToRefuse, "switches", "yet check() accepts it"),
    (ChargesTheSquare, "flops", "attention in flops"),
    (SaysHalfTheCache, "cache_bytes", "stated"),
    (ForgetsTheRing, "cache_bytes", "stated"),
]


def name(value):
    return value.__name__ if isinstance(value, type) else value if value in check_names() else ""


@pytest.mark.parametrize(("module", "check", "phrase"), MODULE_BUGS, ids=name)
def test_a_bug_in_a_module_is_caught(register, caught, module, check, phrase):
    caught(register(Window, module), check, phrase)


@pytest.mark.parametrize(("config", "check", "phrase"), CONFIG_BUGS, ids=name)
def test_a_bug_in_settings_is_caught(register, caught, config, check, phrase):
    caught(register(config, GroupedAttention), check, phrase)


def test_heads_that_do_not_follow_their_own_masks_are_caught(register, caught):
    caught(register(HeadWindows, AllHeadsSeeTheFarthest), "visibility", "features that follow the mask of head 0")


def test_a_switch_that_is_dropped_where_it_counts_is_caught_by_several_checks(register):
    class DropsSwitches(GroupedAttention):
        def __init__(self, config, shape, layer=0):
            super().__init__(config, shape, layer)
            self.extra = Switches(Shape(shape.n_embd, shape.n_head, 64), shape.head_dim, shape.head_dim)

    found = failures(register(Window, DropsSwitches), only=["switches", "parameters", "flops"])
    assert [line.split(": ")[1] for line in found] == ["parameters", "switches", "flops"]
