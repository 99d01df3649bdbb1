"""What the entries of `vgpt.attention.options` compute in a layer: one formula for each, under the same name.

Sources: query/key norm, Henry et al. 2020 (arXiv 2010.04245), as RMS norm per head before the rotation as in Qwen3;
output gate, Qiu et al. 2025 (arXiv 2505.06708), variant G1; sinks, Xiao et al. 2023 (arXiv 2309.17453), learned as in
gpt-oss; ALiBi, Press et al. 2021 (arXiv 2108.12409).

Of the position encodings, `learned` acts in the model and `rope` in `CausalSelfAttention.rotated`: they have none here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vgpt.attention.config import Shape
from vgpt.attention.kernels.scores import ScoreMods, alibi_slopes
from vgpt.attention.options import Sizes, chosen
from vgpt.attention.place import Place

NORM_EPS = 1e-6
Parts = Mapping[str, nn.Module | nn.Parameter]


def rms_norm(x: Tensor, weight: Tensor, eps: float = NORM_EPS) -> Tensor:
    """Return x / rms(x) * weight over the last dimension, computed in float32 or wider, in the type of x.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467, equation 4.
    """
    if x.is_cuda and x.dtype is weight.dtype:
        return nn.functional.rms_norm(x, weight.shape, weight, eps)  # one kernel, which sums in float32 by itself
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return nn.functional.rms_norm(wide, weight.shape, weight.to(wide.dtype), eps).to(x.dtype)


class Formula:
    """What one option does in a layer. A formula overrides what it acts on, and keeps nothing itself.

    `layer` is the `Switches` that holds the parameters under the names that `parts` gives them, which checkpoints
    know; it is untyped, because these names come from the formula.
    """

    def parts(self, sizes: Sizes, value: Any) -> Parts:
        """Return the parameters, and modules with parameters, that a layer gets; how they start, their roles tell."""
        return {}

    def queries(self, layer: Any, q: Tensor) -> Tensor:
        """Change queries (B, T, H, qk_dim) before they are rotated."""
        return q

    def keys(self, layer: Any, k: Tensor) -> Tensor:
        """Change keys (B, T, G, qk_dim) before they are rotated; latent attention has none while it decodes."""
        return k

    def output(self, layer: Any, y: Tensor, x: Tensor) -> Tensor:
        """Change the heads' outputs (B, T, H * v_dim), where x is the layer's input (B, T, C)."""
        return y

    def sinks(self, layer: Any) -> Tensor | None:
        """Return a logit per head, (H,), for the denominator of the softmax."""
        return None

    def slopes(self, layer: Any, device: torch.device) -> Tensor | None:
        """Return how much each head's scores fall per token of distance, (H,)."""
        return None


FORMULAS: dict[str, Formula] = {}
"""Every formula by the name of its option."""


def formula(name: str) -> Callable[[type[Formula]], type[Formula]]:
    """Make a class the formula of the option `name`."""

    def register(made: type[Formula]) -> type[Formula]:
        FORMULAS[name] = made()
        return made

    return register


@formula("qk_norm")
class QKNorm(Formula):
    """RMS norms of queries and keys."""

    def parts(self, sizes: Sizes, value: Any) -> Parts:
        """A weight per feature of a head, the same for all heads."""
        return {name: nn.RMSNorm(sizes.qk_dim, eps=NORM_EPS) for name in ("q_norm", "k_norm")}

    def queries(self, layer: Any, q: Tensor) -> Tensor:
        """Norm over the features of each head."""
        return rms_norm(q, layer.q_norm.weight)

    def keys(self, layer: Any, k: Tensor) -> Tensor:
        """Norm over the features of each head."""
        return rms_norm(k, layer.k_norm.weight)


