"""The open set of attention variants: settings by name, modules loaded when they are first built.

Registering costs no torch import, so that help texts, tables and completion know every variant at once.

A variant is a settings class with its costs (`vgpt.attention.config.AttentionConfig`), a module
(`vgpt.attention.base.CausalSelfAttention`) and the decorator that joins them:

    @register_attention("mine", module="Mine")
    class MineConfig(AttentionConfig): ...

Wherever it comes from, its name is a choice of `--attn`, its settings are flags, keys of presets and environment
variables, and `compare`, `verify`, `variants` and `explain` know it. It may come from

- a file: `vgpt --plugin mine.py ...`, also after the subcommand and more than once;
- the environment: `VGPT_PLUGINS`, files or names of modules, separated as in PATH (`:`; `;` on Windows);
- an installed package with an entry point that names the module: `[project.entry-points."vgpt.attention"]`,
  `mine = "my_package.mine"`.

Nothing else is ever loaded. `vgpt.attention.plugins` does it; a plug-in that fails leaves no trace. A file with
settings and module together is the shortest plug-in, but pays for importing torch whenever `vgpt` starts; with two
files (`module="my_package.module:Mine"`) help and completion stay fast.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from vgpt.attention.config import AttentionConfig
from vgpt.errors import VgptError, did_you_mean

Config = TypeVar("Config", bound=type[AttentionConfig])

_BUILT_IN = (
    "vgpt.attention.grouped.config",
    "vgpt.attention.local.config",
    "vgpt.attention.sparse.config",
    "vgpt.attention.linear.config",
    "vgpt.attention.latent.config",
    "vgpt.attention.mix.config",
)
_configs: dict[str, type[AttentionConfig]] = {}
_modules: dict[str, str] = {}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def register_attention(kind: str, *, module: str, summary: str = "") -> Callable[[Config], Config]:
    """Make a settings class the variant `kind`.

    Args:
        kind: name on the command line, in TOML and in tables.
        module: where its `CausalSelfAttention` is: "package.file:Class", or "Class" in the settings' own file; empty
            where only `config.at(layer)` names variants with a module.
        summary: one line for lists of variants; defaults to the first line of the class's docstring.

    Raises:
        TypeError: the name is taken or no plain word, the class is no `AttentionConfig` or registered already, or a
            setting hides something of the base class.
    """

    def register(config: Config) -> Config:
        if not _NAME.fullmatch(kind) or kind == "kind":  # presets keep a table per variant beside the key `kind`
            raise TypeError(f"attention {kind!r} is no name: a letter, then letters, digits, '-' and '_'")
        # Foreign code, which no type checker need have seen.
        if not (isinstance(config, type) and issubclass(config, AttentionConfig)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"attention {kind!r}: {config!r} is no AttentionConfig")
        if config in _configs.values():
            raise TypeError(f"attention {kind!r}: {config.__name__} is {config.kind!r} already; subclass it")
        if hidden := [name for name in config.model_fields if hasattr(AttentionConfig, name)]:
            raise TypeError(f"attention {kind!r}: a setting cannot be called {hidden[0]!r}: it hides a method")
        if kind in _configs:
            raise TypeError(
                f"attention {kind!r} is registered twice: {_configs[kind].__module__} and {config.__module__}"
            )
        config.kind = kind
        config.summary = summary or (config.__doc__ or "").strip().partition("\n")[0]
        _configs[kind] = config
        _modules[kind] = module if ":" in module or not module else f"{config.__module__}:{module}"
        return config

    return register


def variants() -> dict[str, type[AttentionConfig]]:
    """Return every known variant's settings class by name, built-in ones first."""
    for name in _BUILT_IN:
        import_module(name)
    # In the order of families, whichever of them happened to be imported first.
    place = {name: number for number, name in enumerate(_BUILT_IN)}
    return dict(sorted(_configs.items(), key=lambda item: place.get(item[1].__module__, len(place))))


@contextmanager
def transaction() -> Generator[None]:
    """Undo every registration of the block where it raises, and forget the files of the variants undone."""
    configs, modules, imported = variants(), dict(_modules), set(sys.modules)
    try:
        yield
    except BaseException:
        for kind in _configs.keys() - configs.keys():
            if (name := _configs[kind].__module__) not in imported:
                sys.modules.pop(name, None)
        _configs.clear()
        _configs.update(configs)
        _modules.clear()
        _modules.update(modules)
        raise


def unknown_variant(kind: str) -> str:
    """Return the sentence for a name that is no variant."""
    known = variants()
    return f"unknown attention {kind!r}{did_you_mean(kind, known)} (known: {', '.join(known)})"


def module_of(kind: str) -> type[Any]:
    """Return the `CausalSelfAttention` of a variant, loaded when it is first asked for.

    Raises:
        VgptError: it cannot be found.
    """
    if not _modules[kind]:
        raise VgptError(f"attention {kind!r} has no layer of its own", "Build its layers: config.at(layer).")
    path, _, name = _modules[kind].partition(":")
    try:
        return getattr(import_module(path), name)
    except (ImportError, AttributeError) as error:
        raise VgptError(f"attention {kind!r}: its module {path}:{name} cannot be loaded: {error}") from error
