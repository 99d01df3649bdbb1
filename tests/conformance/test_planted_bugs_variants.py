"""Bugs planted in the built-in variants: the ones that their own tricks invite."""

import pytest
import torch

from vgpt.attention.latent.config import MLAConfig
from vgpt.attention.latent.module import LatentAttention
from vgpt.attention.linear.config import LinearConfig
from vgpt.attention.linear.module import LinearAttention
from vgpt.attention.local.config import LocalConfig
from vgpt.attention.local.module import LocalAttention
from vgpt.attention.ring import RingCache
from vgpt.attention.sparse.config import SparseConfig
from vgpt.attention.sparse.module import SparseAttention
from vgpt.attention.sparse.rows import row_links
from vgpt.conformance import check_names


class Local(LocalConfig):
    window_size: int = 9


class Sparse(SparseConfig):
    sparse_block_size: int = 8
    random_blocks: int = 2


class Latent(MLAConfig):
    pass


class Linear(LinearConfig):
    pass


class WindowOneWider(LocalAttention):
    """Does not count the query itself."""

    def __init__(self, config, shape, layer=0):
        super().__init__(config, shape, layer)
        self.window += 1


class RingOneShort(LocalAttention):
    def make_cache(self, batch, max_tokens, *, dtype, device):
        parts = [(self.kv_heads, self.shape.head_dim)] * 2
        return RingCache(batch, max_tokens, self.window - 1, parts, dtype=dtype, device=device)


class LinksOfTheLength(SparseAttention):
    def _whole(self, q, k, v):
        kept = self.config
        if self.shape.flash:
            self.config = kept.model_copy(update={"link_seed": q.shape[2] // kept.sparse_block_size})
        try:
            return super()._whole(q, k, v)
        finally:
            self.config = kept


class LinksOfTheFirstHead(SparseAttention):
    def _whole(self, q, k, v):
        def first(*arguments):
            rows = row_links(*arguments)
            return rows[:1].expand_as(rows)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vgpt.attention.sparse.module.row_links", first)
            return super()._whole(q, k, v)


class KeepsTheKeys(LatentAttention):
    """Multi-head latent attention as it is often cached: the expanded keys and values beside the latent."""

    def forward(self, x, cache=None):
        y = super().forward(x, cache)
        if cache is not None:
            cache.expanded = self.kv_b_proj(cache.stored()[0][..., : self.rank].float())
        return y


class ExpandsToDecode(LatentAttention):
    def _absorbs(self, new, total):
        return False


class ForgetsTheDecayInSteps(LinearAttention):
    def _run(self, q, *others, **more):
        slopes = self.extra.slopes
        self.extra.slopes = lambda device: slopes(device) if q.shape[1] > 1 else None
        try:
            return super()._run(q, *others, **more)
        finally:
            self.extra.slopes = slopes


class RotatesStepsFromTheStart(LinearAttention):
    def _attend(self, q, k, v, tables, state, step):
        if tables is not None and q.shape[1] == 1:
            tables = torch.ones_like(tables[0]), torch.zeros_like(tables[1])
        return super()._attend(q, k, v, tables, state, step)


@pytest.mark.parametrize(
    ("config", "module", "check", "phrase"),
    [
        (Local, WindowOneWider, "visibility", "which is hidden"),
        (Local, RingOneShort, "decoding", "against the full forward"),
        (Local, RingOneShort, "cache_bytes", "stated"),
        (Sparse, LinksOfTheLength, "prefix_invariance", "against them alone"),
        (Sparse, LinksOfTheLength, "fast_is_naive", "float64, T="),
        (Sparse, LinksOfTheFirstHead, "visibility", "takes nothing from"),
        (Latent, KeepsTheKeys, "hidden_memory", "hang on a cache that reports"),
        (Latent, ExpandsToDecode, "decode_flops", "attention FLOPs counted in a step"),
        (Linear, ForgetsTheDecayInSteps, "positions", "--pos alibi"),
        (Linear, RotatesStepsFromTheStart, "positions", "--pos rope"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value if value in check_names() else "",
)
def test_a_bug_in_a_variant_is_caught(register, caught, config, module, check, phrase):
    caught(register(config, module), check, phrase)


def times(factor, *names):
    """Linear attention that states `factor` times the attention FLOPs in the methods named."""

    class Stated(Linear):
        pass

    def method(name):
        def stated(self, shape, tokens):
            flops = getattr(LinearConfig, name)(self, shape, tokens)
            return type(flops)(flops.projections, int(factor * flops.attention))

        return stated

    for name in names:
        setattr(Stated, name, method(name))
    return Stated


@pytest.mark.parametrize("factor", [1.9, 1 / 1.9])
@pytest.mark.parametrize("names", [("flops",), ("dense_flops",), ("flops", "dense_flops", "decode_flops")], ids=str)
def test_attention_without_a_softmax_is_charged_as_it_is_counted(register, caught, factor, names):
    caught(register(times(factor, *names), LinearAttention), "flops", "attention FLOPs")
