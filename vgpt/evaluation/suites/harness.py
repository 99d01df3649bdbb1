"""lm-evaluation-harness as vgpt uses it: found or missing, kept quiet, kept off a network that does not answer."""

import contextlib
import difflib
import importlib
import io
import logging
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Generator, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vgpt.environment import environment_with
from vgpt.errors import DataError, UsageError, VgptError
from vgpt.evaluation.suites.task_file import looks_like_file, read_task, task_files

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")
_HUB = "https://huggingface.co"
_PATIENCE = 5.0
"""Seconds that the hub may take to answer before it counts as out of reach."""
_HEAD_BYTES = 1 << 16
_KEY = rb"""^["']?(?:task|group|tag)["']?[ \t]*:[ \t]*"""
_NAMED = re.compile(_KEY + rb"""["']?([^\s"'#\[:][^\s"'#\[]*)""", re.MULTILINE)
_LISTED = re.compile(_KEY + rb"\r?\n((?:[ \t]*-[ \t]*\S+[ \t]*\r?\n?)+)", re.MULTILINE)
_MOST_NAMED = 3


def require_harness() -> None:
    """Raise `VgptError` where lm-evaluation-harness is not installed."""
    if find_spec("lm_eval") is None:
        raise VgptError(
            "standard suites need lm-evaluation-harness, which is not installed", 'pip install "vgpt[eval]"'
        )


def part(name: str) -> Any:
    """Return a module of the harness."""
    return importlib.import_module(f"lm_eval.{name}" if name else "lm_eval")


def known_metrics() -> set[str]:
    """Return the names of the harness's own metrics."""
    part("api.metrics")
    return set(part("api.registry").metric_registry)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keep the harness from writing on stdout and from starting processes."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub", "evaluate")]
    levels = [logger.level for logger in loggers]
    settings = {"DISABLE_MULTIPROC": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    with environment_with(settings), contextlib.redirect_stdout(io.StringIO()):
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def sandboxed() -> Generator[None]:
    """Have templates rendered where they reach neither Python's own attributes nor files; and no bars drawn."""
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    utils, task = part("utils"), part("api.task")
    plain, bar = utils.env, task.tqdm
    safe = ImmutableSandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    safe.filters |= plain.filters
    utils.env, task.tqdm = safe, lambda items, **_: items
    try:
        yield
    finally:
        utils.env, task.tqdm = plain, bar


@contextlib.contextmanager
def offline(on: bool) -> Generator[None]:
    """Keep the harness's libraries off the network, whether they are imported already or not."""
    if not on:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(environment_with(dict.fromkeys(_OFFLINE, "1")))
        for name, attributes in {
            "huggingface_hub.constants": ("HF_HUB_OFFLINE",),
            "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
        }.items():
            module = importlib.import_module(name)
            for attribute in attributes:
                if hasattr(module, attribute):
                    before = getattr(module, attribute)
                    setattr(module, attribute, True)
                    stack.callback(setattr, module, attribute, before)
        yield


def why_offline() -> str:
    """Return why nothing can be fetched from the hub; empty where it answers."""
    for name in _OFFLINE[:2]:
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"{name} forbids to fetch it"
    place = os.environ.get("HF_ENDPOINT") or _HUB
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(place, method="HEAD"), timeout=_PATIENCE):
                answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except (OSError, ValueError):
            answers.append(False)

    # A thread: looking up a name has no time limit of its own.
    asking = threading.Thread(target=ask, name="vgpt-hub", daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return "" if answers and answers[0] else f"{place} does not answer"


def names_in_harness() -> dict[str, Path]:
    """Return the names of the harness's tasks, groups and tags, each with a file that defines it.

    Only what names them is read: the harness's own index parses thousands of files, which takes many seconds.
    """
    found: dict[str, Path] = {}
    root = Path(part("tasks").__file__).parent
    # What tasks include has no ending, and may hold the tags of them all.
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".yaml", "") and path.is_file()):
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        names = _NAMED.findall(head)
        names += [line.strip(b" \t-\r\"'") for block in _LISTED.findall(head) for line in block.splitlines()]
        for name in names:
            found.setdefault(name.decode(errors="replace"), path)
    return found


def load_tasks(words: Sequence[str]) -> dict[str, Any]:
    """Return the tasks that `--suite` names, in the table that the harness's `evaluate` takes.

    All words are looked at before the first task is loaded.

    Raises:
        UsageError: a name that the harness does not have.
        DataError: a task file that is refused, a task named twice, or data that cannot be had.
        VgptError: the harness is not installed.
    """
    require_harness()
    files = [file for word in words if looks_like_file(word) for file in task_files(Path(word))]
    metrics = known_metrics() if files else set[str]()
    settings = [read_task(file, metrics) for file in files]
    names = [word for word in words if not looks_like_file(word)]
    tasks = [str(one["task"]) for one in settings]
    if twice := [name for name in [*tasks, *names] if [*tasks, *names].count(name) > 1]:
        raise DataError(f"--suite names the task {twice[0]!r} twice", "Give each task a name of its own.")
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    if names:
        managers = _managers(names)
        why = why_offline()
        with offline(bool(why)):
            for name, manager in managers.items():
                _add(loaded, _load(manager, name, name, why))
    if settings:
        with offline(True):
            manager = part("tasks").TaskManager(include_defaults=False)
            for file, one in zip(files, settings, strict=True):
                _add(loaded, _load(manager, one, str(file), ""))
    return loaded


def _add(loaded: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, table in more.items():
        if key == "tasks" and (twice := loaded["tasks"].keys() & table.keys()):
            raise DataError(f"--suite names the task {min(twice)!r} twice", "Leave one of them out.")
        loaded[key] |= table


def _managers(names: Iterable[str]) -> dict[str, Any]:
    """Return what loads each task of the harness by its name.

    Raises:
        UsageError: there is no task of such a name.
    """
    known = names_in_harness()
    if unknown := [name for name in names if name not in known]:
        raise _no_such_task(unknown[0], known)
    manager = part("tasks").TaskManager
    found: dict[str, Any] = {}
    everything: Any = None
    for name in names:
        # A task needs its own folder alone; the members of groups and tags lie anywhere.
        found[name] = manager(include_defaults=False, include_path=str(known[name].parent))
        entry = found[name].task_index.get(name)
        if entry is None or entry.kind.name not in ("TASK", "PY_TASK"):
            found[name] = everything = everything or manager()
            if name not in everything.task_index:
                raise _no_such_task(name, everything.task_index)
    return found


def _no_such_task(name: str, known: Iterable[str]) -> UsageError:
    near = difflib.get_close_matches(name, [one for one in known if one != name], n=_MOST_NAMED)
    return UsageError(
        f"--suite: lm-eval has no task {name!r}" + (f"; the nearest are {', '.join(near)}" if near else ""),
        "lm-eval ls tasks lists all; a task file of your own is named by its path: --suite ./my_task.yaml",
    )


def _load(manager: Any, spec: Any, shown: str, why: str) -> dict[str, Any]:
    try:
        return manager.load([spec])
    except Exception as error:  # the harness, its libraries and its tasks raise whatever they please
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if why:
            raise DataError(
                f"suite {shown}: its data are not on this machine, and {why}",
                "Load it once where there is a network, and copy the cache (~/.cache/huggingface) here; "
                "or write a task file with local data: --suite my_task.yaml",
            ) from error
        raise DataError(
            f"suite {shown} cannot be loaded: {first[:300]}", "Mend what it names, or leave it out."
        ) from error
