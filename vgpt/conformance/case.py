"""One layer of a variant on one backbone, filled with weights that hide nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention, roles_of
from vgpt.attention.build import build_attention
from vgpt.attention.config import AttentionConfig, Shape, SoftmaxConfig
from vgpt.attention.kernels.flex import NARROWEST
from vgpt.attention.options import OPTIONS
from vgpt.attention.roles import Role
from vgpt.errors import SettingsError
from vgpt.model.init import stream_seed

LONGEST = 1100
"""Tokens up to which every query is asked whom it sees; beyond, hiding is looked for, and probed where it begins."""

FARTHEST = 4096
"""Most tokens of any sequence."""

_SOME = 600
"""Most tokens of sequences that only try a switch or position."""

_COPIES = 1 << 28
"""Bytes that the scores of the sequences computed at once may take, in float64."""

_PLAIN = 150
"""Tokens of an ordinary sequence: two pages of a cache, or chunks, and some; no round number."""

# (heads, head width), tried in turn until one fits the settings.
_BACKBONES = [(4, 8), (4, 16), (6, 8), (8, 8), (12, 8), (16, 8), (4, 32), (4, 64), (12, 64), (2, 8), (1, 8), (5, 8)]


@dataclass(frozen=True)
class Case:
    """What a check measures.

    Attributes:
        config: settings of the layer (those of a single variant: a mix is taken apart).
        shape: the backbone.
        layer: index of the block.
        seed: chooses weights, inputs and places to look at.
        device: where it runs.
        alone: whether to try this backbone and no other, as for a backbone of real size.
        origin: the case that this one differs from in its backbone only.
    """

    config: AttentionConfig
    shape: Shape
    layer: int = 0
    seed: int = 0
    device: str = "cpu"
    alone: bool = False
    origin: "Case | None" = field(default=None, compare=False, repr=False)

    def on(self, **changes: Any) -> "Case":
        """Return the same layer on a backbone with other settings."""
        return replace(self, shape=replace(self.shape, **changes), origin=self.origin or self)

    def build(self, layer: int | None = None) -> CausalSelfAttention:
        """Build the module; its parameters are not filled."""
        return build_attention(self.config, self.shape, self.layer if layer is None else layer)

    def module(self, dtype: torch.dtype = torch.float32, layer: int | None = None) -> CausalSelfAttention:
        """Build the module and fill it: scores of size one, norms that are not 1, biases that are not 0.

        What the module fills itself starts as it says, and a little beside it, lest a start at zero hide something.
        A parameter depends on the seed, its name and its shape, so modules on different backbones share what they can.
        """
        module = self.build(layer)
        roles = roles_of(module)
        with torch.no_grad():
            if Role.OWN in roles.values():
                module.init_parameters(self.numbers("own"))
            for name, parameter in module.named_parameters():
                noise = self._normal(name, parameter.shape)
                if roles[name].decays:
                    parameter.copy_(noise / parameter.shape[-1] ** 0.5)
                elif roles[name] is Role.OWN:
                    parameter.add_(0.1 * noise)
                else:
                    parameter.copy_(0.3 * noise + (0.0 if roles[name] is Role.BIAS else 1.0))
        return module.to(self.device, dtype)

    def inputs(self, batch: int, tokens: int, dtype: torch.dtype = torch.float32, salt: object = "") -> Tensor:
        """Return normal numbers (B, T, C); the same ones for the same arguments."""
        return self._normal(f"input{salt}", (batch, tokens, self.shape.n_embd)).to(self.device, dtype)

    def numbers(self, salt: object = "") -> torch.Generator:
        """Return a random stream of its own, on the CPU."""
        return torch.Generator().manual_seed(stream_seed(self.seed, f"{salt}"))

    @property
    def softmax(self) -> bool:
        """Whether the variant is a softmax over visible keys."""
        return isinstance(self.config, SoftmaxConfig)

    @cached_property
    def narrow(self) -> bool:
        """Whether the layer computes in float32 inside even where all that it is given is float64.

        A step too small for float32 shows it: what float64 computes is then a straight line.
        """
        if self.origin is not None:
            return self.origin.narrow
        module, x = self.module(torch.float64), self.inputs(1, 9, torch.float64)
        step = 1e-6 * self.inputs(1, 9, torch.float64, salt="step")
        with torch.no_grad():
            bend = module(x + step) - 2 * module(x) + module(x - step)
        return float(bend.abs().max()) > 1e-9

    @property
    def precisions(self) -> list[tuple[torch.dtype, float]]:
        """Precisions in which two ways to compute the same are compared, with how near they must be."""
        return [(torch.float32, 1e-5), (torch.float64, 1e-5 if self.narrow else 1e-10)]

    @cached_property
    def reach(self) -> int | None:
        """The shortest sequence in which some head hides an earlier token; None: none up to the block size.

        Beyond `LONGEST` a grid of queries is asked, and `pairs`, which may know of hiding between them.
        """
        if self.origin is not None:
            return self.origin.reach  # who sees whom is the settings' matter, and costly to ask
        near = min(LONGEST, self.shape.block_size)
        if near_ones := self._hiding(torch.arange(near), near):
            return near_ones[0] + 1
        most = min(FARTHEST, self.shape.block_size)
        found = _first(lambda tokens: self.config.pairs(tokens) < causal_pairs(tokens), 1, most)
        grid = torch.arange(near - 1, most, max(64, most // 64))
        for row in self._hiding(torch.cat((grid, torch.tensor([most - 1]))), most)[:1]:
            first = _first(lambda tokens: bool(self._hiding(torch.tensor([tokens - 1]), tokens)), near, row + 1)
            found = min(first or row + 1, found or most)
        return found

    @property
    def longest(self) -> int:
        """Most tokens of any sequence but the long ones."""
        return min(self.shape.block_size, max(LONGEST, (self.reach or 0) + 9))

    @property
    def tokens(self) -> int:
        """Tokens of a sequence that is long enough for something to be hidden, where anything is."""
        return min(self.longest, max(_PLAIN, (self.reach or 0) + 9))

    @property
    def some_tokens(self) -> int:
        """As `tokens`, for what need not see anything hidden where that takes a long sequence."""
        return self.tokens if self.tokens <= _SOME else min(self.tokens, _PLAIN)

    def copies(self, tokens: int, most: int) -> int:
        """Return how many sequences of `tokens`, at most `most`, may be computed at once."""
        return max(1, min(most, _COPIES // (8 * self.shape.n_head * tokens * tokens)))

    def visible(self, rows: Tensor, tokens: int, layer: int | None = None) -> Tensor:
        """Return who sees whom, (rows, tokens) booleans: the union over the heads."""
        return self.visible_by_head(rows, tokens, layer).any(0)

    def visible_by_head(self, rows: Tensor, tokens: int, layer: int | None = None) -> Tensor:
        """Return who sees whom in each head, (H, rows, tokens) booleans."""
        q, k = rows[:, None], torch.arange(tokens)[None, :]
        at = self.layer if layer is None else layer
        heads = [torch.as_tensor(self.config.visible(q, k, at, head)) for head in range(self.shape.n_head)]
        return torch.stack([mask.expand(len(rows), tokens) for mask in heads])

    def rows(self, tokens: int, count: int) -> list[int]:
        """Choose up to `count` of `tokens` positions: the ends, where hiding begins, and others at random."""
        edges = [0, 1, tokens - 1, tokens // 2]
        if self.reach is not None:
            hiding = [self.reach - 2, self.reach - 1, self.reach]
            edges = [*hiding, tokens - 1] if tokens > LONGEST else edges + hiding
        count = min(count, 4) if tokens > LONGEST else count
        others = torch.randperm(tokens, generator=self.numbers(f"rows{tokens}")).tolist()
        chosen = list(dict.fromkeys(row for row in [*edges, *others] if 0 <= row < tokens))
        return sorted(chosen[:count])

    def backbones(self) -> "Iterator[tuple[str, Case]]":
        """Yield every backbone that the settings accept, one change at a time and all switches together, by its flags.

        On CUDA also one whose heads the fused kernels take.
        """
        if self.alone:
            yield "this backbone", self
            return
        changes: list[tuple[str, dict[str, Any]]] = [("the plain backbone", {}), ("--no-bias", {"bias": False})]
        if torch.device(self.device).type == "cuda" and self.shape.head_dim < NARROWEST:
            changes.append((f"heads {NARROWEST} wide", {"n_embd": NARROWEST * self.shape.n_head}))
        honored = [option for option in OPTIONS if self.config.refusal(option) is None]
        positions = [option for option in honored if option.position and option.name != self.shape.pos]
        switches = [option for option in honored if not option.position]
        changes += [
            (option.flag_with(value), {option.setting: value})
            for option in [*positions, *switches]
            for value in option.values
        ]
        if switches:
            every = {option.setting: option.values[-1] for option in switches}
            flags = " ".join(option.flag_with(option.values[-1]) for option in switches)
            names = [self.shape.pos, *(option.name for option in positions)]
            changes += [(f"{flags} --pos {pos}", {**every, "pos": pos}) for pos in names]
        for flags, change in changes:
            case = self.on(**change)
            if not case.config.check(case.shape):
                yield flags, case

    def _hiding(self, rows: Tensor, tokens: int) -> list[int]:
        """Return those of the queries from which some head hides an earlier token."""
        hidden = ~self.visible_by_head(rows, tokens).all(0) & (torch.arange(tokens) <= rows[:, None])
        return rows[hidden.any(1)].tolist()

    def _normal(self, name: str, size: Sequence[int]) -> Tensor:
        return torch.empty(tuple(size), dtype=torch.float64).normal_(generator=self.numbers(name))


def find_backbone(configs: Sequence[AttentionConfig]) -> Shape:
    """Return a small backbone that all the settings fit.

    Raises:
        SettingsError: none was found.
    """
    faults: list[str] = []
    for heads, width in _BACKBONES:
        shape = Shape(heads * width, heads, 4096)
        faults = faults or [fault for config in configs for fault in config.check(shape)]
        if not any(config.check(shape) for config in configs):
            return shape
    raise SettingsError(faults, "No small backbone fits these settings; check_variant takes the `shape` to use.")


def causal_pairs(tokens: int) -> int:
    """Count the pairs of full causal attention."""
    return tokens * (tokens + 1) // 2


def _first(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the least number from `low` to `high` from which on something holds; None where not even at `high`."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high
