"""Merge defaults < preset < .env < environment < command line, validate once, remember each value's origin."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vgpt.addresses import masked_text, without_credentials
from vgpt.attention.grammar import filled, parse_attention, parse_pattern, pattern_in
from vgpt.attention.registry import unknown_variant, variants
from vgpt.errors import SettingsError, did_you_mean
from vgpt.files.text import table_of
from vgpt.settings.dotenv import read_dotenv
from vgpt.settings.fields import Leaf, leaves
from vgpt.settings.prepared import data_of_run, find_prepared
from vgpt.settings.presets import Preset

S = TypeVar("S", bound=BaseModel)
Table = dict[str, Any]
_DATA = ("train", "data")


@dataclass(frozen=True)
class Sources:
    """Where values may come from, weakest first: preset, `.env`, environment, command line (flat name -> value).

    With `look_around`, data that none of them names is looked for in the working directory.
    """

    preset: Preset | None = None
    dotenv: Mapping[str, str] = field(default_factory=dict[str, str])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    command_line: Mapping[str, Any] = field(default_factory=dict[str, Any])
    look_around: bool = False

    @classmethod
    def here(cls, preset: Preset | None, command_line: Mapping[str, Any]) -> "Sources":
        """Collect the sources of this process: its environment and `./.env`."""
        return cls(preset, read_dotenv(Path(".env")), dict(os.environ), command_line, look_around=True)


@dataclass(frozen=True)
class Loaded(Generic[S]):
    """Validated settings, the origin of each by flat name, and remarks for stderr."""

    settings: S
    origins: dict[str, str]
    notes: list[str]


def load_settings(model: type[S], sources: Sources) -> Loaded[S]:
    """Build settings from all sources.

    Raises:
        SettingsError: with every fault: unknown names, wrong values, flags of another variant.
    """
    known = leaves(model)
    tree: Table = deepcopy(sources.preset.tables) if sources.preset else {}
    origin_of_preset = f"preset {sources.preset.name}" if sources.preset else ""
    given = _given(known, sources)
    faults: list[str] = []
    notes: list[str] = []
    origins = {name: origin_of_preset if _holds(tree, leaf.path) else "default" for name, leaf in known.items()}

    attention = next((leaf for leaf in known.values() if leaf.is_attention), None)
    kind = ""
    of_variants = _tables_of_variants(tree, attention)
    if attention is not None:
        kind, inline = _choose_variant(tree, attention, given, faults)
        for name in inline:
            origins[name] = given[attention.name][1]
        for name, leaf in known.items():
            if leaf.variants and name not in inline:
                origins[name] = origin_of_preset if _holds(tree, leaf.path) else "default"

    members = _members(tree, attention, kind)
    for name, (value, origin) in given.items():
        leaf = known[name]
        if leaf.is_attention:
            origins[name] = origin
        elif leaf.variants and members & set(leaf.variants):
            _fill_pattern(tree, attention, {owner: {name: _parsed(leaf, value)} for owner in leaf.variants})
            origins["pattern"] = origin
        elif leaf.variants and kind in variants() and kind not in leaf.variants:
            remark = f"{leaf.flag} does not apply to --attn {kind}; it belongs to {', '.join(leaf.variants)}"
            if origin == "command line":
                faults.append(remark)
            else:
                notes.append(f"{leaf.env} ({origin}) is left out: {remark}")
        else:
            _descend(tree, leaf.path[:-1])[leaf.path[-1]] = _parsed(leaf, value)
            origins[name] = origin
    if sources.look_around:
        _find_data(tree, known, given, origins)
    if "match_to" in known:
        _fill_reference(tree, known["match_to"], of_variants)
    faults += _no_text(tree)
    return Loaded(_validated(model, tree, known, origins, given, faults, origin_of_preset), origins, notes)


def given_value(model: type[BaseModel], sources: Sources, name: str) -> Any:
    """Return what the sources say of one setting, before any validation; None where they say nothing."""
    known = leaves(model)
    given = _given(known, sources)
    if name in given:
        return given[name][0]
    value: Any = sources.preset.tables if sources.preset else {}
    for key in known[name].path:
        value = table_of(value).get(key)
    return value


def _find_data(
    tree: Table, known: Mapping[str, Leaf], given: Mapping[str, tuple[Any, str]], origins: dict[str, str]
) -> None:
    """Fill in the data that no source names: that of the run continued or forked, otherwise what was prepared here."""
    if "data" not in known or known["data"].path != _DATA or origins["data"] != "default":
        return

    def said(name: str) -> str:
        value: Any = given[name][0] if name in given else tree
        for key in () if name in given else known[name].path:
            value = table_of(value).get(key, "")
        return str(value or "")

    found = None
    if "runs_dir" in known:  # commands without runs, as bench, continue none
        runs_dir = Path(os.path.expanduser(said("runs_dir") or str(known["runs_dir"].default)))
        of_runs = (data_of_run(place, runs_dir) for name in ("run_name", "fork") if (place := said(name)))
        found = next(filter(None, of_runs), None)
    found = found or find_prepared()
    if found is not None:
        _descend(tree, _DATA[:-1])[_DATA[-1]], origins["data"] = found.place, found.origin


def _given(known: Mapping[str, Leaf], sources: Sources) -> dict[str, tuple[Any, str]]:
    """Return what .env, environment and command line say: flat name -> (value, origin); the strongest wins."""
    given: dict[str, tuple[Any, str]] = {}
    for name, leaf in known.items():
        for origin, values in ((".env", sources.dotenv), ("environment", sources.environment)):
            if leaf.env in values:
                given[name] = (values[leaf.env], origin)
        if name in sources.command_line:
            given[name] = (sources.command_line[name], "command line")
    return given


def _choose_variant(
    tree: Table, leaf: Leaf, given: Mapping[str, tuple[Any, str]], faults: list[str]
) -> tuple[str, set[str]]:
    """Settle which variant it is, and keep the preset's table of that one alone.

    A preset holds one sub-table per variant beside `kind`, so that any variant works on any preset.

    Returns:
        The variant's name, and the settings that were written inline (`gqa:n_kv_head=4`).
    """
    parent = _descend(tree, leaf.path[:-1])
    present = parent.get(leaf.name, {})
    if not isinstance(present, str | dict):
        faults.append(f"{'.'.join(leaf.path)} = {present!r}: must be a variant's name, or a table with a kind")
    table = {"kind": present} if isinstance(present, str) else dict(table_of(present))
    for name, value in table.items():
        if name != "kind" and (name not in variants() or not isinstance(value, dict)):
            faults.append(f"{'.'.join(leaf.path)}.{name}: not the table of a variant; {unknown_variant(name)}")
    default = leaf.info.get_default(call_default_factory=True).kind
    text = str(given[leaf.name][0] if leaf.name in given else table.get("kind", default))
    try:
        inline = parse_attention(text)
    except SettingsError as error:
        faults += error.faults
        parent.pop(leaf.name, None)
        return text.partition(":")[0], set()
    kind = inline.pop("kind")
    parent[leaf.name] = {"kind": kind, **table_of(table.get(kind)), **inline}
    _fill_pattern(tree, leaf, {name: table_of(own) for name, own in table.items() if isinstance(own, dict)})
    return kind, set(inline)


def _members(tree: Table, attention: Leaf | None, kind: str) -> set[str]:
    """Return the variants in the pattern of a mix; none for a plain variant."""
    if attention is None or kind not in variants():  # where the name was wrong, its table is gone, and stays so
        return set()
    pattern = pattern_in(kind, _descend(tree, attention.path))
    return {str(layer["kind"]) for layer in parse_pattern(pattern)} if pattern else set()


def _tables_of_variants(tree: Table, attention: Leaf | None) -> Table:
    """Return the preset's table of each variant."""
    table = _descend(tree, attention.path[:-1]).get(attention.path[-1]) if attention is not None else None
    return {kind: own for kind, own in table_of(table).items() if isinstance(own, dict)}


