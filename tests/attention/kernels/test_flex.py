"""FlexAttention, fed with the settings' one definition of who sees whom, against the plain formula.

On CPUs its forward pass runs without a compiler, which checks masks and scores; its kernel needs a GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import flex_attention

from vgpt.attention.grammar import resolve_attention
from vgpt.attention.grouped.config import GQAConfig
from vgpt.attention.grouped.module import GroupedAttention
from vgpt.attention.kernels import flex
from vgpt.attention.kernels.backends import naive
from vgpt.attention.kernels.block_masks import window_mask
from vgpt.attention.kernels.flex import can_flex, causal_mask, flex_attend, kept, visible_mask
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes
from vgpt.attention.sparse.block_mask import sparse_mask

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


CPU = torch.device("cpu")


class Staggered(GQAConfig):
    """A window that differs by layer."""

    def visible(self, q, k, layer=0, head=0):
        return (k <= q) & (q - k < 3 + layer)


class Stubborn(GQAConfig):
    """A mask that asks for values, which a kernel has none of."""

    def visible(self, q, k, layer=0, head=0):
        return (k <= q) if int(torch.as_tensor(q).max()) >= 0 else None


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Let this machine's device pass for one with the kernel, whose place the uncompiled form takes."""
    monkeypatch.setattr(flex, "has_kernel", lambda device: True)
    monkeypatch.setattr(flex, "_compiled", lambda long: flex.flex_attention)


def mask_of(config, T: int, heads: int, layer: int = 0) -> torch.Tensor:
    q = torch.arange(T)
    return torch.stack([config.visible(q[:, None], q[None], layer, head) for head in range(heads)])


def qkv(noise, T: int, G: int = 4, **options):
    return [noise(2, heads, T, 16, seed=i, **options) for i, heads in enumerate((4, G, G))]


@pytest.mark.parametrize("extra", ["plain", "sinks", "slopes", "both"])
@pytest.mark.parametrize("T", [1, 7, 150])
@pytest.mark.parametrize("G", [1, pytest.param(2, marks=pytest.mark.slow), 4])
def test_it_computes_the_formula_over_the_visible_keys(noise, extra, T, G):
    config, inputs = Staggered(), qkv(noise, T, G)
    more = {"scale": 0.3}
    if extra in ("sinks", "both"):
        more["sinks"] = noise(4, seed=7)
    if extra in ("slopes", "both"):
        more["slopes"] = alibi_slopes(4)
    got = flex_attend(*inputs, visible_mask(config.visible, 2, T, CPU), mods=ScoreMods(**more))
    want = naive(*inputs, mask_of(config, T, 4, layer=2), mods=ScoreMods(**more))
    torch.testing.assert_close(got, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("slopes", [False, True])
def test_gradients_of_queries_keys_values_and_sinks_are_those_of_the_formula(noise, monkeypatch, slopes):
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *parts: None)  # refuses gradients on CPUs
    inputs = [*(x.requires_grad_() for x in qkv(noise, 50, 2)), noise(4, seed=7).requires_grad_()]
    more = {"slopes": alibi_slopes(4)} if slopes else {}
    weight = noise(2, 4, 50, 16, seed=9)
    q, k, v, sinks = inputs
    mods = ScoreMods(sinks=sinks, **more)
    outputs = [
        flex_attend(q, k, v, causal_mask(50, CPU), mods=mods),
        naive(q, k, v, torch.ones(50, 50, dtype=torch.bool).tril(), mods=mods),
    ]
    ours, theirs = (torch.autograd.grad((y * weight).sum(), inputs) for y in outputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-6)


@pytest.mark.parametrize("window", [1, 5, 64, 128, 1000])
def test_the_window_of_local_attention_is_the_same_there(noise, window):
    config, inputs = resolve_attention({"kind": "local", "window_size": window}), qkv(noise, 200)
    got = flex_attend(*inputs, window_mask(window, 200, 128, CPU))
    torch.testing.assert_close(got, naive(*inputs, mask_of(config, 200, 1)), rtol=0, atol=2e-6)


def test_heads_of_sparse_attention_see_their_own_links(noise):
    config, inputs = resolve_attention("sparse:sparse_block_size=4"), qkv(noise, 150)
    got = flex_attend(*inputs, sparse_mask(config, 1, 4, 150, 64, CPU))
    torch.testing.assert_close(got, naive(*inputs, mask_of(config, 150, 4, layer=1)), rtol=0, atol=2e-6)