@formula("out_gate")
class OutGate(Formula):
    """A sigmoid gate on the output, computed from the layer's input."""

    def parts(self, sizes: Sizes, value: Any) -> Parts:
        """One projection for the gates of all heads."""
        gates = sizes.n_head * (sizes.v_dim if value == "elem" else 1)
        return {"gate": nn.Linear(sizes.n_embd, gates, bias=sizes.bias)}

    def output(self, layer: Any, y: Tensor, x: Tensor) -> Tensor:
        """Multiply each feature, or each head, by its gate."""
        gate = layer.gate(x).sigmoid()
        if gate.shape[-1] == y.shape[-1]:
            return y * gate
        return (y.unflatten(-1, (gate.shape[-1], -1)) * gate[..., None]).flatten(-2)


@formula("sinks")
class Sinks(Formula):
    """Sinks whose logits are learned."""

    def parts(self, sizes: Sizes, value: Any) -> Parts:
        """Named as a bias so that it starts at zero: a sink weighs as much as one key of score zero."""
        return {"sink_bias": nn.Parameter(torch.empty(sizes.n_head))}

    def sinks(self, layer: Any) -> Tensor:
        """The logits."""
        return layer.sink_bias


@formula("alibi")
class ALiBi(Formula):
    """Slopes that are not learned."""

    def slopes(self, layer: Any, device: torch.device) -> Tensor:
        """ALiBi's, from the number of heads."""
        return alibi_slopes(layer.heads, device)


class Switches(nn.Module):
    """The parameters that the backbone's options bring to one layer, and what is done with them.

    Args:
        shape: the backbone; says which options are on.
        qk_dim: width of one head's queries and keys.
        v_dim: width of one head's output.
    """

    def __init__(self, shape: Shape, qk_dim: int, v_dim: int) -> None:
        super().__init__()
        self.heads = shape.n_head
        sizes = Sizes(shape.n_embd, shape.n_head, qk_dim, v_dim, shape.bias)
        asked = [(FORMULAS[option.name], value) for option, value in chosen(shape) if option.name in FORMULAS]
        for one, value in asked:
            for name, part in one.parts(sizes, value).items():
                setattr(self, name, part)
        on = [one for one, _ in asked]
        self._queries, self._keys, self._outputs, self._sinks, self._slopes = (
            tuple(one for one in on if getattr(type(one), act) is not getattr(Formula, act))
            for act in ("queries", "keys", "output", "sinks", "slopes")
        )
        self.plain_scores = not self._sinks and not self._slopes
        """whether scores are products of queries and keys, and nothing beside them"""
        self.plain_heads = not self._queries and not self._keys
        """whether queries and keys stay as they are projected"""

    def queries(self, q: Tensor) -> Tensor:
        """Change queries (B, T, H, qk_dim) as the options ask."""
        for one in self._queries:
            q = one.queries(self, q)
        return q

    def normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Change queries and keys (B, T, heads, qk_dim) as the options ask, such as by a norm."""
        for one in self._keys:
            k = one.keys(self, k)
        return self.queries(q), k

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """Change the heads' outputs (B, T, H * v_dim), given the layer's input (B, T, C), such as by a gate."""
        for one in self._outputs:
            y = one.output(self, y, x)
        return y

    def slopes(self, device: torch.device) -> Tensor | None:
        """Return how much scores fall per token of distance, (H,); None where they do not."""
        return self._slopes[0].slopes(self, device) if self._slopes else None

    def sinks(self) -> Tensor | None:
        """Return the logits of sinks (H,); None without."""
        return self._sinks[0].sinks(self) if self._sinks else None

    def score_mods(self, device: torch.device, scale: float | None = None) -> ScoreMods:
        """Return what the options, and a scale of the layer's own, do to the scores."""
        return ScoreMods(scale, self.sinks(), self.slopes(device))

    def score_mods_at(self, place: Place, scale: float | None = None) -> ScoreMods:
        """Return the same on the device of a step, slopes made once for all layers."""
        slopes = place.once("slopes", lambda: self.slopes(place.position.device))
        return ScoreMods(scale, self.sinks(), slopes)
