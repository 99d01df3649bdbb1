import math

import numpy as np
import pytest

from vgpt.compare.statistics.evaluation_noise import clusters_of, evaluation_noise, loss_error
from vgpt.tracking.record import WindowLosses


def drawn(windows, *, start=0):
    generator = np.random.default_rng(start)
    hardness = generator.normal(2.3, 0.8, windows)  # a hard window is hard for every model
    return hardness + generator.normal(0.02, 0.05, windows), hardness


def test_the_standard_error_is_that_of_the_mean_difference():
    left, right = drawn(200)
    found = evaluation_noise([left], [right])
    assert found.windows == 200
    assert found.delta == pytest.approx(np.mean(left - right))
    assert found.se == pytest.approx((left - right).std() / 200**0.5, rel=0.05)
    assert found.low < found.delta < found.high
    assert found.high - found.low == pytest.approx(2 * 1.972 * found.se, rel=1e-3)  # 199 degrees of freedom


def test_pairing_takes_out_what_windows_have_in_common():
    left, right = drawn(200)
    shuffled = np.random.default_rng(1).permutation(right)
    assert evaluation_noise([left], [right]).se < 0.1 * evaluation_noise([left], [shuffled]).se


def test_the_interval_covers_the_difference_on_all_text_in_95_percent():
    covered = [
        found.low <= 0.02 <= found.high
        for start in range(1000)
        if (found := evaluation_noise(*([side] for side in drawn(128, start=start))))
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_runs_of_several_seeds_are_averaged_window_by_window():
    left, right = drawn(50)
    several = evaluation_noise([left - 0.1, left + 0.1], [right])
    once = evaluation_noise([left], [right])
    assert several.delta == pytest.approx(once.delta)
    assert several.se == pytest.approx(once.se)


def test_the_same_losses_give_the_same_noise_and_equal_models_none():
    left, right = drawn(64)
    assert evaluation_noise([left], [right]) == evaluation_noise([left], [right])
    assert evaluation_noise([left], [left]).se == 0


def test_a_clustered_standard_error_as_worked_out_by_hand():
    # Windows 1 3 | 2 | 6 of three documents: mean 3, sums of residuals -2, -1, 3; 3/2 (4 + 1 + 9) / 16.
    losses = WindowLosses(1, "4x8:a", (1.0, 3.0, 2.0, 6.0), (), (0, 0, 1, 2))
    many = WindowLosses(1, "40x8:a", losses.losses * 10, (), tuple(d + 3 * k for k in range(10) for d in (0, 0, 1, 2)))
    se, kind = loss_error(many)
    assert kind == "documents"
    assert se == pytest.approx(math.sqrt(30 / 29 * 10 * (4 + 1 + 9)) / 40)
    assert loss_error(WindowLosses(1, "1x8:a", (1.0,))) is None


def test_a_window_each_is_the_plain_standard_error():
    left, right = drawn(64)
    assert evaluation_noise([left], [right]).kind == "windows"
    by_document = evaluation_noise([left], [right], range(64))
    assert by_document.kind == "documents"
    assert by_document.se == pytest.approx((left - right).std(ddof=1) / 8)
    assert by_document.se == pytest.approx(evaluation_noise([left], [right]).se)


def test_windows_of_one_document_are_no_independent_draws():
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(40), 8)

    def texts():
        return generator.normal(0, 0.02, 40)[documents] + generator.normal(0, 0.02, 320)

    means, naive, clustered = [], [], []
    for _ in range(400):
        difference = texts()
        means.append(difference.mean())
        naive.append(evaluation_noise([difference], [np.zeros(320)]).se)
        clustered.append(evaluation_noise([difference], [np.zeros(320)], documents.tolist()).se)
    assert np.mean(clustered) == pytest.approx(np.std(means), rel=0.1)
    assert np.mean(naive) < 0.6 * np.std(means)


@pytest.mark.parametrize("documents", [[0] * 100, [0] * 91 + list(range(1, 10)), [0] * 80 + list(range(1, 21))])
def test_few_documents_or_one_that_holds_nearly_all_give_way_to_blocks_of_text(documents):
    labels, kind = clusters_of(100, documents)
    assert kind == "blocks"
    assert labels.tolist() == np.repeat(np.arange(20), 5).tolist()


def test_as_many_documents_as_are_enough_are_clusters():
    labels, kind = clusters_of(20, [3, 3, 7, 7, 8, 8, 9, 9, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 20, 20])
    assert kind == "documents"
    assert labels.tolist() == np.repeat(np.arange(10), 2).tolist()


def test_what_single_windows_do_to_single_runs_is_not_counted_twice():
    """Runs and windows crossed: the part that all seeds share, from an independent draw of both."""
    generator = np.random.default_rng(2)
    found = []
    for _ in range(300):
        runs = generator.normal(0, 0.01, 200) + generator.normal(0, 0.05, (3, 200))  # by window; by window and run
        found.append(evaluation_noise(list(runs), [np.zeros(200)] * 3, paired=True))
    squares = [one.beyond_seeds**2 for one in found]
    assert np.mean(squares) < 2.5 * 0.01**2 / 200  # cut off at zero, so not without bias
    assert np.mean([one.se**2 for one in found]) == pytest.approx((0.01**2 + 0.05**2 / 3) / 200, rel=0.05)


def test_other_windows_are_refused_and_no_windows_are_no_noise():
    with pytest.raises(ValueError, match=r"\[3, 4\] windows"):
        evaluation_noise([np.ones(3)], [np.ones(4)])
    assert evaluation_noise([], [np.ones(4)]) is None
    assert evaluation_noise([np.ones(1)], [np.ones(1)]) is None
