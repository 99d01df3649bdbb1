"""Evaluation noise: how far a difference of two models would move on another draw of evaluation windows.

Both models were evaluated on the same windows, so that the noise is that of the differences window by window, far
smaller than that of either loss. It is the noise of *these* trained models: it says nothing about other seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2_000
MOST_WINDOWS = 20_000
"""Above this many windows the normal distribution, the bootstrap's limit for means, takes its place."""
_NUMBERS_AT_ONCE = 4_000_000
_NORMAL_975 = 1.959964


@dataclass(frozen=True)
class EvaluationNoise:
    """A difference of losses on fixed windows, nats per token.

    Attributes:
        delta: the mean difference over the windows.
        se: standard deviation of the bootstrap's means.
        low: 2.5th percentile of them.
        high: 97.5th percentile of them.
        windows: how many there are.
    """

    delta: float
    se: float
    low: float
    high: float
    windows: int


def paired_bootstrap(losses: Sequence[np.ndarray], baseline: Sequence[np.ndarray]) -> EvaluationNoise | None:
    """Resample the windows with replacement, the same for both sides.

    Args:
        losses: for each run of the variant its loss per window, (windows,).
        baseline: for each run of the baseline the same; the two numbers of runs may differ.

    Returns:
        The noise of the difference of the two means over runs; None where there are no runs or fewer than two windows.

    Raises:
        ValueError: the runs do not have the same number of windows.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    if not losses or not baseline:
        return None
    counts = {len(run) for run in (*losses, *baseline)}
    if len(counts) != 1:
        raise ValueError(f"runs with {sorted(counts)} windows were not evaluated on the same ones")
    windows = counts.pop()
    if windows < 2:
        return None
    differences = np.mean(losses, axis=0) - np.mean(baseline, axis=0)
    delta = float(differences.mean())
    if windows > MOST_WINDOWS:
        se = float(differences.std() / math.sqrt(windows))
        return EvaluationNoise(delta, se, delta - _NORMAL_975 * se, delta + _NORMAL_975 * se, windows)
    means = _resampled_means(differences)
    low, high = (float(end) for end in np.percentile(means, [2.5, 97.5]))
    return EvaluationNoise(delta, float(means.std(ddof=1)), low, high, windows)


def _resampled_means(values: np.ndarray) -> np.ndarray:
    """Return `DRAWS` means of resampled values; the draws are the same every time."""
    count = len(values)
    at_once = max(1, _NUMBERS_AT_ONCE // count)
    generator = np.random.default_rng(0)
    parts = [
        values[generator.integers(count, size=(min(at_once, DRAWS - done), count))].mean(axis=1)
        for done in range(0, DRAWS, at_once)
    ]
    return np.concatenate(parts)
