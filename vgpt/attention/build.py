"""Layers built from their settings: to compute with, or on no device, for the names and shapes of their parameters."""

from typing import Any

import torch

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.registry import module_of
from vgpt.errors import SettingsError


def build_attention(config: AttentionConfig, shape: Shape, layer: int = 0) -> CausalSelfAttention[Any]:
    """Build the module of a variant; its parameters are created, not initialized: the model fills them.

    Args:
        config: the variant's settings.
        shape: the backbone.
        layer: index of the block, for variants whose pattern depends on it.

    Raises:
        SettingsError: the settings do not fit the backbone.
        VgptError: the variant's module cannot be found.
    """
    if faults := config.check(shape):
        raise SettingsError(faults)
    return module_of(config.kind)(config, shape, layer)


def parameter_shapes(config: AttentionConfig, shape: Shape, layer: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a layer, in the order of its module.

    Raises:
        SettingsError: the settings do not fit the backbone.
        VgptError: the variant's module cannot be found.
    """
    with torch.device("meta"):
        module = build_attention(config, shape, layer)
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
