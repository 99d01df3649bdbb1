"""The conformance kit passes healthy variants and catches planted bugs by the check that is meant for them."""

import pytest
import torch
from torch import nn

from vgpt.attention.cache import TokenCache
from vgpt.attention.config import AttentionConfig, CacheCost, Flops, Shape
from vgpt.attention.conformance import check_names, check_variant, failures
from vgpt.attention.conformance.kit import distinct_layers, spelled
from vgpt.attention.conformance.memory import bytes_reached
from vgpt.attention.grouped.config import GQAConfig, MHAConfig, MQAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.switches import Switches
from vgpt.errors import SettingsError, UsageError, VgptError


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


@pytest.mark.parametrize("attn", ["mha", "mqa", "gqa", "gqa:n_kv_head=3"])
def test_every_built_in_variant_keeps_the_contract(attn):
    assert failures(attn) == []


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
        import numpy as np

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
        self.extra.alibi = False


class OtherScaleWhenFused(GroupedAttention):
    def forward(self, x, cache=None):
        return super().forward(x if self.shape.flash else 1.0001 * x, cache)


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 1.001 * grad


class DifferentiatesWrongly(GroupedAttention):
    def forward(self, x, cache=None):
        return WrongGradient.apply(super().forward(x, cache))


class DividesByItsInput(GroupedAttention):
    def forward(self, x, cache=None):
        return super().forward(x / x.norm(dim=-1, keepdim=True), cache)


class ComputesTheSquareTwice(GroupedAttention):
    def forward(self, x, cache=None):
        if not self.shape.flash and cache is None:
            (x @ x.mT).sum()
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
    (RandomAtConstruction, "state_dict", "trunk"),
    (DrawsFromNumpy, "construction", "draws from the random state of NumPy"),
    (IdleParameter, "construction", "no gradient reaches idle_bias"),
    (OtherNameForTheProjection, "construction", "no `c_proj`"),
    (IgnoresTheNorm, "switches", "--qk-norm True is accepted, yet changes nothing"),
    (IgnoresAlibi, "switches", "--pos alibi is accepted, yet changes nothing"),
    (OtherScaleWhenFused, "fast_is_naive", "float64, T="),
    (DifferentiatesWrongly, "gradients", "T=4: Jacobian mismatch"),
    (DividesByItsInput, "finite_at_extremes", "zero inputs"),
    (ComputesTheSquareTwice, "flops", "FLOPs per pair of tokens"),
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
    (ChargesTheSquare, "flops", "mixing in flops"),
    (SaysHalfTheCache, "cache_bytes", "stated"),
    (ForgetsTheRing, "cache_bytes", "stated"),
]


def name(value):
    return value.__name__ if isinstance(value, type) else value if value in check_names() else ""


def assert_caught(config, check, phrase):
    found = failures(config, only=[check])
    assert len(found) == 1, "not caught"
    assert f": {check}: " in found[0]
    assert phrase in found[0]


@pytest.mark.parametrize(("module", "check", "phrase"), MODULE_BUGS, ids=name)
def test_a_bug_in_a_module_is_caught(register, module, check, phrase):
    assert_caught(register(Window, module), check, phrase)


@pytest.mark.parametrize(("config", "check", "phrase"), CONFIG_BUGS, ids=name)
def test_a_bug_in_settings_is_caught(register, config, check, phrase):
    assert_caught(register(config, GroupedAttention), check, phrase)


def test_heads_that_do_not_follow_their_own_masks_are_caught(register):
    assert_caught(
        register(HeadWindows, AllHeadsSeeTheFarthest), "visibility", "features that follow the mask of head 0"
    )


def test_a_switch_that_is_dropped_where_it_counts_is_caught_by_several_checks(register):
    class DropsSwitches(GroupedAttention):
        def __init__(self, config, shape, layer=0):
            super().__init__(config, shape, layer)
            self.extra = Switches(Shape(shape.n_embd, shape.n_head, 64), shape.head_dim, shape.head_dim)

    found = failures(register(Window, DropsSwitches), only=["switches", "parameters", "flops"])
    assert [line.split(": ")[1] for line in found] == ["parameters", "switches", "flops"]