def _fill_reference(tree: Table, leaf: Leaf, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Give the variant of --match-to what the preset says of it, as --attn gets it."""
    parent = _descend(tree, leaf.path[:-1])
    text = parent.get(leaf.path[-1])
    if isinstance(text, str):
        with suppress(SettingsError):  # a word that is no variant is found at validation, beside all other faults
            parent[leaf.path[-1]] = filled(text, settings)


def _fill_pattern(tree: Table, attention: Leaf | None, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Give the layers of a mix the settings of their variants that the pattern itself does not set."""
    table = _descend(tree, attention.path) if attention is not None else {}
    if pattern := pattern_in(table.get("kind", ""), table):
        table["pattern"] = filled(pattern, settings)


def _parsed(leaf: Leaf, value: Any) -> Any:
    """Turn the words of a command line or environment into what pydantic reads."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none" and "none" not in leaf.choices():
        return None if not leaf.is_sequence else ()
    if leaf.is_sequence:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _validated(
    model: type[S],
    tree: Table,
    known: Mapping[str, Leaf],
    origins: Mapping[str, str],
    given: Mapping[str, tuple[Any, str]],
    faults: list[str],
    origin_of_preset: str,
) -> S:
    try:
        settings = model.model_validate(tree)
    except UnicodeEncodeError as error:
        # Of a text that `_no_text` has named, and that pydantic itself cannot carry far enough to name other faults.
        raise SettingsError(faults) from error
    except ValidationError as error:
        texts: dict[str, list[str]] = {}  # the branches of a union report apart; join them
        for details in error.errors():
            for subject, text in _describe(details, known, origins, given, origin_of_preset):
                messages = texts.setdefault(subject, [])
                if text not in messages:
                    messages.append(text)
        for subject, parts in texts.items():
            faults += [f"{subject}: {' or '.join(parts)}"] if subject else parts
    else:
        if not faults:
            return settings
    raise SettingsError(faults)


def _describe(
    details: ErrorDetails,
    known: Mapping[str, Leaf],
    origins: Mapping[str, str],
    given: Mapping[str, tuple[Any, str]],
    origin_of_preset: str,
) -> Iterable[tuple[str, str]]:
    """Yield (what is wrong, why) for one fault that pydantic found; the subject is empty for faults across fields."""
    loc = details["loc"]
    message = details["msg"].removeprefix("Value error, ")
    leaf = next(
        (known[n] for n in known if loc[: len(known[n].path)] == known[n].path and not known[n].is_attention), None
    )
    if details["type"] == "extra_forbidden":
        names = {part for entry in known.values() for part in entry.path}
        origin = origin_of_preset or "given"
        yield (
            f"{'.'.join(map(str, loc))} = {_told(details['input'])} ({origin})",
            ("unknown setting" + did_you_mean(str(loc[-1]), names)),
        )
    elif leaf is not None:
        value = given[leaf.name][0] if leaf.name in given else details["input"]
        yield f"{leaf.flag} = {_told(value)} ({origins.get(leaf.name, 'given')})", message
    else:
        for line in message.split("\n"):
            yield "", line


def _descend(tree: Table, path: Iterable[str]) -> Table:
    for key in path:
        below: Any = tree.setdefault(key, {})
        if not isinstance(below, dict):
            raise SettingsError([f"{key} = {below!r}: must be a table of settings, as in [{key}]"])
        tree = cast("Table", below)
    return tree


def _no_text(tree: Any, path: str = "") -> list[str]:
    """Return a fault for every text that no file name or JSON can carry: with NUL, or of bytes that are no UTF-8."""
    if isinstance(tree, dict):
        table = table_of(tree)
        return [fault for key, value in table.items() for fault in _no_text(value, f"{path}.{key}".lstrip("."))]
    if isinstance(tree, list | tuple):
        return [fault for value in cast("list[Any]", tree) for fault in _no_text(value, path)]
    if not isinstance(tree, str) or ("\0" not in tree and tree.isprintable()):
        return []
    wrong = "\0" in tree or any("\ud800" <= character <= "\udfff" for character in tree)
    return [f"{path} = {without_credentials(tree)!r}: must be text without NUL that UTF-8 can carry"] if wrong else []


def _told(value: Any) -> str:
    """Return a value for a message; an address in it shows no password."""
    return masked_text(repr(value)) if not isinstance(value, str) else repr(without_credentials(value))


def _holds(tree: Any, path: Iterable[str]) -> bool:
    for key in path:
        if key not in (table := table_of(tree)):
            return False
        tree = table[key]
    return True
