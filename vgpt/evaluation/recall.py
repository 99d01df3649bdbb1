"""Loss on tokens that could be looked up in the window: those that end a bigram which stood in it before.

A target is *repeated* where the pair of it and the token before stands earlier in the same window: the second and every
later occurrence of a bigram. An attention that finds the first occurrence may copy what followed; one that cannot has
nothing but what training taught it of the pair. In Arora et al. 2023, "Zoology: Measuring and Improving Recall in
Efficient Language Models" (arXiv 2312.04927), such tokens, there with the frequent bigrams of the training text left
out, hold most of the gap between mixers. Here no bigram is left out, so that the parts depend on the window alone and
are the same for every model.
"""

import numpy as np

from vgpt.evaluation.positions import Tally
from vgpt.tracking.breakdowns.record import OTHER, REPEATED


def repeated(ids: np.ndarray) -> np.ndarray:
    """Return which targets end a bigram that stood in their window before.

    Args:
        ids: (n, T + 1) int64; the target of place t is the id at t + 1.

    Returns:
        (n, T) bool.
    """
    pairs = ids[:, :-1] * (int(ids.max()) + 1) + ids[:, 1:]
    # A stable sort leaves equal pairs in the order of the text: all but the first of a group are repeated.
    order = np.argsort(pairs, axis=1, kind="stable")
    sorted_pairs = np.take_along_axis(pairs, order, axis=1)
    again = np.zeros(pairs.shape, dtype=bool)
    again[:, 1:] = sorted_pairs[:, 1:] == sorted_pairs[:, :-1]
    found = np.empty_like(again)
    np.put_along_axis(found, order, again, axis=1)
    return found


def by_recall() -> Tally:
    """Return a tally over tokens that end a bigram of the window again, and all others."""
    return Tally([(REPEATED, 0), (OTHER, 0)], lambda ids: np.where(repeated(ids), 0, 1))