# --- A variant without a softmax: sums over the past, with a state instead of rows.


class RunningConfig(AttentionConfig):
    """A plug-in: normalised linear attention with elu(x) + 1, a chunk at a time."""

    chunk: int = 64

    def matmul_params(self, shape):
        return 4 * shape.n_embd**2

    def params(self, shape):
        return self.matmul_params(shape) + shape.bias * 4 * shape.n_embd

    def flops(self, shape, tokens):
        state = 4 * tokens * shape.n_embd * (shape.head_dim + 1)
        return Flops(2 * tokens * self.matmul_params(shape), state)

    def dense_flops(self, shape, tokens):
        inside = 4 * tokens * self.chunk * shape.n_embd
        exact = self.flops(shape, tokens)
        return Flops(exact.projections, exact.mixing + inside)

    def cache_cost(self, shape):
        return CacheCost(fixed=shape.n_embd * (shape.head_dim + 1), state_bytes=4)


class RunningCache(TokenCache):
    """A sum of key-value products and one of keys; `parts` are not needed."""

    def __init__(self, batch, heads, width, dtype, device):
        self.state = torch.zeros(batch, heads, width, width + 1, dtype=dtype, device=device)

    def stored(self):
        return [self.state]

    buffers = stored

    def rewind(self, length):
        if length not in (0, self.length):
            raise VgptError("the sums cannot be undone")
        if length == 0:
            self.state.zero_()
        self.length = length


class Running(GroupedAttention):
    """The healthy one: the sums are kept in float32."""

    def wide(self, dtype):
        return torch.promote_types(dtype, torch.float32)

    def __init__(self, config, shape, layer=0):
        nn.Module.__init__(self)
        self.config, self.shape, self.layer = config, shape, layer
        self.c_attn = nn.Linear(shape.n_embd, 3 * shape.n_embd, bias=shape.bias)
        self.c_proj = nn.Linear(shape.n_embd, shape.n_embd, bias=shape.bias)

    def forward(self, x, cache=None):
        heads = self.c_attn(x).unflatten(-1, (3, self.shape.n_head, -1)).transpose(1, 3)  # (B, H, 3, T, D)
        wide = self.wide(heads.dtype)
        q, k, v = heads.to(wide).unbind(2)
        q, k = (torch.where(part > 0, part + 1, part.clamp(max=0).exp()) for part in (q, k))
        v = torch.cat((v, torch.ones_like(v[..., :1])), -1)
        state = 0 if cache is None else cache.state.to(wide)
        rows = []
        with torch.autocast(x.device.type, enabled=False):
            for a, b, c in zip(*(part.split(self.config.chunk, 2) for part in (q, k, v)), strict=True):
                state = state if isinstance(state, torch.Tensor) else a.new_zeros(*a.shape[:2], a.shape[3], c.shape[3])
                rows.append((a @ b.mT).tril() @ c + a @ state)
                state = state + b.mT @ c
        if cache is not None:
            cache.state.copy_(state)
            cache.length += x.shape[1]
        y = torch.cat(rows, 2)
        y = (y[..., :-1] / y[..., -1:]).transpose(1, 2).flatten(2)
        return self.c_proj(y.to(x.dtype))

    def make_cache(self, batch, max_tokens, *, dtype, device):
        return RunningCache(batch, self.shape.n_head, self.shape.head_dim, torch.float32, device)


class SumsInTheInputsPrecision(Running):
    """float16 overflows at a few hundred tokens, without a not-a-number; bfloat16 loses its digits."""

    def wide(self, dtype):
        return dtype


class DropsTheStateOfAPrefill(Running):
    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        if cache is not None and x.shape[1] > self.config.chunk:
            cache.state.zero_()
        return y


