"""Evaluation noise: how far a loss, or a difference of two, would move on another draw of text.

Two models were evaluated on the same windows, so that the noise of their difference is that of the differences window
by window, far smaller than that of either loss. Windows of one document are no independent draws: they are taken
together. This is the noise of *these* trained models: it says nothing about other seeds.
"""

# pyright: reportMissingTypeStubs=false

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vgpt.tracking.record import WindowLosses
from vgpt.tracking.run_info import RunInfo

LEAST_CLUSTERS = 10
"""With fewer documents, or as uneven ones as count for fewer, contiguous blocks of windows are taken together."""
MOST_BLOCKS = 20

Windows = Callable[[RunInfo], WindowLosses | None]
Clusters = Literal["documents", "blocks", "windows"]

CLUSTERS: dict[Clusters, str] = {
    "documents": "clustered by document",
    "blocks": f"fewer than {LEAST_CLUSTERS} documents: clustered by blocks of windows in the order of the text",
    "windows": "document clusters not recorded: windows taken as independent",
}
"""What is taken together, in words."""


@dataclass(frozen=True)
class EvaluationNoise:
    """A difference of losses on fixed windows, nats per token.

    Attributes:
        delta: the mean difference over the windows.
        se: its standard error over text.
        low: lower end of its 95% interval over text.
        high: upper end of it.
        windows: how many there are.
        clusters: how many groups of windows are taken as independent draws.
        kind: what the groups are.
        df: degrees of freedom of `se`: clusters - 1, fewer where they are uneven.
        beyond_seeds: the part of `se` that all seeds have in common, which more seeds do not average out; the rest is
            in the spread of the seeds already.
    """

    delta: float
    se: float
    low: float
    high: float
    windows: int
    clusters: int
    kind: Clusters
    df: float
    beyond_seeds: float


def evaluation_noise(
    losses: Sequence[np.ndarray], baseline: Sequence[np.ndarray], documents: Sequence[int] = (), *, paired: bool = False
) -> EvaluationNoise | None:
    """Return the noise of the difference of two means over runs.

    Runs and windows are crossed: what one window does to one run is in the spread of the runs' losses and in that of
    the windows' differences, and is taken out of the latter.

    Args:
        losses: for each run of the variant its loss per window, (windows,).
        baseline: for each run of the baseline the same; the two numbers of runs may differ.
        documents: the document of each window; empty where that is not known.
        paired: whether the runs of the two sides belong together one by one.

    Returns:
        The noise; None where there are no runs or fewer than two windows.

    Raises:
        ValueError: the runs do not have the same number of windows.

    Source: clusters as in Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models";
    their effective number as in Kish 1965, "Survey Sampling"; crossed effects as in Cornfield and Tukey 1956,
    "Average values of mean squares in factorials".
    """
    if not losses or not baseline:
        return None
    counts = {len(run) for run in (*losses, *baseline)}
    if len(counts) != 1:
        raise ValueError(f"runs with {sorted(counts)} windows were not evaluated on the same ones")
    windows = counts.pop()
    if windows < 2:
        return None
    here, there = np.asarray(losses, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    labels, kind = clusters_of(windows, documents)
    differences = here.mean(0) - there.mean(0)
    delta, variance = float(differences.mean()), _variance(differences, labels)
    own = _interaction(here - there, labels) if paired else _interaction(here, labels) + _interaction(there, labels)
    sizes = np.bincount(labels)
    df = max(1.0, float(sizes.sum() ** 2 / (sizes**2).sum()) - 1)
    half = _critical(df) * math.sqrt(variance)
    beyond = math.sqrt(max(0.0, variance - own))
    return EvaluationNoise(
        delta, math.sqrt(variance), delta - half, delta + half, windows, len(sizes), kind, df, beyond
    )


def loss_error(found: WindowLosses) -> tuple[float, Clusters] | None:
    """Return the standard error of a run's own loss over text, and what was clustered; None from one window."""
    if len(found.losses) < 2:
        return None
    labels, kind = clusters_of(len(found.losses), found.documents)
    return math.sqrt(_variance(np.asarray(found.losses), labels)), kind


def clusters_of(windows: int, documents: Sequence[int]) -> tuple[np.ndarray, Clusters]:
    """Return for each window the number of its cluster, 0, 1, ..., and what the clusters are."""
    if not documents:
        return np.arange(windows), "windows"
    labels = np.unique(np.asarray(documents), return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(labels)
    if sizes.sum() ** 2 / (sizes**2).sum() >= LEAST_CLUSTERS:
        return labels, "documents"
    return np.arange(windows) * min(MOST_BLOCKS, windows) // windows, "blocks"


def _variance(values: np.ndarray, labels: np.ndarray) -> float:
    """Return the variance of the mean of values, (windows,), between clusters."""
    count = int(labels.max()) + 1
    sums = np.bincount(labels, weights=values - values.mean(), minlength=count)
    return float(count / (count - 1) * (sums**2).sum() / len(values) ** 2)


def _interaction(runs: np.ndarray, labels: np.ndarray) -> float:
    """Return the variance that what single windows do to single runs gives the mean over runs, (runs, windows)."""
    count = len(runs)
    if count < 2:
        return 0.0
    rest = runs - runs.mean(0)
    return sum(_variance(run, labels) for run in rest) / (count - 1) / count


def _critical(df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.975))