def test_a_mask_is_made_once_per_pattern_and_length():
    assert causal_mask(50, CPU) is causal_mask(50, CPU)
    assert causal_mask(50, CPU) is not causal_mask(51, CPU)
    assert kept(window_mask, 5, 50, 128, CPU) is kept(window_mask, 5, 50, 128, CPU)
    config = resolve_attention("sparse:sparse_block_size=4")
    one, same, other = (kept(sparse_mask, config, layer, 4, 50, 64, CPU) for layer in (1, 1, 2))
    assert one is same
    assert one is not other


def test_layers_of_a_plug_in_that_see_the_same_share_a_mask():
    class Neighbors(GQAConfig):
        def visible(self, q, k, layer=0, head=0):
            return (k <= q) & (q - k < 2)

    same, unlike = Neighbors(), Staggered()
    assert visible_mask(same.visible, 3, 50, CPU) is visible_mask(same.visible, 0, 50, CPU)
    assert visible_mask(unlike.visible, 3, 50, CPU) is not visible_mask(unlike.visible, 0, 50, CPU)


def test_masks_made_while_sampling_serve_training_afterwards():
    with torch.inference_mode():
        mask = causal_mask(77, CPU)
    assert not mask.kv_indices.is_inference()


def test_small_blocks_come_with_tiles_of_their_size():
    small, large = (window_mask(9, 500, size, CPU) for size in (64, 128))
    told, options = flex._tiled(small, torch.bfloat16)
    assert {value for name, value in options.items() if "BLOCK" in name} == {64}
    assert told.kv_indices is small.kv_indices
    assert flex._tiled(large, torch.bfloat16) == (large, None)


