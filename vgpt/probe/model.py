"""The small models: short convolution and mixers with residuals, after Zoology (Arora et al. 2023, 2312.04927)."""

from collections.abc import Mapping
from types import UnionType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgpt.attention.base import layers_of, roles_of
from vgpt.attention.build import build_attention
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.roles import Role
from vgpt.model.init import STD, fill_own, stream
from vgpt.probe.recipe import GRU, Recipe

_WIDTH = 3


class ShortConvolution(nn.Module):
    """A causal convolution of width 3 per feature, times a projection of its input: BaseConv of Arora et al. 2023.

    It joins each token with the two before it and recalls nothing from further away.
    """

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_embd, n_embd, _WIDTH, groups=n_embd, padding=_WIDTH - 1)
        self.gate = nn.Linear(n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        mixed = self.conv(x.mT)[..., : x.shape[1]].mT
        return mixed * self.gate(x)


class Recurrence(nn.Module):
    """The control of tasks that attention is not known to learn: a GRU (Cho et al. 2014, arXiv 1406.1078)."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.gru = nn.GRU(n_embd, n_embd, batch_first=True)
        self.c_proj = nn.Linear(n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        return self.c_proj(self.gru(x)[0])


class SmallBlock(nn.Module):
    """Norm, mixer, residual; where there is an MLP: norm, MLP, residual."""

    def __init__(self, mixer: nn.Module, n_embd: int, *, mlp: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd)
        self.attn = mixer
        self.ln_2 = nn.LayerNorm(n_embd) if mlp else None
        self.mlp = (
            nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd)) if mlp else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        x = x + self.attn(self.ln_1(x))
        return x if self.mlp is None or self.ln_2 is None else x + self.mlp(self.ln_2(x))


class SmallModel(nn.Module):
    """A model of a recipe around a variant; its output layer is the token embedding.

    Args:
        recipe: sizes, positions, switches.
        attn: the variant with its settings, or `gru`.
        seed: of the first weights.
    """

    def __init__(self, recipe: Recipe, attn: str, seed: int) -> None:
        super().__init__()
        C, shape = recipe.n_embd, recipe.shape
        mixers: list[nn.Module] = [ShortConvolution(C)] if recipe.short_conv else []
        if attn == GRU:
            mixers += [Recurrence(C) for _ in range(recipe.mixers)]
        else:
            layers = recipe.layers(resolve_attention(attn))
            mixers += [build_attention(layer, shape, index) for index, layer in enumerate(layers)]
        self.wte = nn.Embedding(recipe.made.n_tokens, C)
        self.wpe = nn.Embedding(recipe.longest, C) if recipe.options["pos"] == "learned" else None
        self.h = nn.ModuleList(SmallBlock(mixer, C, mlp=recipe.mlp) for mixer in mixers)
        self.ln_f = nn.LayerNorm(C)
        initialize(self, seed, recipe.init)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (B, T, V) for token ids (B, T)."""
        x = self.wte(ids)
        if self.wpe is not None:
            x = x + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


def initialize(model: SmallModel, seed: int, init: str) -> None:
    """Fill all parameters in place, each from a random stream of its own, so that backbones are equal in all variants.

    Embeddings are N(0, 0.02), norms 1. Convolutions and recurrences start as torch's do: weights and biases uniform
    within 1 / sqrt(fan-in). So do linear layers with "uniform"; with "normal" their weights are N(0, 0.02) and their
    biases 0, as in GPT-2, and here in projections into the residual stream too. What is a layer's own, the layer fills.
    """
    roles = roles_of(model)
    bounds = _bounds(model, roles, nn.Conv1d | nn.GRU | (nn.Linear if init == "uniform" else nn.GRU))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            numbers, draws = torch.empty(parameter.shape), stream(seed, name)
            if (bound := bounds.get(name)) is not None:
                parameter.copy_(numbers.uniform_(-bound, bound, generator=draws))
            elif roles[name] is Role.GAIN or roles[name] is Role.BIAS:
                parameter.fill_(1.0 if roles[name] is Role.GAIN else 0.0)
            elif roles[name] is not Role.OWN:
                parameter.copy_(numbers.normal_(0.0, STD, generator=draws))
        for name, layer in layers_of(model):
            if own := [key for key in roles if key.startswith(f"{name}.") and roles[key] is Role.OWN]:
                fill_own(layer, [key.removeprefix(f"{name}.") for key in own], stream(seed, name))


def _bounds(model: nn.Module, roles: Mapping[str, Role], kinds: UnionType) -> dict[str, float]:
    """Return the largest first value of every parameter of the layers of some kinds, which torch fills uniformly."""
    found: dict[str, float] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, kinds):
            fan_in = module.hidden_size if isinstance(module, nn.GRU) else _matrix(module)[0].numel()
            found |= {f"{prefix}.{name}": fan_in**-0.5 for name, _ in module.named_parameters(recurse=False)}
    return {name: bound for name, bound in found.items() if roles[name] is not Role.OWN}


def _matrix(module: nn.Module) -> Tensor:
    """Return the weight of a linear layer or convolution, whose first dimension are its outputs."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
