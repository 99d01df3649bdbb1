"""Random numbers of many instances: a known generator, and samples that are as likely as they should be."""

import numpy as np
import pytest

from vgpt.evaluation.tasks.draws import Draws, content_hash, streams


def draws(n, seed=0):
    return Draws(streams(("test", seed), np.arange(n), 0))


def test_a_stream_is_splitmix64():
    # The first outputs of the generator's reference implementation from the seed 1234567.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    drawn = Draws(np.array([1234567, 0], np.uint64))
    assert [*drawn.words(2)[0].tolist(), *drawn.words(3)[0].tolist()] == known


def test_numbers_of_an_instance_do_not_depend_on_the_others():
    together = draws(50).words(4, 2)
    assert together.shape == (50, 4, 2)
    alone = [Draws(streams(("test", 0), np.array([i]), 0)).words(4, 2)[0] for i in range(50)]
    np.testing.assert_array_equal(together, alone)


def test_streams_differ_by_all_that_they_belong_to():
    starts = [
        streams(parts, np.arange(1000), attempt)
        for parts in (("a", 0, "train"), ("a", 1, "train"), ("b", 0, "train"), ("a", 0, "test"))
        for attempt in range(3)
    ]
    assert len(np.unique(np.concatenate(starts))) == 12_000


def test_integers_and_uniform_numbers_fill_their_range_evenly():
    drawn = draws(20_000)
    assert np.bincount(drawn.integers(10, 1)[:, 0]) == pytest.approx(np.full(10, 2000), abs=180)
    below = np.array([[1, 2, 5]])
    numbers = drawn.integers(below, 3)
    assert ((numbers >= 0) & (numbers < below)).all()
    assert [len(np.unique(column)) for column in numbers.T] == [1, 2, 5]
    uniform = drawn.uniform(2)
    assert 0 < uniform.min() < 1e-3
    assert 1 - 1e-3 < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert np.corrcoef(uniform.T)[0, 1] == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(("high", "count"), [(6, 3), (5, 5), (20, 3)])  # shuffled, all of them, by Floyd's method
def test_samples_without_replacement_have_every_number_at_every_place_equally_often(high, count):
    sample = draws(20_000, seed=high).distinct(high, count)
    assert all(len(set(row)) == count for row in sample.tolist())
    counts = np.stack([np.bincount(column, minlength=high) for column in sample.T])
    assert counts.shape == (count, high)
    np.testing.assert_allclose(counts, 20_000 / high, atol=5 * (20_000 / high) ** 0.5)
    pairs = np.bincount(sample[:, 0] * high + sample[:, 1], minlength=high * high).reshape(high, high)
    expected = 20_000 / (high * (high - 1))
    np.testing.assert_allclose(pairs[~np.eye(high, dtype=bool)], expected, atol=5 * expected**0.5)


def test_weighted_samples_are_drawn_one_after_the_other():
    weights = np.array([4.0, 2.0, 1.0, 1.0])
    sample = draws(20_000).weighted(weights, 2)
    first = np.bincount(sample[:, 0], minlength=4) / 20_000
    np.testing.assert_allclose(first, weights / 8, atol=0.015)
    after_zero = np.bincount(sample[sample[:, 0] == 0, 1], minlength=4) / (sample[:, 0] == 0).sum()
    np.testing.assert_allclose(after_zero, [0, 0.5, 0.25, 0.25], atol=0.02)


def test_the_hash_of_a_content_depends_on_every_place_and_on_their_number():
    rows = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 1, 3], [0, 0, 0]])
    hashes = {*content_hash(rows).tolist(), *content_hash(rows[:, :2]).tolist(), *content_hash(rows[:, :1]).tolist()}
    assert len(hashes) == 5 + 4 + 3  # beginnings that are equal have equal hashes
    np.testing.assert_array_equal(content_hash(rows), [content_hash(row[None])[0] for row in rows])
