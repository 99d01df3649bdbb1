"""Where the links of block-sparse attention lead: pinned, spread evenly, and columns that can be kept."""

import pytest
import torch

from vgpt.attention.sparse.config import SparseConfig
from vgpt.attention.sparse.rows import row_links

MODES = ["row", "column"]
CPU = torch.device("cpu")

# By (layer, head, block row). Trained weights are used to their links: other ones would break every model ever saved.
PINNED = {
    "row": {(0, 0, 7): [1, 2, 4], (0, 0, 20): [4, 16, 10], (2, 5, 100): [18, 29, 90], (2, 5, 1000): [170, 40, 966]},
    "column": {(0, 0, 7): [4, 2, 3], (0, 0, 20): [4, 8, 3], (2, 5, 100): [19, 44, 45], (2, 5, 1000): [511, 656, 588]},
}


@pytest.mark.parametrize("mode", MODES)
def test_links_are_those_of_the_models_already_trained(mode):
    config = SparseConfig(random_mode=mode)
    assert {place: config.links(place[2], place[0], place[1]) for place in PINNED[mode]} == PINNED[mode]


@pytest.mark.parametrize("mode", MODES)
def test_another_link_seed_draws_other_links(mode):
    one, other = (
        row_links(SparseConfig(random_mode=mode, link_seed=seed), 0, 4, 200, CPU)[..., 1:4] for seed in (0, 1)
    )
    assert (one == other).float().mean() < 0.1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(4, 1, 2, 2), (3, 0, 1, 3), (5, 2, 1, 0)])
def test_a_longer_text_leaves_what_its_start_sees_as_it_was(mode, sizes):
    names = ("sparse_block_size", "global_blocks", "window_blocks", "random_blocks")
    config = SparseConfig(random_mode=mode, **dict(zip(names, sizes, strict=True)))
    place = torch.arange(160)
    head = torch.arange(3).view(-1, 1, 1)
    long = config.visible(place[:, None], place, 1, head)
    short = config.visible(place[:80, None], place[:80], 1, head)
    assert torch.equal(long[..., :80, :80], short)
    few, many = (row_links(config, 1, 3, rows, CPU) for rows in (20, 60))
    assert torch.equal(many[:, : few.shape[1]], few)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("mode", MODES)
def test_links_do_not_depend_on_the_width_of_integers(mode, dtype):
    config = SparseConfig(random_mode=mode)
    rows = torch.arange(7, 4000, 13)
    got = config.links(rows.to(dtype), 3, torch.tensor(2, dtype=dtype))
    for many, i in zip(got, range(3), strict=True):
        assert many.tolist() == [config.links(row, 3, 2)[i] for row in rows.tolist()]


@pytest.mark.parametrize("random_blocks", [1, 2, 3])
def test_a_column_once_left_is_never_needed_again(random_blocks):
    config = SparseConfig(random_mode="column", global_blocks=2, window_blocks=2, random_blocks=random_blocks)
    links = row_links(config, 1, 8, 400, CPU)
    for head in range(8):
        before = None
        for row, blocks in enumerate(links[head].tolist(), config.seen_blocks):
            assert len(set(blocks)) == config.seen_blocks
            if before is not None:
                assert set(blocks) <= before | {row}
            before = set(blocks)


def test_columns_rest_for_long_and_are_spread_over_the_whole_past():
    config = SparseConfig(random_mode="column", global_blocks=0, window_blocks=1, random_blocks=2)
    heads = 4000
    links = row_links(config, 0, heads, 257, CPU)[..., :2]
    assert (links[:, 1:] != links[:, :-1]).sum((1, 2)).max() <= 2 * 8
    for row in (8, 64, 256):  # each column has a power of two of candidates
        tenths = (links[:, row - 3] / row * 8).long().flatten().bincount(minlength=8) / (2 * heads)
        assert (tenths - 1 / 8).abs().max() < 0.02
    shares = links[:, 11 - 3].flatten().bincount(minlength=11) / (2 * heads)
    assert shares.min() > 0.4 / 11
    assert shares.max() < 1.3 / 11


@pytest.mark.parametrize("candidates", [3, 4, 9])
def test_every_set_of_fresh_links_is_equally_likely(candidates):
    config = SparseConfig(global_blocks=1, window_blocks=1, random_blocks=3)
    heads = 20_000
    first = candidates + 1  # the row with so many candidates
    drawn = torch.stack(config.links(torch.tensor(first), 0, torch.arange(heads)), -1).sort(-1).values
    _, counts = drawn.unique(dim=0, return_counts=True)
    sets = candidates * (candidates - 1) * (candidates - 2) // 6
    assert len(counts) == sets
    expected = heads / sets
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < sets + 4 * (2 * sets) ** 0.5
