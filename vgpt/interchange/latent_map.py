"""Weights of multi-head attention as those of multi-head latent attention.

Keys and values of all heads become one low-rank product: the singular value decomposition of their concatenated weights
gives the latent (`kv_a_proj`) and what is made of it (`kv_b_proj`), the best product of that rank for inputs whose
features are uncorrelated. Queries with a latent of their own are factored in the same way.

What stands in the way of an exact map, and what is done:

- The layer norm before attention scales features, so that the length of a latent would depend on the token. Its weight
  and bias go into the projections, and it becomes plain: weight 1 and, in models with biases, bias 1. The features of
  its normed h sum to zero, so that h + 1 holds a constant, which carries the biases that MLA's projections lack.
- MLA norms its latents. With biases one feature of the latent is a constant far larger than all the others, so that the
  norm divides every token by the same number, within 1 in 20,000, and its gain multiplies by it again. Without biases
  the division stays: at full rank, where all latents are equally long but for the layer norm's epsilon, it does
  nothing; below it, it is an error.
- Rotary positions act on all features of a head and cannot pass through a latent (DeepSeek-V2, arXiv 2405.04434,
  section 2.1.3). MLA has one rotary key for all heads. A rotated pair of features is one complex number, its rotation
  a factor: for each frequency that the rotary part has, the shared key is the best rank-one approximation of the heads'
  keys, weighted by the size of their queries, and the factors go into the queries. What it does not hold, and the
  frequencies left out, join the part without positions (as in MHA2MLA, Ji et al. 2025, arXiv 2502.14837), turned by
  their mean rotation.

Letters: C = n_embd, H heads, D head width, c = kv_lora_rank, e = qk_rope_head_dim. All is computed in float64. Rows of
a projection are kept as functions of h and a constant: (n, C + 1), the last column the bias.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vgpt.attention.config import Shape
from vgpt.attention.latent.config import MLAConfig
from vgpt.attention.switches import NORM_EPS

Weights = dict[str, Tensor]
Notes = list[tuple[str, float | None]]
"""What a map loses, changes or adds: sentences, each with the share, 0 to 1, that stands in place of its braces."""
_LARGE = 100.0
"""Least ratio of the constant feature of a latent to the length of h."""


def shape_fault(config: MLAConfig, shape: Shape) -> str:
    """Return why weights of heads of width D cannot become those of this MLA; empty where they can."""
    D = shape.head_dim
    for flag, width in (("--qk-nope-head-dim", config.nope_dim(shape)), ("--v-head-dim", config.v_dim(shape))):
        if width != D:
            return f"{flag} {width}: the heads to convert are {D} features wide, and stay so"
    if config.rope_dim(shape) > D:
        return f"--qk-rope-head-dim {config.rope_dim(shape)} is wider than the {D} features of the heads to convert"
    return ""


def to_latent(
    old: Mapping[str, Tensor], config: MLAConfig, shape: Shape, norm: Mapping[str, Tensor], fresh: Mapping[str, Tensor]
) -> tuple[Weights, Weights, Notes]:
    """Return the weights of MLA for those of multi-head attention.

    Args:
        old: `c_attn` (3 H D, C), `c_proj` and what the switches have, by their names in the layer.
        config: an MLA without `shape_fault`.
        shape: the backbone of both.
        norm: weight and, with biases, bias of the layer norm before attention.
        fresh: weights of an untrained layer, for what has no counterpart.

    Returns:
        The layer's weights, the layer norm's, and what is lost or new.
    """
    H, D, e = shape.n_head, shape.head_dim, config.rope_dim(shape)
    rows = _on_plain_norm(old["c_attn.weight"], old.get("c_attn.bias"), norm)
    q, k, v = (part.unflatten(0, (H, D)) for part in rows.chunk(3))
    q = q * ((D + e) / D) ** 0.5  # scores are divided by the root of the width of both parts
    q_rope, k_rope = q.new_zeros(H, e, q.shape[-1]), q.new_zeros(e, q.shape[-1])
    notes: Notes = []
    if e and shape.pos == "rope":
        q_rope, k_rope, k, held = _shared_rotary(q, k, e, shape)
        sentence = (
            f"one rotary key of {e} features for all heads holds {{}} of the squared norm of the keys; the rest has no "
            "positions any more"
        )
        notes.append((sentence, held))
    elif e:
        k_rope[:, :-1] = fresh["kv_a_proj.weight"][-e:]
        notes.append((f"the rotary part of {e} features begins silent: its queries are zero", None))
    down, up, held = _factors(
        torch.cat((k, v), 1).flatten(0, 1), config.kv_lora_rank, shape.bias, fresh["kv_b_proj.weight"]
    )
    notes += _low_rank("keys and values", config.kv_lora_rank, held, biased=shape.bias)
    down["weight"] = torch.cat((down["weight"], k_rope[:, :-1]))
    down["bias"] = torch.cat((down["bias"], k_rope[:, -1]))
    out = _named("kv", down, up, biased=shape.bias)
    queries = torch.cat((q, q_rope), 1).flatten(0, 1)
    if config.q_lora_rank is None:
        out["q_proj.weight"] = queries[:, :-1] + queries[:, -1:] / shape.n_embd
    else:
        down, up, held = _factors(queries, config.q_lora_rank, shape.bias, fresh["q_b_proj.weight"])
        notes += _low_rank("queries", config.q_lora_rank, held, biased=shape.bias)
        out |= _named("q", down, up, biased=shape.bias)
    out |= {name: tensor for name, tensor in old.items() if name.startswith(("c_proj.", "extra."))}
    if "extra.gate.weight" in old:
        gate = _on_plain_norm(old["extra.gate.weight"], old.get("extra.gate.bias"), norm)
        out["extra.gate.weight"] = gate[:, :-1]
        if shape.bias:
            out["extra.gate.bias"] = gate[:, -1]
    plain = {name: torch.ones_like(tensor) for name, tensor in norm.items()}
    return {name: tensor.float().contiguous() for name, tensor in out.items()}, plain, notes


def _on_plain_norm(weight: Tensor, bias: Tensor | None, norm: Mapping[str, Tensor]) -> Tensor:
    """Return rows (n, C + 1) on h and a constant of a projection (n, C) of the layer norm's output."""
    wide = weight.double()
    scaled = wide * norm["weight"].double()
    constant = wide.new_zeros(len(wide)) if bias is None else bias.double()
    if "bias" in norm:
        constant = constant + wide @ norm["bias"].double()
    # The features of h sum to zero: what is the same in all columns of a row does nothing.
    return torch.cat((scaled - scaled.mean(1, keepdim=True), constant[:, None]), 1)


