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

vgpt's own variants are found by their folders: `vgpt/attention/<family>/config.py` is imported because it is there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from vgpt.attention.config import AttentionConfig, ModelAttention
from vgpt.errors import VgptError, did_you_mean

Config = TypeVar("Config", bound=type[ModelAttention])

_UNRANKED = 50
_configs: dict[str, type[ModelAttention]] = {}
_modules: dict[str, str] = {}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def register_attention(
    kind: str, *, module: str, summary: str = "", help_rank: int = _UNRANKED
) -> Callable[[Config], Config]:
    """Make a settings class the variant `kind`.

    Args:
        kind: name on the command line, in TOML and in tables.
        module: where its `CausalSelfAttention` is: "package.file:Class", or "Class" in the settings' own file; empty
            where only `config.at(layer)` names variants with a module.
        summary: one line for lists of variants; defaults to the first line of the class's docstring.
        help_rank: place among vgpt's own variants in help and tables, lowest first; equal ones by the names of their
            folders. Plug-ins come after all of these, in the order in which they are loaded.

    Raises:
        TypeError: the name is taken or no plain word, the class is no `AttentionConfig` or registered already, or a
            setting hides something of the base class.
    """

    def register(config: Config) -> Config:
        if not _NAME.fullmatch(kind) or kind == "kind":  # presets keep a table per variant beside the key `kind`
            raise TypeError(f"attention {kind!r} is no name: a letter, then letters, digits, '-' and '_'")
        # Foreign code, which no type checker need have seen.
        if not (isinstance(config, type) and issubclass(config, ModelAttention)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"attention {kind!r}: {config!r} is no AttentionConfig")
        if config in _configs.values():
            raise TypeError(f"attention {kind!r}: {config.__name__} is {config.kind!r} already; subclass it")
        if hidden := [name for name in config.model_fields if hasattr(AttentionConfig, name)]:
            raise TypeError(f"attention {kind!r}: a setting cannot be called {hidden[0]!r}: it hides a method")
        if kind in _configs:
            raise TypeError(
                f"attention {kind!r} is registered twice: {_configs[kind].__module__} and {config.__module__}"
            )
        config.kind, config.help_rank = kind, help_rank
        config.summary = summary or (config.__doc__ or "").strip().partition("\n")[0]
        _configs[kind] = config
        _modules[kind] = module if ":" in module or not module else f"{config.__module__}:{module}"
        return config

    return register


def variants() -> dict[str, type[ModelAttention]]:
    """Return every known variant's settings class by name, built-in ones first."""
    for name in _families():
        import_module(name)
    return dict(sorted(_configs.items(), key=lambda item: _place(item[1])))


@cache
def _families() -> tuple[str, ...]:
    """Return the modules with the settings of vgpt's own variants: one per folder beside this file that has one."""
    found = Path(__file__).parent.glob("[a-z]*/config.py")
    return tuple(sorted(f"{__package__}.{path.parent.name}.config" for path in found))


def _place(config: type[ModelAttention]) -> tuple[bool, int, str]:
    """Return what variants are sorted by, whichever was imported first; plug-ins stay in their order."""
    home = config.__module__
    return (False, config.help_rank, home) if home in _families() else (True, 0, "")


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
