"""The parameters of a layer by name and shape, from its real module, without memory for a single number."""

from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.registry import build_attention


def parameter_shapes(config: AttentionConfig, shape: Shape, layer: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a layer, in the order of its module.

    Raises:
        SettingsError: the settings do not fit the trunk.
        VgptError: the variant's module cannot be found.
    """
    import torch

    with torch.device("meta"):
        module = build_attention(config, shape, layer)
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
