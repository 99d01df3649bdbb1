"""What can be switched on beside any softmax: norms of queries and keys, a gate on the output, sinks, ALiBi.

Sources: query/key norm, Henry et al. 2020 (arXiv 2010.04245), as RMS norm per head before the rotation as in Qwen3;
output gate, Qiu et al. 2025 (arXiv 2505.06708), variant G1; sinks, Xiao et al. 2023 (arXiv 2309.17453), learned as in
gpt-oss; ALiBi, Press et al. 2021 (arXiv 2108.12409).
"""

import torch
from torch import Tensor, nn

from vgpt.attention.config import Shape
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes
from vgpt.attention.place import Place

NORM_EPS = 1e-6


def rms_norm(x: Tensor, weight: Tensor, eps: float = NORM_EPS) -> Tensor:
    """Return x / rms(x) * weight over the last dimension, computed in float32 or wider, in the type of x.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467, equation 4.
    """
    if x.is_cuda and x.dtype is weight.dtype:
        return nn.functional.rms_norm(x, weight.shape, weight, eps)  # one kernel, which sums in float32 by itself
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return nn.functional.rms_norm(wide, weight.shape, weight.to(wide.dtype), eps).to(x.dtype)


class Switches(nn.Module):
    """The parameters that the backbone's switches bring to one layer, and what is done with them.

    Args:
        shape: the backbone; says which switches are on.
        qk_dim: width of one head's queries and keys.
        v_dim: width of one head's output.
    """

    def __init__(self, shape: Shape, qk_dim: int, v_dim: int) -> None:
        super().__init__()
        self.v_dim = v_dim
        self.elementwise = shape.out_gate == "elem"
        self.q_norm = nn.RMSNorm(qk_dim, eps=NORM_EPS) if shape.qk_norm else None
        self.k_norm = nn.RMSNorm(qk_dim, eps=NORM_EPS) if shape.qk_norm else None
        gates = shape.n_head * (v_dim if self.elementwise else 1)
        self.gate = None if shape.out_gate == "none" else nn.Linear(shape.n_embd, gates, bias=shape.bias)
        # Named as a bias so that it starts at zero: a sink weighs as much as one key of score zero.
        self.sink_bias = nn.Parameter(torch.empty(shape.n_head)) if shape.sinks else None
        self.heads = shape.n_head
        self.alibi = shape.pos == "alibi"
        self.plain_scores = not shape.sinks and not self.alibi

    def normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Norm queries and keys (..., qk_dim), where asked for."""
        if self.q_norm is None or self.k_norm is None:
            return q, k
        return rms_norm(q, self.q_norm.weight), rms_norm(k, self.k_norm.weight)

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """Gate the heads' outputs (B, T, H * v_dim) by the layer's input (B, T, C), where asked for."""
        if self.gate is None:
            return y
        gate = self.gate(x).sigmoid()
        if self.elementwise:
            return y * gate
        return (y.unflatten(-1, (self.heads, self.v_dim)) * gate[..., None]).flatten(-2)

    def slopes(self, device: torch.device) -> Tensor | None:
        """Return ALiBi's slopes (H,), where asked for."""
        return alibi_slopes(self.heads, device) if self.alibi else None

    def score_mods(self, device: torch.device, scale: float | None = None) -> ScoreMods:
        """Return what the switches, and a scale of the layer's own, do to the scores."""
        return ScoreMods(scale, self.sink_bias, self.slopes(device))

    def score_mods_at(self, place: Place, scale: float | None = None) -> ScoreMods:
        """Return the same on the device of a step, slopes made once for all layers."""
        slopes = place.once("slopes", lambda: self.slopes(place.position.device))
        return ScoreMods(scale, self.sink_bias, slopes)
