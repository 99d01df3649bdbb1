"""Settings of a model whose layers differ in their attention."""

from functools import cache

from pydantic import ValidationError, field_validator

from vgpt.attention.config import AttentionConfig, ModelAttention, Shape
from vgpt.attention.grammar import LayerPattern
from vgpt.attention.registry import register_attention
from vgpt.errors import SettingsError


@register_attention("mix", module="", summary="a pattern of variants over the layers, as in 5xlocal+mha", help_rank=100)
class MixConfig(ModelAttention):
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
    def layer_pattern(self) -> LayerPattern:
        """What the text says."""
        return _read(self.pattern)

    def at(self, layer: int) -> AttentionConfig:
        """Return the settings of one layer."""
        unit = self.layer_pattern.unit
        return unit[layer % len(unit)]

    def check(self, shape: Shape) -> list[str]:
        """Every variant of the pattern must fit."""
        return list(dict.fromkeys(fault for config in self.layer_pattern.unit for fault in config.check(shape)))

    def confounds(self, shape: Shape) -> list[str]:
        """Those of any layer."""
        return list(dict.fromkeys(text for config in self.layer_pattern.unit for text in config.confounds(shape)))


def with_last(attn: ModelAttention, last: AttentionConfig, n_layer: int) -> ModelAttention:
    """Return settings for `n_layer` layers in which the last one is `last`; a plain variant where all are equal."""
    layers = (*(attn.at(layer) for layer in range(n_layer - 1)), last)
    return last if all(config == last for config in layers) else MixConfig(pattern=str(LayerPattern(layers)))


def cut_off(attn: ModelAttention, n_layer: int) -> str:
    """Return a remark where the pattern does not go into the layers evenly; otherwise nothing."""
    if not isinstance(attn, MixConfig) or n_layer % len(attn.layer_pattern.unit) == 0:
        return ""
    pattern = attn.layer_pattern
    whole = LayerPattern(pattern.layers(n_layer))
    return f"{n_layer} layers are no multiple of the pattern's {len(pattern.unit)}: it is cut off, {whole}"


@cache
def _read(pattern: str) -> LayerPattern:
    return LayerPattern.read(pattern)
