"""Softmax attention of one query per head, which sees all keys: a decoding step.

Two ways lead to the same numbers: two matrix products with a softmax between them, and torch's fused kernel. A product
of few rows keeps about one thread of a CPU busy; the fused kernel takes as many as there are batch entries times heads.
So where there are fewer groups of queries than threads, as with a single key/value head at batch 1, each group is split
among the threads and goes through the kernel. How much faster that is at batch 1 with 12 queries to one key/value head,
by benchmarks/single_query.py on 2 cores of an AMD EPYC with avx512_bf16, torch 2.13:

    keys                  128    256    512   1024   4096
    float32, width 64     1.0    1.1    1.1    1.1    1.1
    float32, width 224    1.1    1.1    1.2    1.2    1.1
    bfloat16, width 64    1.8    1.7    1.4    1.1    0.6
    bfloat16, width 224   1.8    1.4    0.7    0.5    0.3

`attend_at` is the step of fixed shapes, which knows its length on the device alone (vgpt.attention.place).
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from vgpt.attention.kernels.scores import PLAIN, ScoreMods, softmax_with_sinks
from vgpt.attention.place import Place

# Keys up to which the fused kernel is faster where threads would be idle, by type.
_MOST_KEYS = {torch.float32: 2**62, torch.bfloat16: 256}
# Rows up to which torch's fused kernel takes several queries to the same keys on CUDA: it goes through the rows one
# block after the other. Microseconds on an H100, bfloat16, width 64, fused and by products (benchmarks/decode_gpu.py):
#
#   rows                        256          1024         4096
#   1 x 12 heads of 1 query     6.9,  9.9    6.2, 13.5    8.7, 19.7
#   1 x 4 heads of 3 queries    8.5, 10.0   19.3, 13.0   62.8, 16.2
#   1 x 1 head of 12 queries    8.4,  9.4   19.0, 12.8   62.0, 13.4
#   16 x 1 head of 12 queries   8.5, 10.3   19.1, 14.2   62.4, 22.9
_FUSED_ROWS = 512
# The fused kernel copies a mask whose rows are not aligned.
_ALIGNED = 16


def single_query(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    live: int | None = None,
    *,
    bias: Tensor | None = None,
    mods: ScoreMods = PLAIN,
) -> Tensor:
    """Attend with queries that stand at the newest key.

    Args:
        q: queries (B, H, 1, D).
        k: keys (B, G, S, D). Contiguous ones are read as they lie; the CPU's bfloat16 product copies others.
        v: values (B, G, S, Dv), likewise.
        live: keys that exist; the rows after them are hidden and must hold finite numbers.
        bias: added to the scores in place of slopes, (H or 1, S), where the keys do not lie in the order of positions.
        mods: what is done to the scores.

    Returns:
        (B, H, 1, Dv).
    """
    B, H, _, D = q.shape
    G, S, Dv = k.shape[1], k.shape[2], v.shape[-1]
    if Dv == D and q.device.type == "cpu" and bias is None and mods.only_scaled:
        parts = _parts(B * G, H // G, S, q.dtype, torch.get_num_threads())
        if parts:
            keys, values = (x.reshape(B * G, 1, S, D) for x in (k, v))
            seen = S if live is None else live
            return _fused(q.reshape(B * G, H // G, D), keys, values, seen, parts, mods.scale).view(B, H, 1, D)
    return _by_products(q, k, v, live, bias, mods)


def single_query_to_rows(
    q: Tensor,
    rows: Tensor,
    front: int,
    live: int,
    *,
    mods: ScoreMods = PLAIN,
) -> Tensor:
    """Attend as `single_query` to one row per token, which is the key and with its first features the value.

    Args:
        q: queries (B, H, D), contiguous.
        rows: (B, 1, S, D), contiguous.
        front: features of a row that are the value.
        live: see `single_query`.
        mods: what is done to the scores.

    Returns:
        (B, H, front).
    """
    B, H = q.shape[:2]
    on_cpu = q.device.type == "cpu"
    if on_cpu and mods.only_scaled:
        parts = _parts(B, H, rows.shape[2], q.dtype, torch.get_num_threads())
        if parts:  # the kernel knows one width alone
            return _fused(q, rows, rows, live, parts, mods.scale).narrow(-1, 0, front)
    # The CPU's bfloat16 product would copy a front to make it contiguous.
    values = rows if on_cpu and q.dtype is torch.bfloat16 else rows[..., :front]
    return _by_products(q[:, :, None], rows, values, live, None, mods)[:, :, 0, :front]


@functools.lru_cache(maxsize=1024)
def _parts(entries: int, fold: int, keys: int, dtype: torch.dtype, threads: int) -> int:
    """Return in how many parts the fused kernel takes each of `entries` groups of `fold` queries; 0: products win."""
    if keys > _MOST_KEYS.get(dtype, 0) or fold == 1 or entries >= threads:
        return 0
    return next(
        parts for parts in range(2, fold + 1) if fold % parts == 0 and (parts * entries >= threads or parts == fold)
    )


def _fused(q: Tensor, k: Tensor, v: Tensor, live: int, parts: int, scale: float | None) -> Tensor:
    """Attend with groups of queries (entries, fold, D) to keys and values (entries, 1, S, D); as the queries."""
    entries, fold, D = q.shape
    keys = k.narrow(2, 0, live).expand(-1, parts, -1, -1)
    values = keys if v is k else v.narrow(2, 0, live).expand(-1, parts, -1, -1)
    split = q.view(entries, parts, fold // parts, D)
    return F.scaled_dot_product_attention(split, keys, values, scale=scale).view(entries, fold, D)


def _by_products(q: Tensor, k: Tensor, v: Tensor, live: int | None, bias: Tensor | None, mods: ScoreMods) -> Tensor:
    B, H, _, D = q.shape
    G, S, Dv = k.shape[1], k.shape[2], v.shape[-1]
    queries, keys = q.reshape(B * G, H // G, D), k.reshape(B * G, S, D).mT
    factor = mods.factor(D)
    if _keeps_sums(q):
        scores = score_products(queries, keys).mul_(factor)
    else:
        # The scale goes into the product: in a short context each further operation costs as much as the product does.
        scores = torch.baddbmm(q.new_empty(()), queries, keys, beta=0, alpha=factor)
    if bias is None and mods.slopes is not None:
        last = (S if live is None else live) - 1
        wide = torch.promote_types(scores.dtype, torch.float32)
        bias = -mods.slopes.to(wide).view(H, 1) * (last - torch.arange(S, device=q.device))
    if bias is not None:
        wide = scores.to(torch.promote_types(scores.dtype, bias.dtype)).view(B, H, S)
        scores = (wide + bias).view(B * G, H // G, S)
    if live is not None and live < S:
        scores[:, :, live:] = -torch.inf
    if mods.sinks is None:
        weights = scores.softmax(-1).to(v.dtype)
    else:
        weights = softmax_with_sinks(scores.view(B, H, 1, S), mods.sinks).to(v.dtype).view(B * G, H // G, S)
    return torch.bmm(weights, v.reshape(B * G, S, Dv)).view(B, H, 1, Dv)


def score_products(q: Tensor, keys: Tensor) -> Tensor:
    """Return the products (n, m, S) of queries (n, m, D) and keys (n, D, S), in float32 where those are narrower.

    A GPU sums them in float32 and would only round them for a softmax that widens them again.
    """
    if _keeps_sums(q):
        return torch.bmm(q, keys, out_dtype=torch.float32)
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.bmm(q.to(wide), keys.to(wide))


def _keeps_sums(q: Tensor) -> bool:
    """Whether torch can hand out the float32 sums of a product of half precision; it does not differentiate them."""
    half = q.dtype is torch.bfloat16 or q.dtype is torch.float16
    return half and q.device.type == "cuda" and not torch.version.hip and not torch.is_grad_enabled()


def attend_at(
    place: Place,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mods: ScoreMods = PLAIN,
) -> Tensor:
    """Softmax attention of one query per head over the rows of a cache that hold a token, the newest included.

    Args:
        place: where the query stands.
        q: queries (B, H, D).
        k: keys (B, G, S, D) of all rows; neighboring query heads share a key/value head.
        v: values (B, G, S, Dv), likewise; finite everywhere.
        mods: what is done to the scores.

    Returns:
        (B, H, Dv) in the type of q.
    """
    B, H, D = q.shape
    G, S, Dv = k.shape[1], k.shape[2], v.shape[-1]
    factor = mods.factor(D)
    # Heads that share keys are so many queries of one head: no kernel needs to know of groups.
    folded = q.reshape(B, G, H // G, D)
    if mods.only_scaled and Dv == D and fused_pays(q.device, H // G, S):
        mask = place.bias(S, None, q.dtype).expand(B, G, H // G, S)
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=factor).reshape(B, H, Dv)
    return attend_by_products(place, folded, k, v, mods)


def fused_pays(device: torch.device, fold: int, rows: int) -> bool:
    """Return whether torch's fused kernel is the faster way for `fold` queries to the same `rows` keys."""
    return device.type == "cuda" and rows % _ALIGNED == 0 and (fold == 1 or rows <= _FUSED_ROWS)


def attend_by_products(place: Place, q: Tensor, k: Tensor, v: Tensor, mods: ScoreMods) -> Tensor:
    """Attend as `attend_at`, with queries (B, G, H / G, D), by two matrix products; scores are float32 or wider."""
    B, G, fold, D = q.shape
    S, Dv = k.shape[2], v.shape[-1]
    wide = torch.promote_types(q.dtype, torch.float32)
    products = score_products(q.reshape(B * G, fold, D), k.reshape(B * G, S, D).mT).view(B, G, fold, S)
    bias = place.bias(S, mods.slopes, wide)
    scores = torch.add(bias if mods.slopes is None else bias.view(G, fold, S), products, alpha=mods.factor(D))
    weights = softmax_with_sinks(scores.view(B, G * fold, 1, S), mods.sinks).to(v.dtype)
    return torch.bmm(weights.view(B * G, fold, S), v.reshape(B * G, S, Dv)).view(B, G * fold, Dv)