def _factors(rows: Tensor, rank: int, biased: bool, fresh: Tensor) -> tuple[Weights, Tensor, float]:
    """Factor rows (n, C + 1) into a normed latent of `rank` features and what is made of it.

    Args:
        rows: on h and a constant.
        rank: width of the latent.
        biased: whether the projection to the latent has a bias, so that one feature can be the constant.
        fresh: an untrained projection from the latent (n, rank), for features past the full rank.

    Returns:
        Weight (rank, C), bias (rank,) and gain (rank,) of the latent; the projection from it (n, rank); and the share
        of the squared norm that the rank holds.
    """
    U, S, Vh = torch.linalg.svd(rows[:, :-1], full_matrices=False)
    width, features = Vh.shape[1], rank - biased
    taken = min(features, len(S))
    # All C singular vectors hold h whole, whose squared length is C; one of them points where h has nothing.
    length = width * min(1.0, taken / (width - 1)) if width > 1 else 1.0
    down, up = rows.new_zeros(rank, width), fresh.double().clone()
    down[:taken], up[:, :taken] = Vh[:taken], U[:, :taken] * S[:taken]
    bias, gain = rows.new_zeros(rank), rows.new_ones(rank)
    constant = 2.0 ** math.ceil(math.log2(_LARGE * width**0.5)) if biased else 0.0  # a power of 2 in any precision
    gain *= ((length + constant**2) / rank + NORM_EPS) ** 0.5
    if biased:
        bias[-1] = constant
        gain[-1] /= constant
        up[:, -1] = rows[:, -1]
    total = float(S.square().sum())
    return {"weight": down, "bias": bias, "gain": gain}, up, float(S[:taken].square().sum()) / total if total else 1.0


