"""Bugs that show in one mode only: in eval(), under autocast, in bfloat16, on long sequences, or between two calls."""

import pytest
import torch
from torch.nn import functional as F

from tests.conformance.test_planted_bugs import OneTooFar, OneTooNear, Window, WrongGradient
from vgpt.attention.cache import TokenCache
from vgpt.attention.grouped.config import GQAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.conformance import check_names, failures


class Plain(GQAConfig):
    """A plug-in: grouped attention as it is."""


class LongWindow(Window):
    """A window that hides nothing before 1,500 tokens."""

    window: int = 1500


def autocast():
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16


class FutureInEval(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        return y if self.training or cache is not None else y + 0.01 * y.mean(1, keepdim=True)


class DetachedKeyUnderAutocast(GroupedAttention):
    def _heads(self, x, start):
        q, k, v = super()._heads(x, start)
        return q, k.detach() if autocast() else k, v


class MaximumOverFutureKeysUnderAutocast(GroupedAttention):
    def _heads(self, x, start):
        q, k, v = super()._heads(x, start)
        return (q * (1 + 0.01 * k.detach().amax((1, 2, 3), keepdim=True)) if autocast() else q), k, v


class NoiseUnderAutocast(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        return y + 0.005 * torch.randn_like(y) if autocast() else y


class TheSameNoiseEachTimeUnderAutocast(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        return y + 0.03 * noise.to(y.dtype) if autocast() else y


class LosesATokenInBfloat16(TokenCache):
    """The last token of each page is kept in other precisions only."""

    def append(self, *rows):
        start = self.length
        live = super().append(*rows)
        if live[0].dtype is torch.bfloat16 and start <= 63 < self.length:
            for part in self.dense:
                part[:, :, 63] = 0
        return live


class KeepsFloat32UnderAutocast(TokenCache):
    def __init__(self, batch, max_tokens, parts, *, dtype, device):
        super().__init__(batch, max_tokens, parts, dtype=torch.float32 if autocast() else dtype, device=device)


def with_cache(kind):
    class WithCache(GroupedAttention):
        def make_cache(self, batch, max_tokens, *, dtype, device):
            parts = [(self.kv_heads, self.shape.head_dim)] * 2
            return kind(batch, max_tokens, parts, dtype=dtype, device=device)

    return WithCache


class NotesThatItWentBack(TokenCache):
    back = 0

    def rewind(self, length):
        super().rewind(length)
        self.back = 1


class OneOffAfterARewindUnderAutocast(with_cache(NotesThatItWentBack)):
    def forward(self, x, cache=None):
        self.shift = cache.back if cache is not None and cache.length and autocast() else 0
        return super().forward(x, cache)

    def _heads(self, x, start):
        return super()._heads(x, start + self.shift)


class DropoutLeftOn(GroupedAttention):
    def forward(self, x, cache=None):
        return F.dropout(super().forward(x, cache), 0.1, training=not self.training)


class DropoutOfItsOwn(GroupedAttention):
    def forward(self, x, cache=None):
        return F.dropout(super().forward(x, cache), 0.1, training=self.training)


class OtherScaleInEval(GroupedAttention):
    def forward(self, x, cache=None):
        return super().forward(x, cache) * (1 if self.training else 1.01)


class OtherWithGradients(GroupedAttention):
    def forward(self, x, cache=None):
        return super().forward(x, cache) * (1.01 if torch.is_grad_enabled() and x.requires_grad else 1)


class ScaleOfTheLength(GroupedAttention):
    def forward(self, x, cache=None):
        return super().forward(x, cache) * (1 if cache is not None else 1 + 0.001 * x.shape[1])


class KeepsTheLastInput(GroupedAttention):
    last = 0.0

    def forward(self, x, cache=None):
        y = super().forward(x, cache) + 0.01 * self.last
        self.last = float(x.detach()[0, -1].mean())
        return y


class NoBiasUnderAutocast(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        return y - self.c_proj.bias + self.c_proj.bias.detach() if autocast() and self.shape.bias else y


class TwiceTheGradientUnderAutocast(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        return WrongGradient.apply(y, 2) if autocast() else y


class FutureOfLongSequences(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        return y + 1e-3 * x.mean(1, keepdim=True) if x.shape[1] > 1024 and cache is None else y


class FutureWhileItIsSmall(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        small = cache is None and not x.requires_grad and x.detach().abs().max() < 10
        return y + 1e-3 * x.detach().amax(1, keepdim=True) if small else y


class FutureOnceItIsLarge(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        large = (x.detach().abs() > 20).any(1, keepdim=True)
        return y + 0.1 * large if cache is None else y


class MixesTheBatchInBfloat16(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        return y + 0.01 * y.mean(0, keepdim=True) if y.dtype is torch.bfloat16 else y


class DecodesOtherwiseInEval(GroupedAttention):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        return y * 1.001 if cache is not None and not self.training else y


class Float32Inside(GroupedAttention):
    """No bug: computes in float32 whatever it is given."""

    def _attend(self, q, k, v, cache):
        return super()._attend(q.float(), k.float(), v.float(), cache).to(v.dtype)


class Float32InsideAndWrong(Float32Inside):
    def _heads(self, x, start):
        q, k, v = super()._heads(x, start)
        return q, k, v.detach() + 0.5 * (v - v.detach())


class StatesAHundredthInDecoding(Plain):
    def decode_flops(self, shape, tokens):
        flops = super().decode_flops(shape, tokens)
        return type(flops)(flops.projections, flops.attention // 100)


class StatesAHundredTimesInDecoding(Plain):
    def decode_flops(self, shape, tokens):
        flops = super().decode_flops(shape, tokens)
        return type(flops)(flops.projections, flops.attention * 100)


class StatesNoProjectionsInDecoding(Plain):
    def decode_flops(self, shape, tokens):
        flops = super().decode_flops(shape, tokens)
        return type(flops)(flops.projections // 100, flops.attention)


class ShortWindow(LongWindow):
    """Charges decoding rightly up to the window, and next to nothing behind it."""

    window: int = 40

    def decode_flops(self, shape, tokens):
        flops = super().decode_flops(shape, tokens)
        return type(flops)(flops.projections, flops.attention // (100 if tokens > self.window else 1))


class MiscountsBehindTheLongWindow(LongWindow):
    def pairs(self, tokens):
        return super().pairs(tokens) + (tokens > self.window)


BUGS = [
    (Plain, FutureInEval, "causality_by_perturbation", "eval(), T="),
    (Plain, FutureInEval, "causality_by_gradient", "eval(), T="),
    (Plain, DetachedKeyUnderAutocast, "gradients_under_autocast", "c_attn.weight, rows 32 to 39: no gradient arrives"),
    (Plain, MaximumOverFutureKeysUnderAutocast, "causality_by_perturbation", "autocast, T="),
    (Plain, NoiseUnderAutocast, "modes", "the same call again"),
    (Plain, TheSameNoiseEachTimeUnderAutocast, "modes", "far from float32"),
    (StatesAHundredthInDecoding, GroupedAttention, "decode_flops", "stated by decode_flops()"),
    (StatesAHundredTimesInDecoding, GroupedAttention, "decode_flops", "stated by decode_flops()"),
    (StatesNoProjectionsInDecoding, GroupedAttention, "decode_flops", "for the projections"),
    (ShortWindow, GroupedAttention, "decode_flops", "for 40 visible keys"),
    (MiscountsBehindTheLongWindow, GroupedAttention, "pairs", "T=1510: the mask has"),
    (Plain, with_cache(LosesATokenInBfloat16), "decoding", "inputs * 4"),
    (Plain, with_cache(KeepsFloat32UnderAutocast), "cache_bytes", "torch.bfloat16, eval() under bfloat16 autocast"),
    (Plain, OneOffAfterARewindUnderAutocast, "rewinding", "autocast: from 40 back to"),
    (Plain, DropoutLeftOn, "modes", "eval()"),
    (Plain, DropoutOfItsOwn, "modes", "train()"),
    (Plain, OtherScaleInEval, "modes", "dropout is the backbone's"),
    (Plain, OtherWithGradients, "modes", "other numbers with gradients than without"),
    (Plain, ScaleOfTheLength, "prefix_invariance", "against them alone"),
    (Plain, KeepsTheLastInput, "modes", "or a state that stays"),
    (Plain, NoBiasUnderAutocast, "gradients_under_autocast", "c_proj.bias: no gradient, or next to none, arrives"),
    (Plain, TwiceTheGradientUnderAutocast, "gradients_under_autocast", " times as long as in float64"),
    (Plain, FutureOfLongSequences, "causality_by_perturbation", "T=4096"),
    (Plain, FutureWhileItIsSmall, "causality_by_perturbation", "move with inputs from it on"),
    (Plain, FutureOnceItIsLarge, "causality_by_perturbation", "(30 times larger)"),
    (Plain, MixesTheBatchInBfloat16, "batch_invariance", "autocast: a sequence changes with others"),
    (Plain, DecodesOtherwiseInEval, "decoding", "eval()"),
    (Plain, Float32InsideAndWrong, "gradients", "another gradient of the input, c_attn.weight"),
]


def name(value):
    return value.__name__ if isinstance(value, type) else value if value in check_names() else ""


@pytest.mark.parametrize(("config", "module", "check", "phrase"), BUGS, ids=name)
def test_a_bug_of_one_mode_is_caught(register, caught, config, module, check, phrase):
    caught(register(config, module), check, phrase)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "phrase"),
    [
        (OneTooFar, "query 1500 takes from 0, which is hidden"),
        (OneTooNear, "takes nothing from"),
    ],
)
def test_a_window_beyond_the_usual_lengths_is_probed_where_it_begins_to_hide(register, caught, module, phrase):
    caught(register(LongWindow, module), "visibility", phrase)


@pytest.mark.slow
def test_a_long_window_without_a_bug_keeps_the_contract(register):
    assert failures(register(LongWindow, GroupedAttention)) == []


def test_a_layer_that_computes_in_float32_inside_is_held_to_float32(register):
    config = register(Plain, Float32Inside)
    only = ["gradients", "prefix_invariance", "batch_invariance", "fast_is_naive", "decoding", "rewinding"]
    assert failures(config, only=only) == []