@pytest.mark.parametrize("attn", ["mha", "gqa:n_kv_head=2", "mla", "local:window_size=9", "sparse:sparse_block_size=4"])
@pytest.mark.parametrize("switches", [{"sinks": True}, {"pos": "alibi"}, {"sinks": True, "pos": "alibi"}])
def test_sinks_and_alibi_of_whole_sequences_are_computed_there_and_prompts_are_not(
    layer, noise, on_a_gpu, monkeypatch, attn, switches
):
    module, x = layer(attn, n_embd=64, **switches), noise(2, 50, 64)
    taken = []
    monkeypatch.setattr(flex, "flex_attention", spy(taken, flex.flex_attention))
    with torch.no_grad():
        got, short = module(x), module(x[:, :6])
        assert taken == [50, 6]
        cache = module.make_cache(2, 50, dtype=torch.float32, device="cpu")
        decoded = module(x, cache)
        assert taken == [50, 6]
        monkeypatch.setattr(flex, "has_kernel", lambda device: False)
        want = module(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(decoded, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(short, want[:, :6], rtol=0, atol=1e-5)


def test_plain_causal_attention_stays_with_the_faster_kernel(layer, on_a_gpu):
    for attn in ("mha", "mla", "local:window_size=64", "sparse:sparse_block_size=64"):
        assert layer(attn, n_embd=64).block_mask(50, CPU) is None


def test_the_mask_of_a_plug_in_is_computed_there(layer, noise, on_a_gpu, monkeypatch):
    module = GroupedAttention(Staggered(n_kv_head=4), layer("mha", n_embd=64).shape, 2)
    module.load_state_dict(layer("mha", n_embd=64).state_dict())
    taken, x = [], noise(2, 50, 64)
    monkeypatch.setattr(flex, "flex_attention", spy(taken, flex.flex_attention))
    with torch.no_grad():
        got = module(x)
        monkeypatch.setattr(flex, "has_kernel", lambda device: False)
        want = module(x)
    assert taken == [50]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_a_mask_that_no_kernel_can_compute_stays_dense_and_says_so(layer, noise, on_a_gpu):
    module = GroupedAttention(Stubborn(n_kv_head=4), layer("mha", n_embd=64).shape)
    module.load_state_dict(layer("mha", n_embd=64).state_dict())
    x = noise(2, 50, 64)
    with torch.no_grad(), pytest.warns(UserWarning, match=r"Stubborn.visible takes no part in a fused kernel"):
        got = module(x)
    with torch.no_grad():
        torch.testing.assert_close(got, layer("mha", n_embd=64)(x), rtol=0, atol=1e-5)


def test_a_layer_takes_what_was_prepared_for_that_length_and_makes_the_rest(layer, on_a_gpu, noise):
    module = layer("local:window_size=9", n_embd=64)
    module.prepare(50, CPU)
    q, k = noise(1, 4, 50, 16), noise(1, 4, 20, 16)
    assert module.mask_for(q, q, q) is module._prepared
    assert module.mask_for(k, k, k).seq_lengths == (20, 20)


def spy(taken, function):
    def called(q, *arguments, **options):
        taken.append(q.shape[2])
        return function(q, *arguments, **options)

    return called


def test_a_compiler_sees_through_it(noise):
    config, inputs = Staggered(), qkv(noise, 150)
    sinks, slopes = noise(4, seed=7), alibi_slopes(4)
    mask = visible_mask(config.visible, 0, 150, CPU)

    def attention(q, k, v):
        return flex_attend(q, k, v, mask, mods=ScoreMods(sinks=sinks, slopes=slopes))

    got = torch.compile(attention, fullgraph=True, backend="eager")(*inputs)
    torch.testing.assert_close(got, attention(*inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("attn", ["local:window_size=9", "sparse:sparse_block_size=4"])
def test_a_layer_that_nothing_was_prepared_for_compiles_in_one_piece_too(layer, noise, on_a_gpu, attn):
    module, x = layer(attn, n_embd=64), noise(2, 50, 64)
    with torch.no_grad():
        got = torch.compile(module, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(got, module(x), rtol=0, atol=1e-5)


def test_cpus_and_heads_too_narrow_for_the_kernel_are_not_served():
    assert not can_flex(torch.zeros(1, 1, 1, 64))
    with FakeTensorMode():
        for width, served in ((8, False), (15, False), (16, True), (64, True)):
            assert can_flex(torch.empty(1, 1, 1, width, device="cuda")) is served
        assert not can_flex(torch.empty(1, 1, 1, 64, device="cuda", dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extra", ["plain", "sinks", "slopes", "both"])
@pytest.mark.parametrize("window", [5, 128, 200])
@pytest.mark.parametrize("block_size", [64, 128])
def test_the_kernel_equals_the_formula_with_its_gradients(noise, dtype, extra, window, block_size):
    config = resolve_attention({"kind": "local", "window_size": window})
    mask = window_mask(window, 500, block_size, torch.device("cuda", 0))
    inputs = [x.to("cuda", dtype).requires_grad_() for x in qkv(noise, 500)]
    more = {}
    if extra in ("sinks", "both"):
        more["sinks"] = noise(4, seed=7).cuda().requires_grad_()
    if extra in ("slopes", "both"):
        more["slopes"] = alibi_slopes(4, "cuda")
    weight = noise(2, 4, 500, 16, seed=9).cuda()
    got = flex_attend(*inputs, mask, mods=ScoreMods(**more))
    exact = [x.detach().double().requires_grad_() for x in inputs]
    want = naive(*exact, mask_of(config, 500, 1).cuda(), mods=ScoreMods(**more))
    tolerance = 3e-2 if dtype is torch.bfloat16 else 1e-2  # float32 products may be TF32
    torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance)
    learned = [more["sinks"]] if "sinks" in more else []
    ours = torch.autograd.grad((got * weight).sum(), [*inputs, *learned])
    theirs = torch.autograd.grad((want * weight).sum(), [*exact, *learned])
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b).norm() < 2e-2 * b.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize(
    ("size", "width", "dtype"), [(16, 16, torch.bfloat16), (64, 64, torch.bfloat16), (64, 64, None)]
)
def test_the_kernel_sees_the_links_of_each_head(noise, block_size, size, width, dtype):
    config = resolve_attention({"kind": "sparse", "sparse_block_size": size})
    device, T = torch.device("cuda", 0), 1000
    inputs = [noise(2, 4, T, width, seed=i).to("cuda", dtype or torch.float32).requires_grad_() for i in range(3)]
    got = flex_attend(*inputs, sparse_mask(config, 1, 4, T, block_size, device))
    exact = [x.detach().double().requires_grad_() for x in inputs]
    want = naive(*exact, mask_of(config, T, 4, layer=1).cuda())
    torch.testing.assert_close(got.double(), want, rtol=0, atol=3e-2)
    weight = noise(2, 4, T, width, seed=9).cuda()
    ours, theirs = torch.autograd.grad((got * weight).sum(), inputs), torch.autograd.grad((want * weight).sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b).norm() < 2e-2 * b.norm()


@pytest.mark.gpu
def test_the_kernel_computes_the_mask_of_a_plug_in(noise):
    config, device = Staggered(), torch.device("cuda", 0)
    inputs = [x.to("cuda", torch.bfloat16) for x in qkv(noise, 300)]
    mask = visible_mask(config.visible, 2, 300, device)
    want = naive(*(x.double() for x in inputs), mask_of(config, 300, 4, layer=2).cuda())
    torch.testing.assert_close(flex_attend(*inputs, mask).double(), want, rtol=0, atol=3e-2)
