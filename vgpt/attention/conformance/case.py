"""One layer of a variant on one trunk, filled with weights that hide nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.config import AttentionConfig, Shape, SoftmaxConfig
from vgpt.attention.registry import build_attention
from vgpt.errors import SettingsError
from vgpt.model.init import stream_seed

LONGEST = 1100
"""Most tokens that checks of who sees whom run on, so that a check takes seconds."""

_PLAIN = 150
"""Tokens of an ordinary sequence: two pages of a cache, or chunks, and some; no round number."""

# (heads, head width), tried in turn until one fits the settings.
_TRUNKS = [(4, 8), (4, 16), (6, 8), (8, 8), (12, 8), (16, 8), (4, 32), (4, 64), (12, 64), (2, 8), (1, 8), (5, 8)]


@dataclass(frozen=True)
class Case:
    """What a check measures.

    Attributes:
        config: settings of the layer (those of a single variant: a mix is taken apart).
        shape: the trunk.
        layer: index of the block.
        seed: chooses weights, inputs and places to look at.
        device: where it runs.
        origin: the case that this one differs from in its trunk only.
    """

    config: AttentionConfig
    shape: Shape
    layer: int = 0
    seed: int = 0
    device: str = "cpu"
    origin: "Case | None" = field(default=None, compare=False, repr=False)

    def on(self, **changes: Any) -> "Case":
        """Return the same layer on a trunk with other settings."""
        return replace(self, shape=replace(self.shape, **changes), origin=self.origin or self)

    def build(self, layer: int | None = None) -> CausalSelfAttention:
        """Build the module; its parameters are not filled."""
        return build_attention(self.config, self.shape, self.layer if layer is None else layer)

    def module(self, dtype: torch.dtype = torch.float32, layer: int | None = None) -> CausalSelfAttention:
        """Build the module and fill it: scores of size one, norms that are not 1, biases that are not 0.

        A parameter depends on the seed, its name and its shape, so modules on different trunks share what they can.
        """
        module = self.build(layer)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = self._normal(name, parameter.shape)
                if parameter.ndim >= 2:
                    parameter.copy_(noise / parameter.shape[-1] ** 0.5)
                else:
                    parameter.copy_(0.3 * noise + (0.0 if name.endswith("bias") else 1.0))
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
    def reach(self) -> int | None:
        """The shortest sequence in which some head hides an earlier token; None: none up to `LONGEST`."""
        if self.origin is not None:
            return self.origin.reach  # who sees whom is the settings' matter, and costly to ask
        seen_by_all = self.visible_by_head(torch.arange(self.longest), self.longest).all(0)
        hidden = seen_by_all.logical_not().tril().any(1)
        return int(hidden.nonzero()[0]) + 1 if hidden.any() else None

    @property
    def longest(self) -> int:
        """Most tokens of any sequence but the long ones."""
        return min(LONGEST, self.shape.block_size)

    @property
    def tokens(self) -> int:
        """Tokens of a sequence that is long enough for something to be hidden, where anything is."""
        return min(self.longest, max(_PLAIN, (self.reach or 0) + 9))

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
            edges += [self.reach - 2, self.reach - 1, self.reach]
        others = torch.randperm(tokens, generator=self.numbers(f"rows{tokens}")).tolist()
        chosen = list(dict.fromkeys(row for row in [*edges, *others] if 0 <= row < tokens))
        return sorted(chosen[:count])

    def trunks(self) -> "Iterator[tuple[str, Case]]":
        """Yield every trunk that the settings accept, one change at a time and all switches together, by its flags."""
        changes: list[tuple[str, dict[str, Any]]] = [("the plain trunk", {}), ("--no-bias", {"bias": False})]
        positions = [pos for pos in self.config.positions if pos != self.shape.pos]
        changes += [(f"--pos {pos}", {"pos": pos}) for pos in positions]
        values: dict[str, Sequence[Any]] = {"qk_norm": [True], "out_gate": ["head", "elem"], "sinks": [True]}
        known = {name: values[name] for name in self.config.switches}
        changes += [(_flag(name, value), {name: value}) for name, some in known.items() for value in some]
        if known:
            every = {name: some[-1] for name, some in known.items()}
            flags = " ".join(_flag(name, value) for name, value in every.items())
            changes += [(f"{flags} --pos {pos}", {**every, "pos": pos}) for pos in [self.shape.pos, *positions]]
        for flags, change in changes:
            case = self.on(**change)
            if not case.config.check(case.shape):
                yield flags, case

    def _normal(self, name: str, size: Sequence[int]) -> Tensor:
        return torch.empty(tuple(size), dtype=torch.float64).normal_(generator=self.numbers(name))


def find_trunk(configs: Sequence[AttentionConfig]) -> Shape:
    """Return a small trunk that all the settings fit.

    Raises:
        SettingsError: none was found.
    """
    faults: list[str] = []
    for heads, width in _TRUNKS:
        shape = Shape(heads * width, heads, 4096)
        faults = faults or [fault for config in configs for fault in config.check(shape)]
        if not any(config.check(shape) for config in configs):
            return shape
    raise SettingsError(faults, "No small trunk fits these settings; check_variant takes the `shape` to use.")


def _flag(name: str, value: object) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value}"
