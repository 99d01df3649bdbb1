"""Task files of lm-evaluation-harness, read as data: what would run code is refused before the harness hears of it.

The harness itself takes a Python function wherever a file says `!function`, loads metrics that are programs, and
renders Jinja without a sandbox, so that `{{ x.__class__ ... }}` reaches everything. Here a file is read by YAML's safe
loader, its templates may reach no underscored name, its data are local files, and the harness gets the dictionary and
never the file.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from vgpt.errors import DataError, did_you_mean
from vgpt.files.text import read_text

_LARGEST = 1 << 20
_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Kinds of local data; pandas' is left out, for it reads pickles."""
_FUNCTIONS = ("class", "custom_dataset", "process_docs", "process_results", "use_prompt", "unsafe_code")
"""Keys whose value is a program, or asks for one."""
_FEWSHOT_FUNCTIONS = ("process_docs",)
_PATHS = ("data_files", "data_dir")
_KEYS = {
    *("task", "task_alias", "tag", "include", "dataset_path", "dataset_name", "dataset_kwargs", "training_split"),
    *(
        "validation_split",
        "test_split",
        "fewshot_split",
        "doc_to_text",
        "doc_to_target",
        "doc_to_choice",
        "description",
    ),
    *("target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot", "metric_list", "output_type"),
    *("generation_kwargs", "repeats", "filter_list", "should_decontaminate", "doc_to_decontamination_query"),
    *("gen_prefix", "metadata"),
}
"""What the harness knows, less what is a program or for images and sound."""

_PYTHONS_OWN = re.compile(r"__[a-z_]+__")


def looks_like_file(word: str) -> bool:
    """Return whether a word of `--suite` names a task file or a folder of them, and not a task of the harness."""
    return word.endswith((".yaml", ".yml")) or "/" in word or Path(word).is_dir()


def task_files(place: Path) -> list[Path]:
    """Return the task files that a path names: itself, or those in a folder that define a task.

    Raises:
        DataError: there is none, or one cannot be read.
    """
    if not place.is_dir():
        return [place]
    found = [path for path in sorted([*place.glob("*.yaml"), *place.glob("*.yml")]) if "task" in _read(path)]
    if not found:
        raise DataError(f"{place}: no task file in it", "A task file ends in .yaml and has a key `task`.")
    return found


def read_task(path: Path, metrics: Collection[str]) -> dict[str, Any]:
    """Return the settings of a task file, with what it includes and with absolute paths of its data.

    Args:
        path: the file.
        metrics: names of the harness's own metrics; others are programs that it would fetch and run.

    Raises:
        DataError: it is missing or damaged, or it holds a program or data that are not local files.
    """
    task = _with_includes(path, ())
    if "group" in task or not isinstance(task.get("task"), str):
        raise DataError(
            f"{path}: it defines no single task", "Give a file with `task: NAME`; of a group, the files of its tasks."
        )
    _refuse_programs(path, task)
    if unknown := [key for key in task if key not in _KEYS]:
        raise DataError(f"{path}: there is no setting {unknown[0]!r} of a task{did_you_mean(unknown[0], _KEYS)}")
    _refuse_metrics(path, task, metrics)
    for where, template in _texts(task):
        _refuse_underscores(path, where, template)
    return {**task, **_local_data(path, task)}


