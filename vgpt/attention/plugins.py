"""Third-party variants and tasks: loaded where they are named or installed, each plug-in whole or not at all.

A plug-in is a file or a module that calls `register_attention` or `register_task` when it is imported. Importing it
runs its code: nothing is looked for beyond what the command line, the environment and the installed packages name.
"""

import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from pydantic import ValidationError

from vgpt.attention.other_registries import check_members, members, undoing
from vgpt.attention.registry import transaction, variants
from vgpt.errors import UsageError
from vgpt.files.digests import file_digest
from vgpt.package import PACKAGE

GROUPS = ("vgpt.attention", "vgpt.tasks")
"""Entry points of these groups name modules of variants and of tasks."""
VARIABLE = "VGPT_PLUGINS"
"""Environment variable with files and names of modules, separated as in PATH."""

_PACKAGE = str(PACKAGE)
_IMPORTER = ("<frozen", str(Path(importlib.__file__).parent))
_origins: dict[str, "Plugin"] = {}
_other_origins: dict[tuple[str, str], "Plugin"] = {}


@dataclass(frozen=True)
class Plugin:
    """Where variants come from.

    Attributes:
        source: absolute path of a file, or name of a module.
        distribution: name and version of the installed package; empty where it was named by the user.
    """

    source: str
    distribution: str = ""

    def __str__(self) -> str:
        return f"{self.source} ({self.distribution})" if self.distribution else self.source

    @property
    def is_file(self) -> bool:
        """Whether it is a file, not the name of a module."""
        return self.source.endswith(".py")

    @property
    def module(self) -> str:
        """Name of its module; that of a file is made from its path, so that equal file names do not meet."""
        if not self.is_file:
            return self.source
        path = hashlib.sha256(self.source.encode()).hexdigest()[:8]
        return f"vgpt_plugin_{Path(self.source).stem}_{path}"

    @property
    def remedy(self) -> str:
        """What makes its variants known."""
        if self.distribution:
            return f"install the package {self.distribution}"
        return f"vgpt --plugin {self.source} ..."

    @property
    def digest(self) -> str:
        """SHA-256 of its file; empty where it has none."""
        file = Path(getattr(sys.modules.get(self.module), "__file__", None) or "")
        return file_digest(file) if file.is_file() else ""


def named(word: str) -> Plugin:
    """Return the plug-in of a word after `--plugin` or in `VGPT_PLUGINS`.

    Raises:
        UsageError: no such file, or neither a file nor the name of a module.
    """
    if all(part.isidentifier() for part in word.split(".")) and not word.endswith(".py"):
        return Plugin(word)
    path = Path(word).expanduser().absolute()
    if path.suffix != ".py":
        raise UsageError(f"plug-in {word}: neither a file that ends in .py nor the name of a module")
    if not path.is_file():
        raise UsageError(f"plug-in {word}: no such file", "Check the path.")
    if os.pathsep in str(path):
        raise UsageError(f"plug-in {word}: {os.pathsep!r} separates files in {VARIABLE}", "Move or rename the file.")
    return Plugin(str(path.resolve()))


def installed() -> list[Plugin]:
    """Return the plug-ins of installed packages, in the order of their names."""
    found = [
        Plugin(
            point.value.partition(":")[0].partition("[")[0].strip(),
            f"{point.dist.name} {point.dist.version}" if point.dist else point.name,
        )
        for group in GROUPS
        for point in entry_points(group=group)
    ]
    return sorted(set(found), key=str)