def _named(which: str, down: Weights, up: Tensor, *, biased: bool) -> Weights:
    """Return factors under the names of a layer's parameters: of keys and values, or of queries."""
    out = {f"{which}_a_proj.weight": down["weight"], f"{which}_a_layernorm.weight": down["gain"]}
    return out | {f"{which}_b_proj.weight": up} | ({f"{which}_a_proj.bias": down["bias"]} if biased else {})


def _low_rank(what: str, rank: int, held: float, *, biased: bool) -> Notes:
    if held > 1 - 1e-9:
        return []
    norm = "" if biased else "; without biases the norm of the latents changes their lengths"
    return [(f"a latent of {rank} features holds {{}} of the squared norm of the weights of {what}{norm}", held)]


def _shared_rotary(q: Tensor, k: Tensor, width: int, shape: Shape) -> tuple[Tensor, Tensor, Tensor, float]:
    """Take a rotary key that all heads share out of keys.

    Args:
        q: rows of the queries (H, D, C + 1).
        k: rows of the keys, likewise.
        width: of the rotary part, at most D.
        shape: the backbone.

    Returns:
        Rows of the rotary queries (H, width, C + 1), of the shared key (width, C + 1), of the keys without positions
        (H, D, C + 1), and the share of the keys' squared norm that is rotated still.
    """
    D = shape.head_dim
    queries, keys = (torch.complex(part[:, : D // 2], part[:, D // 2 :]) for part in (q, k))  # (H, D / 2, C + 1)
    # Frequency i of the part is base^(-2 i / width): that of a head's pair i D / width, or of the nearest.
    chosen = [int(index * D / width + 0.5) for index in range(width // 2)]
    size = torch.linalg.vector_norm(queries[:, chosen], dim=-1).clamp_min(1e-12).T  # (width / 2, H)
    weighted = keys[:, chosen].transpose(0, 1) * size[..., None]
    U, S, Vh = torch.linalg.svd(weighted, full_matrices=False)
    factors = U[:, :, 0] * S[:, :1] / size
    scale = torch.linalg.vector_norm(factors, dim=1, keepdim=True).clamp_min(1e-300) / shape.n_head**0.5
    factors, shared = (factors / scale).T, Vh[:, 0] * scale  # (H, width / 2), (width / 2, C + 1)
    rotary = factors.conj()[..., None] * queries[:, chosen]
    rest = keys.clone()
    rest[:, chosen] -= factors[..., None] * shared
    held = 1 - float(rest.abs().square().sum() / keys.abs().square().sum().clamp_min(1e-300))
    return _halves(rotary), _halves(shared), _halves(rest * _mean_rotation(shape)[:, None]), held


def _halves(pairs: Tensor) -> Tensor:
    """Return rows of complex pairs (..., n, C + 1) as rows of features, (..., 2 n, C + 1)."""
    return torch.cat((pairs.real, pairs.imag), -2)


def _mean_rotation(shape: Shape) -> Tensor:
    """Return the mean over distances t of exp(-i f t) for each frequency f of a head, (D / 2,) complex.

    Distances count as 1 / (1 + t), for attention falls with them: what turns slowly stays, what turns fast fades.
    """
    D = shape.head_dim
    frequencies = shape.rope_base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    distances = torch.arange(shape.block_size, dtype=torch.float64)
    weights = 1 / (1 + distances)
    angles = frequencies[:, None] * distances
    return torch.polar(torch.ones_like(angles), -angles) @ (weights / weights.sum()).to(torch.complex128)
