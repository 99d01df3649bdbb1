"""What code a run was made by: a digest of vgpt's own source, and functions that something has replaced at run time."""

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from vgpt.package import PACKAGE

ROOMS = ("attention", "data", "evaluation", "files", "model", "settings", "text", "training")
"""Rooms whose code decides what is learned and measured; tables, commands and records may change between runs."""

_WATCHED = (
    "torch.optim.adam",
    "torch.optim.adamw",
    "torch.optim.optimizer",
    "torch.nn.functional",
    "torch.nn.init",
    "torch.nn.modules.linear",
    "torch.nn.modules.sparse",
    "torch.nn.modules.normalization",
)
"""Modules of torch that every run computes with."""
_KEPT_IN = {"torch": "_init_fn", "triton": "fn"}
"""Where the operators and kernels that these make of a function keep it."""
_STANDARD = str(Path(inspect.__file__).parent)
_MOST_NAMED = 5


@cache
def source_digest(rooms: tuple[str, ...] = ROOMS) -> str:
    """Return the SHA-256 over names and contents of the source files of some rooms, 16 hexadecimal digits."""
    root = PACKAGE
    files = sorted(path for room in rooms for path in (root / room).rglob("*.py"))
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(root)
        digest.update(f"{name.as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def replaced_functions() -> str:
    """Return the functions of vgpt's loaded modules that other code has replaced, as text; empty where there are none.

    A plug-in may register variants; one that changes how the backbone starts or steps makes another experiment. A
    function counts as replaced where its code is from a file outside of vgpt; so does one of the optimizer, of layers
    and of `torch.nn.functional` with code from outside of torch. What is written into files does not show here: for
    those of vgpt see `source_digest`.
    """
    root = str(PACKAGE)
    foreign = list(_replaced_in_torch())
    modules = {name: module for name, module in sorted(sys.modules.items()) if _is_ours(name, module, root)}
    found = foreign + [place for name, module in modules.items() for place in _foreign(name, module, root)]
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(found[:_MOST_NAMED]) + more


def _replaced_in_torch() -> Iterator[str]:
    torch = sys.modules.get("torch")
    root = str(Path(str(getattr(torch, "__file__", ""))).parent)
    for name in _WATCHED:
        if (module := sys.modules.get(name)) is None:
            continue
        places = {f"{name}.{key}": value for key, value in vars(module).items()}
        classes = [value for value in places.values() if isinstance(value, type) and value.__module__ == name]
        places |= {f"{name}.{one.__qualname__}.{key}": member for one in classes for key, member in vars(one).items()}
        for place, value in places.items():
            code = getattr(inspect.unwrap(value) if isinstance(value, FunctionType) else None, "__code__", None)
            if code is not None and not code.co_filename.startswith((root, _STANDARD, "<")):
                yield place


def _is_ours(name: str, module: ModuleType | None, root: str) -> bool:
    file = getattr(module, "__file__", None)
    room = name.removeprefix("vgpt.").partition(".")[0]
    return name.startswith("vgpt.") and room in ROOMS and file is not None and str(file).startswith(root)


def _foreign(name: str, module: ModuleType, root: str) -> Iterator[str]:
    own, borrowed = _names(Path(str(module.__file__)))
    for key, value in vars(module).items():
        if isinstance(value, type) and value.__module__ == name:
            for attribute, member in vars(value).items():
                if f"{value.__qualname__}.{attribute}" in own and _is_foreign(member, root):
                    yield f"{name}.{value.__qualname__}.{attribute}"
        elif key in own and (isinstance(value, type) or _is_foreign(value, root)):
            yield f"{name}.{key}"
        elif key in borrowed:
            source, original = borrowed[key]
            lender = sys.modules.get(source)
            if lender is not None and getattr(lender, original, value) is not value:
                yield f"{name}.{key}"


def _is_foreign(value: Any, root: str) -> bool:
    """Return whether what a module calls by the name of one of its own functions is not that function any more."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    value = value.func if isinstance(value, functools.cached_property) else value
    value = getattr(value, _KEPT_IN.get(type(value).__module__.partition(".")[0], ""), value)
    value = inspect.unwrap(value) if callable(value) else value
    return not (isinstance(value, FunctionType) and value.__code__.co_filename.startswith(root))


@cache
def _names(path: Path) -> tuple[frozenset[str], dict[str, tuple[str, str]]]:
    """Return what a file defines and what it borrows, by its source.

    Returns:
        Its functions, classes, and methods as `Class.method`; and the names that it imports from other modules of
        vgpt, each with that module and the name there.
    """
    import ast

    own: set[str] = set()
    borrowed: dict[str, tuple[str, str]] = {}
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.ClassDef):
            own.add(node.name)
            own.update(f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vgpt."):
            borrowed |= {name.asname or name.name: (str(node.module), name.name) for name in node.names}
    return frozenset(own), borrowed
