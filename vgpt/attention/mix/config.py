"""Settings of a model whose layers differ in their attention."""

from functools import cache
from typing import Any

from pydantic import ValidationError, field_validator

from vgpt.attention.config import AttentionConfig, CacheCost, Flops, Shape
from vgpt.attention.grammar import LayerPattern
from vgpt.attention.registry import register_attention
from vgpt.errors import SettingsError


@register_attention("mix", module="", summary="a pattern of variants over the layers, as in 5xlocal+mha")
class MixConfig(AttentionConfig):
    """A pattern of variants, repeated over the layers and cut off at the last one.

    Models of this kind keep full attention in few layers: Gemma 3 (arXiv 2503.19786) uses 5xlocal+mha.
    Costs are those of whole models: they are asked of each layer's own settings, `at(layer)`.
    """

    pattern: str = "5xlocal+mha"
    """variants over the layers; --attn 5xlocal+mha is short for it"""

    @field_validator("pattern")
    @classmethod
    def _canonical(cls, text: str) -> str:
        """Spell every setting out, so that equal patterns are equal texts."""
        try:
            return str(LayerPattern.read(text))
        except SettingsError as error:
            raise ValueError(error.message) from error
        except ValidationError as error:
            faults = [f"{fault['loc'][0]} = {fault['input']!r}: {fault['msg']}" for fault in error.errors()]
            raise ValueError(f"--attn {text}: " + "; ".join(faults)) from error

    @property
    def unit(self) -> tuple[AttentionConfig, ...]:
        """The settings of the layers of one repetition."""
        return _unit(self.pattern)

    def at(self, layer: int) -> AttentionConfig:
        """Return the settings of one layer."""
        unit = self.unit
        return unit[layer % len(unit)]

    def check(self, shape: Shape) -> list[str]:
        """Every variant of the pattern must fit."""
        faults: dict[str, None] = {}
        for config in self.unit:
            faults.update(dict.fromkeys(config.check(shape)))
        return list(faults)

    def confounds(self, shape: Shape) -> list[str]:
        """Those of any layer."""
        found: dict[str, None] = {}
        for config in self.unit:
            found.update(dict.fromkeys(config.confounds(shape)))
        return list(found)

    def params(self, shape: Shape) -> int:
        """A mix has no layer of its own."""
        raise TypeError("ask the settings of a layer: MixConfig.at(layer)")

    def matmul_params(self, shape: Shape) -> int:
        """A mix has no layer of its own."""
        raise TypeError("ask the settings of a layer: MixConfig.at(layer)")

    def cache_cost(self, shape: Shape) -> CacheCost:
        """A mix has no layer of its own."""
        raise TypeError("ask the settings of a layer: MixConfig.at(layer)")

    def flops(self, shape: Shape, tokens: int) -> Flops:
        """A mix has no layer of its own."""
        raise TypeError("ask the settings of a layer: MixConfig.at(layer)")

    def visible(self, q: Any, k: Any, layer: int = 0, head: Any = 0) -> Any:
        """As in the variant of that layer."""
        return self.at(layer).visible(q, k, layer, head)


def with_last(attn: AttentionConfig, last: AttentionConfig, n_layer: int) -> AttentionConfig:
    """Return settings for `n_layer` layers in which the last one is `last`; a plain variant where all are equal."""
    layers = (*(attn.at(layer) for layer in range(n_layer - 1)), last)
    return last if all(config == last for config in layers) else MixConfig(pattern=str(LayerPattern(layers)))


def cut_off(attn: AttentionConfig, n_layer: int) -> str:
    """Return a remark where the pattern does not go into the layers evenly; otherwise nothing."""
    if not isinstance(attn, MixConfig) or n_layer % len(attn.unit) == 0:
        return ""
    pattern = LayerPattern.read(attn.pattern)
    whole = LayerPattern(pattern.layers(n_layer))
    return f"{n_layer} layers are no multiple of the pattern's {len(pattern.unit)}: it is cut off, {whole}"


@cache
def _unit(pattern: str) -> tuple[AttentionConfig, ...]:
    return LayerPattern.read(pattern).unit
