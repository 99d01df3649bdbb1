"""Attention variants: settings, masks and costs (torch-free), modules, caches, references.

The names below are all that a variant of your own needs: `from vgpt.attention import AttentionConfig, ...`. Each is
imported when it is first asked for, so that settings are at hand without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgpt.attention.base import CausalSelfAttention
    from vgpt.attention.build import build_attention
    from vgpt.attention.cache import Cache, TokenCache
    from vgpt.attention.config import AttentionConfig, CacheCost, Flops, Shape, SoftmaxConfig
    from vgpt.attention.ground import Ground
    from vgpt.attention.kernels.backends import attend
    from vgpt.attention.kernels.scores import ScoreMods
    from vgpt.attention.place import Place
    from vgpt.attention.registry import register_attention, variants
    from vgpt.attention.roles import Role
    from vgpt.attention.switches import Switches, rms_norm

__all__ = [
    "AttentionConfig",
    "Cache",
    "CacheCost",
    "CausalSelfAttention",
    "Flops",
    "Ground",
    "Place",
    "Role",
    "ScoreMods",
    "Shape",
    "SoftmaxConfig",
    "Switches",
    "TokenCache",
    "attend",
    "build_attention",
    "register_attention",
    "rms_norm",
    "variants",
]

_HOMES = {
    "kernels.backends": ("attend",),
    "kernels.scores": ("ScoreMods",),
    "base": ("CausalSelfAttention",),
    "build": ("build_attention",),
    "cache": ("Cache", "TokenCache"),
    "config": ("AttentionConfig", "CacheCost", "Flops", "Shape", "SoftmaxConfig"),
    "ground": ("Ground",),
    "place": ("Place",),
    "registry": ("register_attention", "variants"),
    "roles": ("Role",),
    "switches": ("Switches", "rms_norm"),
}
_HOME = {name: f"vgpt.attention.{home}" for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
