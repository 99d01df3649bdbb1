"""Block-sparse layers: every way to compute them agrees, with every switch, and so do their caches at odd sizes."""

import pytest
import torch

from vgpt.attention.kernels import gather
from vgpt.attention.kernels.gather import attend_to_blocks, block_sparse_attention
from vgpt.attention.kernels.reference import attention_by_loop
from vgpt.attention.kernels.scores import ScoreMods
from vgpt.attention.sparse.config import SparseConfig
from vgpt.attention.sparse.rows import row_links
from vgpt.errors import VgptError

MODES = ["row", "column"]
CPU = torch.device("cpu")
SWITCHES = [
    {},
    {"pos": "rope"},
    {"pos": "alibi"},
    {"qk_norm": True},
    {"out_gate": "head"},
    {"out_gate": "elem"},
    {"sinks": True},
    {"pos": "alibi", "sinks": True, "qk_norm": True, "out_gate": "elem"},
]
# block size, globals, window, random blocks: one block only, no prefix, no links, a window of one, blocks of one token
SIZES = [(4, 0, 1, 0), (4, 0, 2, 2), (5, 2, 2, 0), (3, 1, 1, 2), (1, 2, 3, 4), (4, 1, 2, 2)]


def sparse(sizes: tuple[int, ...], mode: str = "row") -> str:
    names = ("sparse_block_size", "global_blocks", "window_blocks", "random_blocks")
    settings = ",".join(f"{name}={size}" for name, size in zip(names, sizes, strict=True))
    return f"sparse:{settings},random_mode={mode}"


@pytest.fixture(params=["tile by tile", "all at once", "as a compiler sees it"])
def way(request, monkeypatch):
    """Each way through the products."""
    if request.param == "tile by tile":
        monkeypatch.setattr(gather, "_AT_A_TIME", 1)
    if request.param == "as a compiler sees it":
        monkeypatch.setattr(gather._Tiles, "apply", gather._attend_plainly)


