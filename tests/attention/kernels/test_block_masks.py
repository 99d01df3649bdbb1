"""The lists of blocks for FlexAttention, made by arithmetic, against torch's own look at every pair."""

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vgpt.attention.kernels import block_masks
from vgpt.attention.kernels.block_masks import looked_up_mask, same_pairs, window_mask
from vgpt.attention.local.config import LocalConfig
from vgpt.attention.sparse.block_mask import sparse_mask
from vgpt.attention.sparse.config import SparseConfig

CPU = torch.device("cpu")
LENGTHS = (1, 2, 16, 31, 64, 65, 200)


class Widest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that anything computes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.bytes = max([self.bytes, *(x.nbytes for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
        return out


def lists(mask: BlockMask) -> dict[str, list[list[list[int]]]]:
    """Return, per list and head, the blocks that each row names, in their order."""
    found = {}
    for name in ("kv", "full_kv", "q", "full_q"):
        counts, numbers = getattr(mask, f"{name}_num_blocks")[0], getattr(mask, f"{name}_indices")[0]
        assert counts.dtype == numbers.dtype == torch.int32
        assert counts.is_contiguous()
        assert numbers.is_contiguous()
        found[name] = [
            [row[:count] for count, row in zip(*head, strict=True)]
            for head in zip(counts.tolist(), numbers.tolist(), strict=True)
        ]
    return found


def truth(visible, T: int, block_size: int, heads: int | None = None, layer: int = 0) -> BlockMask:
    def seen(batch, head, query, key):
        return visible(query, key, layer, head)

    return create_block_mask(seen, None, heads, T, T, device="cpu", BLOCK_SIZE=block_size)


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("block_size", [4, 16, 128])
def test_windows_list_the_blocks_that_a_look_at_every_pair_finds(T, block_size):
    for window in (1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 300):
        got = window_mask(window, T, block_size, CPU)
        want = truth(LocalConfig(window_size=window).visible, T, block_size)
        assert lists(got) == lists(want)
        assert (got.seq_lengths, got.BLOCK_SIZE) == (want.seq_lengths, want.BLOCK_SIZE)


@pytest.mark.parametrize("mode", ["row", "column"])
@pytest.mark.parametrize("blocks", [(0, 1, 0), (1, 3, 3), (2, 1, 1), (0, 2, 2)])
@pytest.mark.parametrize(("size", "block_size"), [(8, 8), (4, 8), (16, 8), (6, 4), (4, 6), (2, 16), (24, 4)])
def test_sparse_links_list_the_blocks_that_a_look_at_every_pair_finds(mode, blocks, size, block_size):
    few = dict(zip(("global_blocks", "window_blocks", "random_blocks"), blocks, strict=True))
    config = SparseConfig(sparse_block_size=size, random_mode=mode, **few)
    for T in (5, 64, 150):
        got = sparse_mask(config, 3, 2, T, block_size, CPU)
        assert lists(got) == lists(truth(config.visible, T, block_size, 2, layer=3))


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("at_a_time", [1, 1000, 2**24])
def test_any_mask_is_looked_up_in_strips(monkeypatch, T, at_a_time):
    monkeypatch.setattr(block_masks, "_PAIRS_AT_A_TIME", at_a_time)

    def visible(q, k, layer=0, head=0):
        return (k <= q) & ((q - k < 9) | (k % 7 == 0))

    table = torch.rand(T, generator=torch.Generator().manual_seed(1)) > 0.4

    def tabled(q, k, layer=0, head=0):  # a place beyond the last token would be out of its range
        return (k <= q) & ((k == q) | table[k])

    for mask in (visible, tabled):
        assert lists(looked_up_mask(mask, T, 16, CPU)) == lists(truth(mask, T, 16))
        assert same_pairs(mask, mask, T, 16, CPU)
    assert same_pairs(tabled, lambda q, k: k <= q, T, 16, CPU) is bool(table[: T - 1].all())


def test_mask_functions_are_exact_for_all_pairs_without_the_blocks():
    config = SparseConfig(sparse_block_size=4)
    head, q, k = torch.arange(2).view(2, 1, 1), torch.arange(100)[:, None], torch.arange(100)
    got = sparse_mask(config, 1, 2, 100, 8, CPU).mask_mod(q, head, q, k)
    assert torch.equal(got, config.visible(q, k, 1, head))
    got = window_mask(9, 100, 16, CPU).mask_mod(q, head, q, k)
    assert torch.equal(got, LocalConfig(window_size=9).visible(q, k))


def test_memory_is_that_of_the_lists_and_not_of_the_square():
    T, H, rows = 32_768, 16, 512
    with Widest() as widest:
        window_mask(256, T, 128, "meta")
    assert widest.bytes < 256 * 8 * 8  # rows, places, int64
    with Widest() as widest:
        sparse_mask(SparseConfig(), 0, H, T, 64, torch.device("meta"))
    # The global block is seen by every row, so that each list of who sees a block has as many places.
    assert widest.bytes <= 4 * H * (rows * rows + 1)
    with Widest() as widest:
        looked_up_mask(LocalConfig().visible, T, 128, "meta")
    assert widest.bytes <= 8 * max(block_masks._PAIRS_AT_A_TIME, 128 * T)