def load_plugins(words: Sequence[str], warn: Callable[[str], None], check: Callable[[], object]) -> None:
    """Load what is named by `words`, by `VGPT_PLUGINS` and by installed packages, in this order.

    What was named is named to child processes too: `VGPT_PLUGINS` is set to it, with absolute paths.

    Args:
        words: files and modules that the user asked for.
        warn: takes one line for each of the others that is broken.
        check: raises where the settings of all variants do not go together.

    Raises:
        UsageError: one of `words` is broken.
    """
    asked = [named(word) for word in words]
    for plugin in asked:
        _note_empty(plugin, load_plugin(plugin, check), warn)
    inherited: list[str] = []
    for word in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        try:
            plugin = named(word)
            inherited.append(plugin.source)
            _note_empty(plugin, load_plugin(plugin, check), warn)
        except UsageError as error:
            warn(f"{VARIABLE}: {error.message}")
    sources = dict.fromkeys([plugin.source for plugin in asked] + inherited)
    if sources:
        os.environ[VARIABLE] = os.pathsep.join(sources)
    for plugin in installed():
        try:
            _note_empty(plugin, load_plugin(plugin, check), warn)
        except UsageError as error:
            warn(error.message)


def load_plugin(plugin: Plugin, check: Callable[[], object]) -> list[str]:
    """Import a plug-in and return its variants and tasks; one that is already there is left alone.

    Args:
        plugin: what to import.
        check: raises where the settings of all variants do not go together, as `vgpt.settings.fields.leaves` does.

    Raises:
        UsageError: it cannot be imported, or does not pass the check; none of its variants and tasks stays.
    """
    if known := _brought_by(plugin):
        return known
    before, others = variants(), members()
    try:
        # What it prints is no result of the command.
        with transaction(), undoing(), redirect_stdout(sys.stderr):
            _import(plugin)
            fresh = [kind for kind in variants() if kind not in before]
            for kind in fresh:
                _defaults(kind)
            fresh_others = [key for key in members() if key not in others]
            check_members(fresh_others)
            check()
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise UsageError(f"plug-in {plugin} not loaded: {_reason(error, plugin)}") from error
    _origins.update(dict.fromkeys(fresh, plugin))
    _other_origins.update(dict.fromkeys(fresh_others, plugin))
    return _brought_by(plugin)


def origin_of(kind: str) -> Plugin | None:
    """Return the plug-in that a variant comes from; None for those of vgpt itself."""
    return _origins.get(kind)


def origin_of_other(word: str, name: str) -> Plugin | None:
    """Return the plug-in that a member of another registry comes from, as in `("task", "mine")`."""
    return _other_origins.get((word, name))


def _brought_by(plugin: Plugin) -> list[str]:
    kinds = [kind for kind, origin in _origins.items() if origin.source == plugin.source]
    return kinds + [name for (_, name), origin in _other_origins.items() if origin.source == plugin.source]


def _import(plugin: Plugin) -> None:
    if not plugin.is_file:
        importlib.import_module(plugin.source)
        return
    spec = spec_from_file_location(plugin.module, plugin.source)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[plugin.module] = module  # pydantic and `build_attention` look it up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(plugin.module, None)
        raise


def _defaults(kind: str) -> None:
    """Make sure that a variant can be chosen by its name alone."""
    try:
        variants()[kind]()
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise TypeError(f"attention {kind!r} has no valid defaults: {faults}") from error


def _note_empty(plugin: Plugin, kinds: list[str], warn: Callable[[str], None]) -> None:
    inside = (f"{member.__module__}." for member in [*variants().values(), *members().values()])
    if not kinds and not any(name.startswith(f"{plugin.module}.") for name in inside):
        warn(f"plug-in {plugin} registers no variant and no task; is @register_attention or @register_task missing?")


def _reason(error: BaseException, plugin: Plugin) -> str:
    """Say in one line what went wrong, and in which line of the plug-in."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [frame for frame in frames if not frame.filename.startswith((_PACKAGE, *_IMPORTER))]
    place = [(frame.filename, frame.lineno) for frame in foreign]
    if isinstance(error, SyntaxError):
        text, place = error.msg, [(error.filename or plugin.source, error.lineno)]
    elif isinstance(error, SystemExit):
        text = f"it ends the program (SystemExit: {text or 0})"
    elif not frames[-1].filename.startswith(_PACKAGE):  # vgpt's own messages are sentences
        text = f"{type(error).__name__}: {text}"
    place = [entry for entry in place if entry[0] == plugin.source] or place
    if not place:
        return text
    file, line = place[-1]
    return f"{'' if file == plugin.source else f'{file}, '}line {line}: {text}"