@pytest.mark.parametrize(
    ("causal", "extra"),
    [
        (True, ()),
        (True, ("sinks",)),
        (True, ("slopes",)),
        (True, ("sinks", "slopes")),
        (False, ()),
        (False, ("sinks",)),
    ],
)
def test_every_way_through_the_tiles_equals_the_loop_with_gradients(noise, way, causal, extra):
    B, H, N, S, size = 2, 3, 9, 4, 4
    settings = SparseConfig(sparse_block_size=size, global_blocks=1, window_blocks=2, random_blocks=1)
    links = row_links(settings, 0, H, N, CPU)
    mask = torch.zeros(H, N - S, size, N, size, dtype=torch.bool)
    for h in range(H):
        for r in range(N - S):
            mask[h, r, :, links[h, r]] = True
    mask = mask.view(H, (N - S) * size, N * size)
    if causal:
        mask &= torch.ones(N * size, N * size, dtype=torch.bool).tril()[S * size :]
    shapes = [((N - S) * size, 5), (N * size, 5), (N * size, 6)]
    inputs = [noise(B, H, T, D, dtype=torch.float64, seed=T + D).requires_grad_() for T, D in shapes]
    more = {name: noise(H, dtype=torch.float64, seed=5).abs() for name in extra}
    if "sinks" in more:
        inputs.append(more["sinks"].requires_grad_())
    got = attend_to_blocks(*inputs[:3], links, causal=causal, mods=ScoreMods(0.3, **more))
    want = attention_by_loop(*inputs[:3], mask, ScoreMods(0.3, **more))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    weight = noise(*got.shape, dtype=torch.float64, seed=9)
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_the_products_pass_gradcheck(noise, way):
    settings = SparseConfig(sparse_block_size=2, global_blocks=1, window_blocks=1, random_blocks=1)
    links = row_links(settings, 0, 2, 6, CPU)
    inputs = [noise(1, 2, 11, 3, dtype=torch.float64, seed=i).requires_grad_() for i in range(3)]
    sinks = noise(2, dtype=torch.float64, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k, v, s: block_sparse_attention(q, k, v, links, 2, mods=ScoreMods(sinks=s)), [*inputs, sinks]
    )


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_tiles_and_the_plain_formula_agree_in_a_layer_with_every_switch(layer, noise, mode, switches):
    fast, slow = (layer(sparse((4, 1, 2, 2), mode), flash=flash, **switches) for flash in (True, False))
    x = noise(2, 46, 32).requires_grad_()
    outputs = [fast(x), slow(x)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    one, other = (
        torch.autograd.grad(y.square().sum(), [x, *module.parameters()])
        for y, module in zip(outputs, (fast, slow), strict=True)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flash", [True, False])
def test_pieces_of_all_sizes_continue_each_other(layer, noise, sizes, mode, flash):
    module = layer(sparse(sizes, mode), pos="alibi", sinks=True, flash=flash)
    x = noise(2, 53, 32)
    cost = module.config.cache_cost(module.shape)
    with torch.no_grad():
        full = module(x)
        for lengths in ([1] * 53, [30, 1, 1, 13, 8], [2, 25, 26]):
            cache = module.make_cache(2, 53, dtype=torch.float32, device="cpu")
            parts = []
            for piece in x.split(lengths, 1):
                parts.append(module(piece, cache))
                assert cache.nbytes == 2 * cost.nbytes(cache.length, 4)
            assert cache.reserved == 2 * cost.nbytes(53, 4)
            torch.testing.assert_close(torch.cat(parts, 1), full, rtol=0, atol=1e-5)


@pytest.mark.parametrize("capacity", [1, 3, 10, 13, 20, 21])
@pytest.mark.parametrize("mode", MODES)
def test_a_cache_may_be_shorter_than_what_a_row_sees_and_says_when_it_is_full(layer, noise, mode, capacity):
    module = layer(sparse((4, 1, 2, 2), mode))
    x = noise(1, capacity + 1, 32)
    cache = module.make_cache(1, capacity, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        steps = [module(x[:, t : t + 1], cache) for t in range(capacity)]
        torch.testing.assert_close(torch.cat(steps, 1), module(x)[:, :capacity], rtol=0, atol=1e-5)
        with pytest.raises(VgptError, match=f"cannot take {capacity + 1}"):
            module(x[:, -1:], cache)
        cache.reset()
        with pytest.raises(VgptError, match=f"cannot take {capacity + 1}"):
            module(x, cache)


@pytest.mark.parametrize("back", [0, 1, 2])
def test_columns_go_back_within_the_newest_block(layer, noise, back):
    module = layer(sparse((4, 1, 2, 2), "column"), pos="alibi")
    x = noise(1, 60, 32)
    cache = module.make_cache(1, 60, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        module(x[:, :30], cache)
        module(noise(1, 12, 32, seed=4), cache)  # to position 42, in the block that starts at 40
        cache.rewind(0)
        module(x[:, :42], cache)
        cache.rewind(42 - back)
        end = module(x[:, 42 - back :], cache)
        torch.testing.assert_close(end, module(x)[:, 42 - back :], rtol=0, atol=1e-5)
        with pytest.raises(VgptError, match="given up"):
            cache.rewind(39)


@pytest.mark.parametrize("length", [19, 20, 21])
def test_columns_go_back_before_and_at_the_first_that_is_given_up(layer, noise, length):
    module = layer(sparse((4, 1, 2, 2), "column"))
    x = noise(1, 50, 32)
    cache = module.make_cache(1, 50, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        for piece in x[:, :length].split(3, 1):
            module(piece, cache)
        cache.rewind(length - 1)
        end = module(x[:, length - 1 :], cache)
    torch.testing.assert_close(end, module(x)[:, length - 1 :], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_bfloat16_cache_serves_a_float32_layer(layer, noise, mode):
    module = layer(sparse((4, 1, 2, 2), mode))
    x = noise(2, 50, 32)
    cache = module.make_cache(2, 50, dtype=torch.bfloat16, device="cpu")
    with torch.no_grad():
        parts = [module(piece, cache) for piece in x.split([30, 1, 1, 18], 1)]
    assert all(part.dtype == torch.float32 for part in parts)
    torch.testing.assert_close(torch.cat(parts, 1), module(x), rtol=0, atol=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_bfloat16_autocast_stays_near_float32_with_its_gradients(layer, noise, mode, switches):
    module = layer(sparse((4, 1, 2, 2), mode), **switches)
    x = noise(2, 60, 32)
    with torch.autocast("cpu", torch.bfloat16):
        low = module(x)
    want = module(x)
    torch.testing.assert_close(low.float(), want, rtol=0, atol=0.05 * float(want.detach().abs().max()))
    gradients = [torch.autograd.grad(y.float().square().mean(), list(module.parameters())) for y in (low, want)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.1 * float(b.abs().max()) + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_scores_give_finite_outputs_and_gradients(noise, way, dtype):
    links = row_links(SparseConfig(sparse_block_size=4), 0, 2, 13, CPU)
    inputs = [(noise(1, 2, 50, 8, seed=i) * (1e4 if i < 2 else 1)).to(dtype).requires_grad_() for i in range(3)]
    y = block_sparse_attention(*inputs, links, 4, mods=ScoreMods(sinks=torch.tensor([0.0, 80.0], dtype=dtype)))
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.float().square().sum(), inputs))


def test_prompts_do_not_take_the_fused_kernel_which_would_be_compiled_for_each_length(layer, noise, monkeypatch):
    from vgpt.attention.kernels import backends, flex

    taken = []

    def attend(q, *_, **_more):
        taken.append(q.shape[2])
        return q

    module = layer(sparse((4, 1, 1, 1), "row"), n_embd=64)
    want = module(noise(2, 30, 64))
    monkeypatch.setattr(flex, "has_kernel", lambda device: True)  # as on a GPU
    monkeypatch.setattr(backends, "flex_attend", attend)
    with torch.no_grad():
        cache = module.make_cache(2, 40, dtype=torch.float32, device="cpu")
        torch.testing.assert_close(module(noise(2, 30, 64), cache), want, rtol=0, atol=1e-5)
    assert not taken
    module(noise(2, 30, 64))
    assert taken == [30]


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("width", [32, 64])  # heads too narrow for FlexAttention, and wide enough
def test_a_gpu_computes_what_the_plain_formula_does(layer, noise, monkeypatch, mode, fused, width):
    from vgpt.attention.kernels import flex

    if not fused:
        monkeypatch.setattr(flex, "has_kernel", lambda device: False)
    shape = {"block_size": 256, "n_embd": width}
    fast, slow = (layer(sparse((16, 1, 2, 2), mode), flash=flash, **shape).cuda() for flash in (True, False))
    x = noise(2, 230, width).cuda().requires_grad_()
    outputs = [fast(x), slow(x)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-3)
    one, other = (torch.autograd.grad(y.square().sum(), x)[0] for y in outputs)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-2)
    cache = fast.make_cache(2, 230, dtype=torch.float32, device="cuda")
    with torch.no_grad():
        parts = torch.cat([fast(piece, cache) for piece in x.split([150, *[1] * 30, 50], 1)], 1)
    torch.testing.assert_close(parts, outputs[1], rtol=0, atol=1e-3)