class SaysAnotherPrecision(RunningConfig):
    def cache_cost(self, shape):
        return CacheCost(fixed=shape.n_embd * (shape.head_dim + 1))


class SaysASquareOfFlops(RunningConfig):
    def flops(self, shape, tokens):
        return Flops(2 * tokens * self.matmul_params(shape), 4 * tokens**2 * 4 * shape.n_embd)


def test_a_plug_in_without_a_softmax_keeps_the_contract(register):
    assert failures(register(RunningConfig, Running)) == []


@pytest.mark.parametrize(
    ("config", "module", "check", "phrase"),
    [
        (RunningConfig, SumsInTheInputsPrecision, "low_precision", "float16"),
        (RunningConfig, DropsTheStateOfAPrefill, "decoding", "after a prefill"),
        (SaysAnotherPrecision, Running, "cache_bytes", "bfloat16"),
        (SaysASquareOfFlops, Running, "flops", "FLOPs of mixing counted"),
    ],
    ids=name,
)
def test_a_bug_in_a_variant_without_a_softmax_is_caught(register, config, module, check, phrase):
    assert_caught(register(config, module), check, phrase)


# --- The kit itself.


class Mix(AttentionConfig):
    """Two variants in turn."""

    @staticmethod
    def of(layer):
        return MQAConfig() if layer % 3 == 2 else GQAConfig(n_kv_head=4)

    def at(self, layer):
        return self.of(layer)


def test_each_distinct_layer_of_a_mix_is_checked_once_and_the_model_as_a_whole(register):
    mix = register(Mix, GroupedAttention, kind="mix")
    assert distinct_layers(mix) == [(0, GQAConfig(n_kv_head=4)), (2, MQAConfig())]
    results = check_variant(mix, only=["pairs", "in_a_model"])
    assert [(r.subject, r.check, r.passed) for r in results] == [
        ("gqa:n_kv_head=4", "pairs", True),
        ("mqa", "pairs", True),
        ("model", "in_a_model", True),
    ]


def test_trunks_that_depend_on_the_attention_are_caught(monkeypatch):
    def from_one_stream(model, seed):
        stream = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0, 0.02, generator=stream)

    from vgpt.attention.conformance import whole

    monkeypatch.setattr(whole, "initialise", from_one_stream)
    assert_caught("mqa", "same_trunk", "start with other numbers than beside mha")


def test_the_trunk_may_be_given_and_settings_that_do_not_fit_are_refused():
    shape = Shape(48, 3, 80, bias=False, pos="rope")
    assert failures("gqa:n_kv_head=3", shape) == []
    with pytest.raises(SettingsError, match="--n-kv-head 2 must divide --n-head 3"):
        check_variant("gqa:n_kv_head=2", shape)
    with pytest.raises(SettingsError, match="--n-kv-head 13 must divide --n-head 4"):
        check_variant("gqa:n_kv_head=13")


def test_unknown_checks_are_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="unknown check 'causality'"):
        check_variant("mha", only=["causality"])


def test_settings_are_spelled_as_on_the_command_line():
    assert spelled(GQAConfig(n_kv_head=4)) == "gqa:n_kv_head=4"
    assert spelled(MHAConfig()) == "mha"


def test_progress_is_told_before_each_check():
    told = []
    check_variant("mha", only=["pairs", "same-trunk"], progress=lambda *where: told.append(where))
    assert told == [("mha", "pairs"), ("model", "same_trunk")]


def test_memory_is_found_wherever_it_hangs_and_views_count_once():
    class Holder:
        __slots__ = ("kept",)

        def __init__(self, kept):
            self.kept = kept

    base = torch.zeros(10, 10)
    layer = nn.Linear(3, 3)
    root = {"a": [base[:2], (base.view(-1), Holder(torch.zeros(7)))], "b": layer.weight, "c": Holder(None)}
    root["self"] = root
    assert bytes_reached(root) == 400 + 28 + 36
    assert bytes_reached(root, outside=layer) == 400 + 28
