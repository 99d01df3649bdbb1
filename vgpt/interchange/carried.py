"""The source files that a model needs, for a directory that has to do without vgpt.

transformers copies, of a directory's code, the files that `from .name import ...` names, and no folders. Every module
of vgpt, and of a plug-in, becomes one flat file: `vgpt.attention.base` is `vgpt_attention_base.py`. Nothing in it is
changed but the imports, and the texts that name modules to import later.
"""

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vgpt.errors import CheckpointError

FACES = {"vgpt.attention", "vgpt"}
"""Modules that only pass names on; these come from where they are."""
OPTIONAL = ("triton",)
"""Libraries that are used where they are there; transformers must not ask for them."""
_MODULE_TEXT = re.compile(r"[A-Za-z_]\w*(\.\w+)+(:\w+)?")


@dataclass(frozen=True)
class Source:
    """A module's file.

    Attributes:
        module: its name.
        path: its file.
        content: what is in it.
    """

    module: str
    path: Path
    content: bytes

    @property
    def package(self) -> str:
        """What its relative imports begin at."""
        return self.module if self.path.name == "__init__.py" else self.module.rpartition(".")[0]


def carry(modules: Iterable[str], own: Iterable[str] = ()) -> dict[str, str]:
    """Return the text of each flat file by its name, for some modules and all that they import.

    Args:
        modules: where to begin.
        own: packages that travel along, beside vgpt; those of plug-ins.

    Raises:
        CheckpointError: a file cannot be found, or imports in a way that cannot be rewritten.
    """
    roots = {"vgpt", *own}
    found: dict[str, str] = {}
    todo = list(dict.fromkeys(modules))
    while todo:
        source = _source(todo.pop())
        name = file_of(source.module)
        if name not in found:
            rewriter = _Rewriter(source, roots)
            found[name] = rewriter.text()
            todo += rewriter.needed
    return dict(sorted(found.items()))


def flat(module: str) -> str:
    """Return the name of a module as a flat file's, without its ending."""
    head, _, last = module.rpartition(".")
    return last if head == "vgpt.interchange.remote" else module.replace(".", "_")


def file_of(module: str) -> str:
    """Return the name of the flat file of a module."""
    return f"{flat(module)}.py"


def _source(module: str) -> Source:
    path = _path(module)
    if path is None or path.suffix != ".py":
        raise CheckpointError(f"the source of {module} cannot be found, so it cannot travel with the model")
    return Source(module, path, path.read_bytes())


def _path(module: str) -> Path | None:
    """Return the file of a module, which is not imported: it may need what is not there; None without one."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _is_module(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


class _Rewriter:
    """One file with its imports made flat; `needed` are the modules that it imports, once `text` was asked for."""

    def __init__(self, source: Source, roots: set[str]) -> None:
        self._source, self._roots = source, roots
        self.needed: list[str] = []

    def text(self) -> str:
        """Return the file's text, rewritten from its end on, so that places stay what they were."""
        content = self._source.content
        starts = [0]
        for line in content.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        changes = list(self._changes(ast.parse(content)))
        for node, new in sorted(changes, key=lambda change: (-change[0].lineno, -change[0].col_offset)):
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
            gap = b"\n" + content[starts[node.lineno - 1] : begin]
            content = content[:begin] + gap.join(line.encode() for line in new) + content[end:]
        return content.decode()

    def _changes(self, tree: ast.AST) -> Iterator[tuple[ast.stmt | ast.expr, list[str]]]:
        """Yield what to replace, and the lines that take its place."""
        for node in ast.walk(tree):
            new: list[str] | None = None
            if isinstance(node, ast.ImportFrom):
                new = self._from(node)
            elif isinstance(node, ast.Import):
                new = self._import(node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                new = self._named(node.value)
            if new is not None:
                assert isinstance(node, ast.stmt | ast.expr)
                yield node, new

    def _from(self, node: ast.ImportFrom) -> list[str] | None:
        home = node.module or ""
        if node.level:
            home = importlib.util.resolve_name("." * node.level + home, self._source.package)
        if home.partition(".")[0] not in self._roots:
            return self._optional(node, home)
        if any(alias.name == "*" for alias in node.names):
            raise self._unclear(node, f"from {home} import *")
        homes: dict[str, list[ast.alias]] = {}
        lines: list[str] = []
        for alias in node.names:
            inner = f"{home}.{alias.name}"
            if home not in FACES and _is_module(inner):
                lines += self._whole(inner, alias.asname or alias.name)
            else:
                homes.setdefault(_home_of(home, alias.name), []).append(alias)
        for module, names in homes.items():
            self.needed.append(module)
            lines.append(f"from .{flat(module)} import {', '.join(map(_spelled, names))}")
        return lines

    def _import(self, node: ast.Import) -> list[str] | None:
        if not any(alias.name.partition(".")[0] in self._roots for alias in node.names):
            return self._optional(node, node.names[0].name)
        lines: list[str] = []
        for alias in node.names:
            if alias.name.partition(".")[0] not in self._roots:
                lines.append(f"import {_spelled(alias)}")
            elif alias.asname is None:
                raise self._unclear(node, f"import {alias.name}")
            else:
                lines += self._whole(alias.name, alias.asname)
        return lines

    def _whole(self, module: str, name: str) -> list[str]:
        """Return the import of a module as a whole; its first line names the file in the way that is looked for."""
        self.needed.append(module)
        file = flat(module)
        return [f"from .{file} import __name__ as _{file}", f"from . import {file} as {name}"]

    def _named(self, value: str) -> list[str] | None:
        """Return what stands for a text that names a module to be imported later."""
        module, colon, name = value.partition(":")
        known = value.partition(".")[0] in self._roots and _MODULE_TEXT.fullmatch(value) is not None
        if not known or not colon or not _is_module(module):
            return None
        return [f'f"{{__package__}}.{flat(module)}:{name}"']

    def _optional(self, node: ast.stmt, module: str) -> list[str] | None:
        if module.partition(".")[0] not in OPTIONAL:
            return None
        return ["try:", f"    {ast.unparse(node)}", "finally:", "    pass"]

    def _unclear(self, node: ast.stmt, text: str) -> CheckpointError:
        return CheckpointError(
            f"{self._source.path}, line {node.lineno}: `{text}` cannot travel with the model",
            "Name what it needs: from vgpt.attention import AttentionConfig, ...",
        )


def _home_of(home: str, name: str) -> str:
    """Return the module that a name is to be imported from: of a face, where it comes from."""
    if home not in FACES:
        return home
    return getattr(importlib.import_module(home), "_HOME", {}).get(name, home)


def _spelled(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name
