"""Block-sparse attention against a mask drawn block by block, its links, its caches, and published costs."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from vgpt.attention.kernels.flex import flex_attend
from vgpt.attention.kernels.gather import block_sparse_attention
from vgpt.attention.kernels.reference import attention_by_loop
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes
from vgpt.attention.sparse.block_mask import sparse_mask
from vgpt.attention.sparse.config import SparseConfig
from vgpt.attention.sparse.rows import row_links
from vgpt.errors import VgptError
from vgpt.model import costs
from vgpt.model.config import GPT2Config

MODES = ["row", "column"]
TINY = "sparse:sparse_block_size=4,global_blocks=1,window_blocks=2,random_blocks=2"


def tiny(mode: str = "row", **changes) -> SparseConfig:
    sizes = {"sparse_block_size": 4, "global_blocks": 1, "window_blocks": 2, "random_blocks": 2}
    return SparseConfig(random_mode=mode, **{**sizes, **changes})


def drawn(config: SparseConfig, T: int, heads: int, layer: int = 0) -> torch.Tensor:
    """Who sees whom, (H, T, T), put together from the definition and the links of each row."""
    size, g, w = config.sparse_block_size, config.global_blocks, config.window_blocks
    mask = torch.zeros(heads, T, T, dtype=torch.bool)
    for head in range(heads):
        for t in range(T):
            row = t // size
            seen = set(range(g)) | set(range(row - w + 1, row + 1))
            far = set(range(g, row - w + 1))
            seen |= far if len(far) <= config.random_blocks else {int(x) for x in config.links(row, layer, head)}
            for block in seen:
                if block >= 0:
                    mask[head, t, block * size : (block + 1) * size] = True
    return mask & torch.ones(T, T, dtype=torch.bool).tril()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "changes", [{}, {"global_blocks": 0}, {"random_blocks": 0}, {"window_blocks": 1, "random_blocks": 3}]
)
def test_the_mask_is_prefix_window_and_links(mode, changes):
    config = tiny(mode, **changes)
    T, heads = 61, 3
    q, k = torch.arange(T)[:, None], torch.arange(T)
    seen = config.visible(q, k, 2, torch.arange(heads).view(-1, 1, 1)).expand(heads, T, T)
    want = drawn(config, T, heads, 2)
    assert torch.equal(seen, want)
    assert all(int(head.sum()) == config.pairs(T) for head in want)
    for n in (1, 7, 30):
        assert int(want[0, :n, :n].sum()) == config.pairs(n)
    numbers = config.visible(q.numpy(), k.numpy(), 2, np.arange(heads).reshape(-1, 1, 1))
    assert (numbers == want.numpy()).all()
    assert all(config.visible(t, s, 2, 1) == bool(want[1, t, s]) for t in range(0, T, 7) for s in range(T))


@pytest.mark.parametrize("mode", MODES)
def test_links_are_distinct_far_blocks_that_differ_by_row_head_and_layer(mode):
    config = tiny(mode, random_blocks=3)
    seen = set()
    for layer in range(3):
        for head in range(4):
            for row in range(config.seen_blocks, 60):
                links = [int(link) for link in config.links(row, layer, head)]
                assert len(set(links)) == 3
                assert all(config.global_blocks <= link <= row - config.window_blocks for link in links)
            seen.add(tuple(links))
    assert len(seen) > 6


def test_links_are_the_same_in_every_process():
    code = (
        "from vgpt.attention.sparse.config import SparseConfig as C; print([C().links(r, 1, 2) for r in range(9, 40)])"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    assert texts.pop().strip() == str([SparseConfig().links(row, 1, 2) for row in range(9, 40)])


def test_fresh_links_are_spread_evenly():
    config = SparseConfig(global_blocks=0, window_blocks=1, random_blocks=2)
    counts = torch.zeros(20)
    for head in range(3000):
        for link in config.links(20, 0, head):
            counts[int(link)] += 1
    assert (counts / 3000 - 0.1).abs().max() < 0.03


@pytest.mark.parametrize("T", [1, 9, 20, 21, 47, 64, 101])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extra", [False, True])
def test_the_gathered_products_equal_the_loop_with_gradients(noise, T, mode, extra):
    config = tiny(mode)
    inputs = [noise(2, 3, T, 8, dtype=torch.float64, seed=i).requires_grad_() for i in range(3)]
    more = {"sinks": noise(3, dtype=torch.float64, seed=5).requires_grad_(), "slopes": alibi_slopes(3).double()}
    more = more if extra else {}
    links = row_links(config, 0, 3, max(5, -(-T // 4)), torch.device("cpu"))
    got = block_sparse_attention(*inputs, links, 4, mods=ScoreMods(0.3, **more))
    want = attention_by_loop(*inputs, drawn(config, T, 3), ScoreMods(0.3, **more))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    weight = noise(2, 3, T, 8, dtype=torch.float64, seed=9)
    sources = [*inputs, *([more["sinks"]] if extra else [])]
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), sources) for y in (got, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_enough_blocks_are_multi_head_attention(layer, noise):
    x = noise(2, 60, 32)
    torch.testing.assert_close(layer("sparse")(x), layer("mha")(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pos", ["rope", "alibi"])
@pytest.mark.parametrize("lengths", [[70], [1] * 70, [33, 1, 1, 1, 34], [3, 50, 17]])
def test_the_cache_continues_any_prefill(layer, noise, mode, pos, lengths):
    module = layer(f"{TINY},random_mode={mode}", pos=pos, sinks=True)
    x = noise(2, 70, 32)
    cache = module.make_cache(2, 70, dtype=torch.float32, device="cpu")
    cost = module.config.cache_cost(module.shape)
    parts = []
    for piece in x.split(lengths, 1):
        parts.append(module(piece, cache))
        assert cache.nbytes == 2 * cost.nbytes(cache.length, 4)
    torch.testing.assert_close(torch.cat(parts, 1), module(x), rtol=0, atol=1e-5)


def test_columns_bound_what_is_kept_and_rows_what_is_read(layer):
    row, column = (layer(f"{TINY},random_mode={mode}") for mode in MODES)
    shape = row.shape
    assert row.config.cache_cost(shape).nbytes(10_000, 2) == 10_000 * 64 * 2
    assert row.config.cache_cost(shape).read_nbytes(10_000, 2) == 20 * 64 * 2
    assert column.config.cache_cost(shape).nbytes(10_000, 2) == 20 * 64 * 2
    assert column.make_cache(1, 10_000, dtype=torch.bfloat16, device="cpu").reserved == 20 * 64 * 2


def test_columns_go_back_only_before_the_first_is_given_up(layer, noise):
    module = layer(f"{TINY},random_mode=column")
    x = noise(1, 40, 32)
    cache = module.make_cache(1, 40, dtype=torch.float32, device="cpu")
    module(x[:, :18], cache)
    cache.rewind(10)
    torch.testing.assert_close(module(x[:, 10:], cache), module(x)[:, 10:], rtol=0, atol=1e-5)
    with pytest.raises(VgptError, match="given up"):
        cache.rewind(30)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_what_is_seen_and_nothing_else(layer, noise, mode):
    module = layer(f"{TINY},random_mode={mode}")
    x = noise(1, 60, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 50].sum(), x)
    want = drawn(module.config, 60, 4)[:, 50].any(0)
    assert torch.equal((gradient[0] != 0).any(-1), want)


def test_bfloat16_stays_near_float64(noise):
    config = tiny()
    inputs = [noise(1, 2, 200, 16, dtype=torch.float64, seed=i) for i in range(3)]
    links = row_links(config, 0, 2, 50, torch.device("cpu"))
    got = block_sparse_attention(*(x.bfloat16() for x in inputs), links, 4)
    assert (got.double() - attention_by_loop(*inputs, drawn(config, 200, 2))).abs().max() < 0.04


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("mode", MODES)
def test_the_mask_for_fused_kernels_has_the_same_links(noise, mode):
    config = tiny(mode)
    q, k, v = (noise(1, 2, 64, 8, seed=i) for i in range(3))
    got = flex_attend(q, k, v, sparse_mask(config, 0, 2, 64, 16, torch.device("cpu")))
    torch.testing.assert_close(got, attention_by_loop(q, k, v, drawn(config, 64, 2)), rtol=0, atol=1e-5)


def test_gpt2_small_costs_what_the_literature_says():
    config = GPT2Config(vocab_size=50_257, n_layer=12, n_head=12, n_embd=768, block_size=1024, attn="sparse")
    assert costs.count_parameters(config).total == 124_439_808
    assert config.attn.flops(config.shape, 1024).attention == 1_021_440 * 1024
    assert config.attn.dense_flops(config.shape, 1024).attention == 1_376_256 * 1024
    assert round(costs.train_flops_per_token(config) / 1e9, 4) == 0.7780
    assert costs.cache_bytes(config, 1024) == 36_864 * 1024
