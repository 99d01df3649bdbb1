"""Steps of fixed shapes: one more token per sequence, at a position that only the device knows.

A CUDA graph records which kernels run on which memory, once, and replays them without Python. A step can be recorded
where nothing in it depends on how many tokens there are: it writes its row where a tensor says, attends to all rows of
its memory, and hides on the device those that hold nothing yet. The numbers are those of a step that knows its length.
"""

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vgpt.attention.kernels.rope import rotary_tables
from vgpt.attention.kernels.scores import softmax_with_sinks
from vgpt.attention.kernels.single_query import score_products

T = TypeVar("T")

# Rows up to which torch's fused kernel takes one query on CUDA: it goes through them one block after the other.
_FUSED_ROWS = 1024
# From so many groups on they fill a GPU by themselves.
_FUSED_GROUPS = 64
# The fused kernel copies a mask whose rows are not aligned.
_ALIGNED = 16


class Place:
    """Where the next token of every sequence stands, and what follows from it, made once per step for all layers.

    Args:
        position: (1,) int64, on the device of the model.
        limit: positions are below this.
    """

    def __init__(self, position: Tensor, limit: int) -> None:
        self.position, self.limit = position, limit
        self._made: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned when it was first asked for under this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]  # of whoever chose the key

    def row(self, rows: int) -> Tensor:
        """Return the row (1,) of the token in memory for `rows` tokens; a new token goes where the oldest was."""
        if rows >= self.limit:
            return self.position
        return self.once(("row", rows), lambda: self.position % rows)

    def rotation(self, width: int, base: float) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (1, width / 2) of the position, as `rotary_tables` has them."""

        def look_up() -> tuple[Tensor, Tensor]:
            cos, sin = rotary_tables(0, self.limit, width, base, self.position.device)
            return cos.index_select(0, self.position), sin.index_select(0, self.position)

        return self.once(("rotation", width, base), look_up)

    def rotated(self, x: Tensor, base: float) -> Tensor:
        """Rotate (B, 1, heads, D) as `vgpt.attention.kernels.rope.rotate` does, in few operations."""
        half = x.shape[-1] // 2

        def spread() -> tuple[Tensor, Tensor]:
            cos, sin = self.rotation(x.shape[-1], base)
            return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

        cos, sin = self.once(("spread", x.shape[-1], base), spread)
        return torch.addcmul(x * cos, x.roll(half, -1), sin).to(x.dtype)

    def bias(self, rows: int, slopes: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return what to add to the scores of `rows` rows, (1 or H, rows): -inf where there is no token yet.

        With slopes also ALiBi. In memory that has gone round, a row's distance counts backwards from the newest.
        """

        def make() -> Tensor:
            places = torch.arange(rows, device=self.position.device)
            empty = (places > self.position)[None]
            if slopes is None:
                return torch.zeros(1, rows, dtype=dtype, device=self.position.device).masked_fill_(empty, -torch.inf)
            distance = (self.position - places) % rows
            return (-slopes.to(dtype)[:, None] * distance).masked_fill_(empty, -torch.inf)

        return self.once(("bias", rows, slopes is not None, dtype), make)


def attend_at(
    place: Place,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Softmax attention of one query per head over the rows of a cache that hold a token, the newest included.

    Args:
        place: where the query stands.
        q: queries (B, H, D).
        k: keys (B, G, S, D) of all rows; neighbouring query heads share a key/value head.
        v: values (B, G, S, Dv), likewise; finite everywhere.
        scale: factor on the products of queries and keys; 1 / sqrt(D) by default.
        sinks: (H,) logits in the denominators.
        slopes: (H,) how much a key's score falls per token of distance.

    Returns:
        (B, H, Dv) in the type of q.
    """
    B, H, D = q.shape
    G, S, Dv = k.shape[1], k.shape[2], v.shape[-1]
    factor = D**-0.5 if scale is None else scale
    # Heads that share keys are so many queries of one head: no kernel needs to know of groups.
    folded = q.reshape(B, G, H // G, D)
    if sinks is None and slopes is None and Dv == D and fused_pays(q.device, B * G, S):
        mask = place.bias(S, None, q.dtype).expand(B, G, H // G, S)
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=factor).reshape(B, H, Dv)
    return attend_by_products(place, folded, k, v, factor, sinks, slopes)


def fused_pays(device: torch.device, groups: int, rows: int) -> bool:
    """Return whether torch's fused kernel is the faster way for so many groups of queries over so many rows."""
    return device.type == "cuda" and rows % _ALIGNED == 0 and (rows <= _FUSED_ROWS or groups >= _FUSED_GROUPS)


def attend_by_products(
    place: Place, q: Tensor, k: Tensor, v: Tensor, scale: float, sinks: Tensor | None, slopes: Tensor | None
) -> Tensor:
    """Attend as `attend_at`, with queries (B, G, H / G, D), by two matrix products; scores are float32 or wider."""
    B, G, fold, D = q.shape
    S, Dv = k.shape[2], v.shape[-1]
    wide = torch.promote_types(q.dtype, torch.float32)
    products = score_products(q.reshape(B * G, fold, D), k.reshape(B * G, S, D).mT).view(B, G, fold, S)
    bias = place.bias(S, slopes, wide)
    scores = torch.add(bias if slopes is None else bias.view(G, fold, S), products, alpha=scale)
    weights = softmax_with_sinks(scores.view(B, G * fold, 1, S), sinks).to(v.dtype)
    return torch.bmm(weights.view(B * G, fold, S), v.reshape(B * G, S, Dv)).view(B, G * fold, Dv)
