"""Who sees whom, as a picture: from the settings' one definition, downsampled to a grid."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vgpt.attention.config import AttentionConfig

ROWS = 32
"""Lines of the picture in a terminal, whose characters are about twice as high as wide."""
_SHADES = ((0.0, "·"), (1 / 3, "░"), (2 / 3, "▒"), (0.9999, "▓"), (1.0, "█"))


@dataclass(frozen=True)
class Mask:
    """The mask of one head of one layer.

    Attributes:
        tokens: length of the sequence.
        layer: index of the layer.
        head: index of the head.
        cells: per cell, the share of its (query, key <= query) pairs that see each other; NaN where it has none.
    """

    tokens: int
    layer: int
    head: int
    cells: NDArray[np.float64]

    def lines(self) -> list[str]:
        """Return the picture: queries downwards, keys to the right; the future is blank."""
        wide = 2 if self.cells.shape[0] == self.cells.shape[1] else 1
        return ["".join(_shade(share) * wide for share in row).rstrip() for row in self.cells]


def mask_for_terminal(config: AttentionConfig, tokens: int, layer: int = 0) -> Mask:
    """Return the mask of a layer's first head in the cells of a square picture."""
    return mask_of(config, tokens, ROWS, 2 * ROWS if tokens >= 2 * ROWS else ROWS, layer=layer)


def mask_of(config: AttentionConfig, tokens: int, rows: int, columns: int, *, layer: int = 0, head: int = 0) -> Mask:
    """Return the mask of `tokens` queries and keys in at most `rows` x `columns` cells."""
    row_edges, column_edges = _edges(tokens, rows), _edges(tokens, columns)
    keys = np.arange(tokens)[None, :]
    cells = np.full((len(row_edges) - 1, len(column_edges) - 1), np.nan)
    for i, (start, end) in enumerate(pairwise(row_edges)):
        queries = np.arange(int(start), int(end), dtype=np.int64)[:, None]
        past = keys <= queries
        visible: NDArray[np.bool_] = np.asarray(config.visible(queries, keys, layer, head), dtype=bool)
        seen = np.broadcast_to(visible, past.shape) & past
        possible = np.add.reduceat(past.sum(0), column_edges[:-1])
        found = np.add.reduceat(seen.sum(0), column_edges[:-1])
        np.divide(found, possible, out=cells[i], where=possible > 0)
    return Mask(tokens, layer, head, cells)


def heads_differ(config: AttentionConfig, mask: Mask, n_head: int) -> bool:
    """Return whether another head of the layer has another mask, as far as the grid shows it."""
    rows, columns = mask.cells.shape
    others = range(1, min(n_head, 4))
    masks = (mask_of(config, mask.tokens, rows, columns, layer=mask.layer, head=head) for head in others)
    return any(not np.array_equal(mask.cells, other.cells, equal_nan=True) for other in masks)


def _edges(tokens: int, most: int) -> NDArray[np.int64]:
    cells = min(tokens, most)
    return np.arange(cells + 1) * tokens // cells


def _shade(share: float) -> str:
    if np.isnan(share):
        return " "
    return next(letter for limit, letter in _SHADES if share <= limit)