def _with_includes(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Read a file; what it includes is checked as it is, and its own settings win."""
    path = path.expanduser().absolute()
    if path in above:
        raise DataError(f"{path}: it includes itself", "Take one of the `include` lines out.")
    own = _read(path)
    included = own.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        if not isinstance(name, str):
            raise DataError(f"{path}: include names no file: {name!r}", "include: other.yaml")
        other = _with_includes(path.parent / name, (*above, path))
        # Paths of data are relative to the file that names them.
        if isinstance(kwargs := other.get("dataset_kwargs"), dict):
            other["dataset_kwargs"] = {
                key: _absolute(path.parent / name, value) if key in _PATHS else value for key, value in kwargs.items()
            }
        merged |= other
    return {**merged, **own}


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path}: too large for a task file", "Its data belong into files of their own.")
        text = read_text(path)
        found = yaml.safe_load(text)
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise DataError(f"{path}: it refers to parts of itself (YAML aliases)", "Write out what they stand for.")
    except yaml.constructor.ConstructorError as error:
        tag = re.search(r"'([^']*)'", str(error.problem))
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise _program(path, f"{_short(tag[1]) if tag else 'a tag'} in line {line}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DataError(f"{path}: not a readable task file: {_first_line(error)}") from error
    except OSError as error:
        hint = "Tasks of the harness have no path; for a file, write --suite path/to/task.yaml."
        raise DataError(f"{path}: {error.strerror or error}", hint) from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise DataError(f"{path}: not a task file: it holds no settings", "task: NAME, dataset_path: json, and so on.")
    return found


def _program(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: it holds a program ({what}); nothing of it was run",
        "Write the text of questions and answers as Jinja templates, and prepare the data beforehand.",
    )


def _refuse_programs(path: Path, task: Mapping[str, Any]) -> None:
    for key in _FUNCTIONS:
        if task.get(key):
            raise _program(path, f"{key}: {_short(str(task[key]))}")
    for name, functions in (("fewshot_config", _FEWSHOT_FUNCTIONS), ("dataset_kwargs", ("trust_remote_code",))):
        nested = task.get(name)
        if nested is not None and not isinstance(nested, dict):
            raise DataError(f"{path}: {name} holds no settings: {_short(str(nested))}")
        for key in functions:
            if nested and nested.get(key):
                raise _program(path, f"{name}: {key}: {_short(str(nested[key]))}")


def _refuse_metrics(path: Path, task: Mapping[str, Any], known: Collection[str]) -> None:
    metrics = task.get("metric_list") or []
    if not isinstance(metrics, list) or not all(isinstance(one, dict) and "metric" in one for one in metrics):
        raise DataError(f"{path}: metric_list is no list of metrics", "metric_list:\n  - metric: acc")
    for one in metrics:
        if one.get("hf_evaluate"):
            raise _program(path, f"metric {_short(str(one['metric']))} with hf_evaluate")
        if one["metric"] not in known:
            near = did_you_mean(str(one["metric"]), known)
            raise DataError(
                f"{path}: there is no metric {_short(str(one['metric']))!r} in lm-eval{near}",
                f"Metrics: {', '.join(sorted(known))}. Others are programs and not run.",
            )


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of settings with the key it stands under."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, where or str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, where)


def _refuse_underscores(path: Path, where: str, template: str) -> None:
    """Refuse a template that reaches for Python's own attributes, the way from a text to a program."""
    from jinja2 import Environment, TemplateError, nodes

    if "{{" not in template and "{%" not in template:
        return
    try:
        tree = Environment(autoescape=False).parse(template)
    except (TemplateError, RecursionError) as error:
        raise DataError(f"{path}: {where} is no template: {_first_line(error)}") from error
    hidden = [node.attr for node in tree.find_all(nodes.Getattr) if node.attr.startswith("_")]
    words = [node.name for node in tree.find_all(nodes.Name)]
    words += [str(node.value) for node in tree.find_all(nodes.Const)]
    if hidden := [*hidden, *filter(_PYTHONS_OWN.fullmatch, words)]:
        raise _program(path, f"{where} reaches for {_short(hidden[0])}")
    if any(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))):
        raise _program(path, f"{where} includes another template")


def _local_data(path: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the data lie, as absolute paths.

    Raises:
        DataError: no local files, or they are not there.
    """
    kind = task.get("dataset_path")
    kwargs: dict[str, Any] = dict(task.get("dataset_kwargs") or {})
    named = {key: kwargs[key] for key in _PATHS if kwargs.get(key)}
    if kind not in _FORMATS or not named:
        raise DataError(
            f"{path}: its data are no local files (dataset_path: {kind})",
            f"dataset_path: {', '.join(_FORMATS)}; dataset_kwargs: data_files: FILE, relative to {path.name}.",
        )
    placed = {key: _absolute(path, value) for key, value in named.items()}
    for _, place in _texts(placed):
        if "://" in place:
            raise DataError(f"{path}: {place} is no local file", "Fetch it, and name the file.")
        if not any(sign in place for sign in "*?[") and not Path(place).exists():
            raise DataError(f"{path}: its data are not there: {place}", f"Paths are relative to {path.name}.")
    return {"dataset_kwargs": {**kwargs, **placed}}


def _absolute(path: Path, value: Any) -> Any:
    """Return paths, in whatever lists and tables they stand, as seen from the file that names them."""
    if isinstance(value, str):
        return value if "://" in value else str(path.expanduser().absolute().parent / Path(value).expanduser())
    if isinstance(value, dict):
        return {key: _absolute(path, inner) for key, inner in value.items()}
    return [_absolute(path, inner) for inner in value] if isinstance(value, list) else value


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
