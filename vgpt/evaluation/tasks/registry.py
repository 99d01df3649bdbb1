"""The open set of tasks: a class per name, and names with settings as text.

A built-in task is a file of this folder, found by being there. Others come as attention variants do: from a file or
module that `--plugin` or `VGPT_PLUGINS` names, or from an installed package with an entry point in the group
`vgpt.tasks`. A plug-in that fails leaves no trace.
"""

import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError

from vgpt.attention.other_registries import follow
from vgpt.attention.plugins import Plugin, origin_of_other
from vgpt.errors import SettingsError, did_you_mean
from vgpt.evaluation.tasks.base import SPLITS, Task, unknown_task

Kind = TypeVar("Kind", bound=type[Task])

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_tasks: dict[str, type[Task]] = {}


def register_task(kind: str, *, summary: str = "") -> Callable[[Kind], Kind]:
    """Make a class the task `kind`.

    Args:
        kind: name on the command line and in tables.
        summary: one line for lists of tasks; defaults to the first line of the class's docstring.

    Raises:
        TypeError: the name is taken or no plain word, or the class is no `Task` or registered already.
    """

    def register(task: Kind) -> Kind:
        if not _NAME.fullmatch(kind):
            raise TypeError(f"task {kind!r} is no name: a letter, then letters, digits, '-' and '_'")
        # Foreign code, which no type checker need have seen.
        if not (isinstance(task, type) and issubclass(task, Task)):
            raise TypeError(f"task {kind!r}: {task!r} is no Task")
        if task.__module__ not in _built_in():
            tasks()  # so that no name of vgpt's own is taken before they are loaded
        if task in _tasks.values():
            raise TypeError(f"task {kind!r}: {task.__name__} is {task.kind!r} already; subclass it")
        if kind in _tasks:
            raise TypeError(f"task {kind!r} is registered twice: {_tasks[kind].__module__} and {task.__module__}")
        task.kind = kind
        task.summary = summary or (task.__doc__ or "").strip().partition("\n")[0]
        _tasks[kind] = task
        return task

    return register


def tasks() -> dict[str, type[Task]]:
    """Return every known task's class by name: built-in ones in the order of their files, then those of plug-ins."""
    for name in _built_in():
        import_module(name)
    homes = {home: place for place, home in enumerate(_built_in())}
    return dict(sorted(_tasks.items(), key=lambda item: homes.get(item[1].__module__, len(homes))))


def origin_of_task(kind: str) -> Plugin | None:
    """Return the plug-in that a task comes from; None for those of vgpt itself and of notebooks."""
    return origin_of_other(_Registry.word, kind)


def resolve_task(text: str) -> Task:
    """Build a task from its name and settings, `mqar:n_pairs=8,test_lengths=64/128`; a slash parts values of a list.

    Raises:
        SettingsError: an unknown task or setting, or settings that do not go together; all faults at once.
    """
    kind, _, rest = text.partition(":")
    kind, known = kind.strip(), tasks()
    if kind not in known:
        raise SettingsError([unknown_task(kind, known)])
    table: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        name, equals, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise SettingsError([f"task {text}: {item!r} is not of the form setting=value"])
        table[name] = _typed(known[kind], name, value.strip())
    try:
        return known[kind].model_validate(table)
    except ValidationError as error:
        raise SettingsError([_told(known[kind], fault) for fault in error.errors()]) from error


def split_tasks(text: str) -> list[str]:
    """Part `mqar:n_pairs=8,length=64,parity` into its tasks: what has a value belongs to the task before it.

    Raises:
        SettingsError: no task comes first.
    """
    found: list[str] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        if "=" not in item or ":" in item:
            found.append(item)
        elif found:
            found[-1] += f"{',' if ':' in found[-1] else ':'}{item}"
        else:
            raise SettingsError([f"tasks {text}: {item!r} belongs to no task; name one first, as in mqar:{item}"])
    return found


def task_label(task: Task) -> str:
    """Return a task with those of its settings that are not its defaults, as `resolve_task` reads it."""
    plain, given = type(task)().model_dump(mode="json"), task.model_dump(mode="json")
    words = [f"{name}={_word(value)}" for name, value in given.items() if value != plain[name]]
    return f"{task.kind}:{','.join(words)}" if words else task.kind


@cache
def _built_in() -> tuple[str, ...]:
    """Return the modules of this folder; those that hold no task are loaded anyway."""
    return tuple(sorted(f"{__package__}.{path.stem}" for path in Path(__file__).parent.glob("[a-z]*.py")))


class _Registry:
    """The tasks of plug-ins, for `vgpt.attention.plugins`."""

    word = "task"

    def members(self) -> dict[str, type[Task]]:
        return {kind: task for kind, task in _tasks.items() if task.__module__ not in _built_in()}

    @contextmanager
    def transaction(self) -> Generator[None]:
        before, imported = self.members(), set(sys.modules)
        try:
            yield
        except BaseException:
            for kind, task in self.members().items():
                if kind not in before:
                    del _tasks[kind]
                    if task.__module__ not in imported:
                        sys.modules.pop(task.__module__, None)
            raise

    def check(self, name: str) -> None:
        """Build the task with its defaults and draw an instance of each split."""
        try:
            task = _tasks[name]()
        except ValidationError as error:
            faults = "; ".join(_told(_tasks[name], fault) for fault in error.errors())
            raise TypeError(f"its defaults are not valid: {faults}") from error
        for split in SPLITS:
            task.batch(0, split, range(1))


def _typed(task: type[Task], name: str, value: str) -> Any:
    info = task.model_fields.get(name)
    if info is not None and get_origin(info.annotation) is tuple:
        return [part for part in value.split("/") if part]
    return None if value.lower() == "none" else value


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _told(task: type[Task], fault: Any) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return f"task {task.kind}: {message}"
    name = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden":
        known = task.model_fields
        return f"task {task.kind}: unknown setting {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})"
    return f"task {task.kind}: {name} = {fault['input']!r}: {message}"


follow(_Registry())
