"""The open set of attention variants: settings by name, modules loaded when they are first built.

Registering costs no torch import, so that help texts, tables and completion know every variant at once.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from vgpt.attention.config import AttentionConfig, Shape
from vgpt.errors import SettingsError, VgptError, did_you_mean

if TYPE_CHECKING:
    from vgpt.attention.base import CausalSelfAttention

Config = TypeVar("Config", bound=type[AttentionConfig])

_BUILT_IN = ("vgpt.attention.grouped.config", "vgpt.attention.local.config")
_configs: dict[str, type[AttentionConfig]] = {}
_modules: dict[str, str] = {}


def register_attention(kind: str, *, module: str, summary: str = "") -> Callable[[Config], Config]:
    """Make a settings class the variant `kind`.

    Args:
        kind: name on the command line, in TOML and in tables.
        module: where its `CausalSelfAttention` is: "package.file:Class", or "Class" in the settings' own file.
        summary: one line for lists of variants; defaults to the first line of the class's docstring.

    Raises:
        TypeError: the name is taken by another class, or the class is no `AttentionConfig`.
    """

    def register(config: Config) -> Config:
        if kind in _configs:
            raise TypeError(
                f"attention {kind!r} is registered twice: {_configs[kind].__module__} and {config.__module__}"
            )
        config.kind = kind
        config.summary = summary or (config.__doc__ or "").strip().partition("\n")[0]
        _configs[kind] = config
        _modules[kind] = module if ":" in module else f"{config.__module__}:{module}"
        return config

    return register


def variants() -> dict[str, type[AttentionConfig]]:
    """Return every known variant's settings class by name, built-in ones first."""
    for name in _BUILT_IN:
        import_module(name)
    return dict(_configs)


def load_entry_points(warn: Callable[[str], None]) -> None:
    """Import third-party variants of the entry-point group `vgpt.attention`; a broken one only warns."""
    variants()
    for point in entry_points(group="vgpt.attention"):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and must not break the command line
            warn(f"plug-in {point.name} ({point.value}) not loaded: {error}")


def parse_attention(text: str) -> dict[str, Any]:
    """Read `gqa` or `gqa:n_kv_head=4,...` as the settings table `{"kind": "gqa", "n_kv_head": "4"}`.

    Raises:
        SettingsError: an unknown variant or a malformed setting.
    """
    kind, _, rest = text.partition(":")
    known = variants()
    if kind not in known:
        raise SettingsError([unknown_variant(kind)])
    table: dict[str, Any] = {"kind": kind}
    for item in filter(None, rest.split(",")):
        name, equals, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not value.strip():
            raise SettingsError([f"--attn {text}: {item!r} is not of the form setting=value"])
        table[name] = value.strip()
    return table


def resolve_attention(value: Any) -> AttentionConfig:
    """Build a variant's settings from a table with a `kind`, a text like `gqa:n_kv_head=4`, or settings as they are.

    Raises:
        SettingsError: an unknown variant.
        pydantic.ValidationError: wrong settings of a known variant.
    """
    if isinstance(value, AttentionConfig):
        return value
    table: dict[str, Any] = parse_attention(value) if isinstance(value, str) else dict(value)
    kind = table.pop("kind", None)
    config = variants().get(str(kind))
    if config is None:
        raise SettingsError([unknown_variant(str(kind))])
    return config.model_validate(table)


def unknown_variant(kind: str) -> str:
    """Return the sentence for a name that is no variant."""
    known = variants()
    return f"unknown attention {kind!r}{did_you_mean(kind, known)} (known: {', '.join(known)})"


def build_attention(config: AttentionConfig, shape: Shape, layer: int = 0) -> CausalSelfAttention:
    """Build the module of a variant; its parameters are created, not initialised: the model fills them.

    Args:
        config: the variant's settings.
        shape: the trunk.
        layer: index of the block, for variants whose pattern depends on it.

    Raises:
        SettingsError: the settings do not fit the trunk.
        VgptError: the variant's module cannot be found.
    """
    if faults := config.check(shape):
        raise SettingsError(faults)
    path, _, name = _modules[config.kind].partition(":")
    try:
        cls = getattr(import_module(path), name)
    except (ImportError, AttributeError) as error:
        raise VgptError(f"attention {config.kind!r}: its module {path}:{name} cannot be loaded: {error}") from error
    return cls(config, shape, layer)
