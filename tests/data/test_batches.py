"""Batches: a pure function of seed and step, the same for any number of workers, and nothing left out."""

import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgpt.data.batches import BatchSource, derive_keys, evaluation_windows, permute
from vgpt.errors import DataError


def numbered(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint32)


@given(st.integers(1, 5000), st.integers(0, 2**63))
@settings(max_examples=60)
def test_a_permutation_hits_every_number_once(n: int, seed: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, derive_keys(seed))), np.arange(n))


def test_permutations_differ_by_key_and_scatter_neighbors() -> None:
    first, second = (permute(np.arange(10_000), 10_000, derive_keys(seed)) for seed in (1, 2))
    assert (first == second).mean() < 0.01
    assert abs(np.corrcoef(np.arange(10_000), first)[0, 1]) < 0.05
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.05


def test_every_order_of_three_is_about_equally_likely() -> None:
    orders = [tuple(permute(np.arange(3), 3, derive_keys(seed)).tolist()) for seed in range(3000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(counts) < 620
    assert min(counts) > 380


def test_a_batch_is_a_stretch_of_text_and_the_same_stretch_one_token_on() -> None:
    source = BatchSource(numbered(1000), 16, 4, seed=1)
    inputs, targets = source.batch(7)
    assert inputs.shape == targets.shape == (4, 16)
    assert inputs.dtype == targets.dtype == np.int64
    assert inputs.flags.c_contiguous
    assert targets.flags.c_contiguous
    assert np.array_equal(inputs, inputs[:, :1] + np.arange(16))
    assert np.array_equal(targets, inputs + 1)


def test_the_global_batch_does_not_depend_on_how_it_is_divided() -> None:
    tokens = numbered(5000)
    whole = BatchSource(tokens, 8, 24, seed=3)
    for step, (ranks, accumulate) in product((0, 5, 40), ((1, 1), (2, 1), (1, 2), (2, 3), (3, 2), (4, 6), (6, 4))):
        part = BatchSource(tokens, 8, 24 // (ranks * accumulate), seed=3)
        rows = [
            part.batch(step, micro_step=micro, grad_accum=accumulate, rank=rank, world_size=ranks)[0]
            for micro in range(accumulate)
            for rank in range(ranks)
        ]
        assert np.array_equal(np.concatenate(rows), whole.batch(step)[0])
        assert part.digest(step, grad_accum=accumulate, world_size=ranks) == whole.digest(step)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    tokens = numbered(5000)
    there = BatchSource(tokens, 8, 4, seed=3)
    forwards = [there.batch(step)[0] for step in range(300)]
    np.random.seed(0)
    random.seed(0)
    before = np.random.get_state()[1].copy()
    back = BatchSource(tokens.astype(np.uint16), 8, 4, seed=3)
    for step in reversed(range(300)):
        assert np.array_equal(back.batch(step)[0], forwards[step])
    assert np.array_equal(before, np.random.get_state()[1])
    other = BatchSource(tokens, 8, 4, seed=4)
    assert not any(np.array_equal(other.batch(step)[0], forwards[step]) for step in range(20))


def test_an_epoch_reads_no_token_twice_and_nearly_every_token() -> None:
    block = 16
    source = BatchSource(numbered(3001), block, 1, seed=5)
    per_epoch = source.windows_per_epoch
    orders = []
    for epoch in range(4):
        starts = source.starts(np.arange(epoch * per_epoch, (epoch + 1) * per_epoch))
        orders.append(starts.tolist())
        seen = (starts[:, None] + np.arange(block)).reshape(-1)
        assert len(np.unique(seen)) == seen.size
        assert seen.size > 3000 - 2 * block
    assert len({tuple(order) for order in orders}) == 4
    assert len({min(order) for order in orders}) > 1


@pytest.mark.parametrize(("length", "block"), [(9, 8), (10, 8), (17, 8), (24, 8), (33, 8), (40, 8), (101, 8), (3, 1)])
def test_over_the_epochs_every_token_is_seen_as_input_and_as_target(length: int, block: int) -> None:
    source = BatchSource(numbered(length), block, 1, seed=11)
    rows = np.arange(source.windows_per_epoch * 2 * block)
    starts = source.starts(rows)
    assert starts.min() == 0
    assert starts.max() + block + 1 == length
    seen = np.unique(starts[:, None] + np.arange(block + 1))
    assert len(seen) == length


def test_a_batch_may_be_larger_than_an_epoch() -> None:
    inputs, _ = BatchSource(numbered(20), 8, 50, seed=0).batch(3)
    assert inputs.shape == (50, 8)
    assert inputs.max() < 19


def test_the_order_of_batches_never_changes_between_versions() -> None:
    tokens = (np.arange(10_000, dtype=np.uint64) * 2_654_435_761 % 50_257).astype(np.uint16)
    source = BatchSource(tokens, 32, 4, seed=1337)
    assert [source.digest(step) for step in (0, 1, 77, 1000)] == [
        "2d1e6419188b2a0c",
        "f4b4a548cc2ddb8b",
        "b311e4aa5dbd30d9",
        "7dfe88f4e01acfa4",
    ]


def test_a_split_shorter_than_a_block_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match="8 tokens is too short for block_size 8") as caught:
        BatchSource(numbered(8), 8, 1, seed=0)
    assert "--block-size to 7" in caught.value.hint
    BatchSource(numbered(9), 8, 1, seed=0).batch(0)


@given(st.integers(2, 400), st.integers(1, 20), st.integers(1, 60))
def test_evaluation_windows_are_fixed_even_and_do_not_overlap(length: int, block: int, count: int) -> None:
    if length < block + 1:
        with pytest.raises(DataError):
            evaluation_windows(numbered(length), block, count)
        return
    starts = evaluation_windows(numbered(length), block, count)
    assert len(starts) == min(count, (length - 1) // block)
    assert starts[0] == 0
    assert starts[-1] + block + 1 <= length
    gaps = np.diff(starts)
    assert (gaps >= block).all()
    assert gaps.size == 0 or gaps.max() - gaps.min() <= block


def test_no_evaluation_windows_are_refused() -> None:
    with pytest.raises(DataError, match="0 windows"):
        evaluation_windows(numbered(100), 8, 0)
