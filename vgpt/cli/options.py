"""Typer options generated from settings classes.

Typer only splits words; pydantic is the one parser and validator, so that all faults appear together, each with its
value and source.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import BaseModel
from rich.markup import escape

from vgpt.attention.registry import variants
from vgpt.cli.console import key_values, out, print_json, warn
from vgpt.settings.commands import unknown_variables
from vgpt.settings.fields import Leaf, format_value, leaves
from vgpt.settings.loader import Loaded, Sources, load_settings
from vgpt.settings.presets import load_preset, preset_names

Command = Callable[..., Any]
S = TypeVar("S", bound=BaseModel)

ALIASES = {"attn": ["--attention-type"], "at_seconds": ["--at-time"]}
"""Second spellings of flags."""

JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


def variant_argument(text: str, *, metavar: str = "VARIANT") -> Any:
    """Return the argument that names variants, which a shell completes, with its help text."""
    return typer.Argument(metavar=metavar, help=text, autocompletion=lambda: list(variants()))


def option(leaf: Leaf) -> Any:
    """Return the annotated Typer option of one setting."""
    spelling = f"{leaf.flag}/--no-{leaf.flag[2:]}" if leaf.is_bool else leaf.flag
    choices = leaf.choices()
    return Annotated[
        bool if leaf.is_bool else str,
        typer.Option(
            spelling,
            *ALIASES.get(leaf.name, []),
            help=escape(leaf.help),
            metavar=None if leaf.is_bool else leaf.metavar(),
            autocompletion=(lambda: choices) if choices else None,
            rich_help_panel=leaf.panel,
            hidden=leaf.hidden,
            show_default=not leaf.variants,
        ),
    ]


def _default(leaf: Leaf) -> Any:
    if leaf.variants:
        return None
    return leaf.default if leaf.is_bool else format_value(leaf.default)


def given_on_command_line(ctx: typer.Context, values: dict[str, Any], names: dict[str, Leaf]) -> dict[str, Any]:
    """Take the settings out of a command's values and return those that were really typed."""
    typed: dict[str, Any] = {}
    for name in names:
        value = values.pop(name)
        source = ctx.get_parameter_source(name)
        if source is not None and source.name.lower() == "commandline":
            typed[name] = value
    return typed


def with_settings(
    model: type[BaseModel],
    *,
    presets: bool = True,
    variant: str = "",
    settle: Callable[[Loaded[Any]], Loaded[Any]] | None = None,
) -> Callable[[Command], Command]:
    """Replace a command's parameter `loaded` by one option per setting of `model`.

    The command also gets `--show-settings` (print every value with its origin and stop) and, with `presets`,
    `--preset`. It may take `sources`, to load other settings from the same sources; one that takes no `loaded` loads
    them itself, and takes `show_settings`.

    Args:
        model: the settings.
        presets: whether a preset may hold them; what it holds of other settings of a run is left out.
        variant: the command's argument that takes the place of `--attn`: one variant, or several to load one by one.
        settle: fills in what settings that nobody set come to on this machine.
    """

    def decorate(command: Command) -> Command:
        names = leaves(model)
        options = {name: leaf for name, leaf in names.items() if not (variant and leaf.is_attention)}
        parameters = inspect.signature(command).parameters
        own = [p for p in parameters.values() if p.name not in ("ctx", "loaded", "sources", "show_settings")]

        def wrapper(ctx: typer.Context, preset: str | None = None, show_settings: bool = False, **values: Any) -> Any:
            typed = given_on_command_line(ctx, values, options)
            if isinstance(word := values.get(variant), str):
                typed |= dict.fromkeys(names.keys() - options.keys(), word)
            if typed.get("nproc") == "gpu":
                from vgpt.training.hardware.devices import count_gpus  # takes seconds to import, and few ask for it

                typed["nproc"] = count_gpus()
            sources = Sources.here(load_preset(preset).part_for(model) if preset else None, typed)
            for note in unknown_variables(sources):
                warn(note)
            if "loaded" not in parameters:
                return command(sources=sources, show_settings=show_settings, **values)
            loaded = load_settings(model, sources)
            for note in loaded.notes:
                warn(note)
            if settle is not None:
                loaded = settle(loaded)
            if show_settings:
                print_settings(loaded, as_json=bool(values.get("json")))
            extra = {"sources": sources} if "sources" in parameters else {}
            return command(loaded=loaded, **extra, **values)

        signature = _signature(own, options, presets=presets)
        setattr(wrapper, "__signature__", signature)  # noqa: B010 - read by inspect and Typer
        wrapper.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate


def _signature(own: list[inspect.Parameter], names: dict[str, Leaf], *, presets: bool) -> inspect.Signature:
    kw = inspect.Parameter.KEYWORD_ONLY
    show = Annotated[bool, typer.Option("--show-settings", help="print every setting with its origin, and stop")]
    parameters = [inspect.Parameter("ctx", kw, annotation=typer.Context), *(p.replace(kind=kw) for p in own)]
    if presets:
        named = Annotated[
            str | None,
            typer.Option(
                "--preset", metavar="name|file.toml", help="settings from a preset", autocompletion=preset_names
            ),
        ]
        parameters.append(inspect.Parameter("preset", kw, default=None, annotation=named))
    parameters.append(inspect.Parameter("show_settings", kw, default=False, annotation=show))
    if taken := [parameter.name for parameter in parameters if parameter.name in names]:
        raise TypeError(f"a setting cannot be called {taken[0]!r}: the command has an option of this name")
    parameters += [
        inspect.Parameter(n, kw, default=_default(leaf), annotation=option(leaf)) for n, leaf in names.items()
    ]
    return inspect.Signature(parameters)


def print_settings(loaded: Loaded[Any], *, as_json: bool = False) -> NoReturn:
    """Print every setting with where it came from, and end the command."""
    rows = [
        (name, value, loaded.origins[name])
        for name, leaf in leaves(type(loaded.settings)).items()
        if (value := _value(loaded.settings, leaf)) is not _MISSING
    ]
    if as_json:
        print_json({name: {"value": format_value(value), "origin": origin} for name, value, origin in rows})
    else:
        lines = [(name, f"{format_value(value):<24} {origin}") for name, value, origin in rows]
        out().print(key_values("", lines))
    raise typer.Exit


_MISSING = object()


def _value(settings: Any, leaf: Leaf) -> Any:
    for name in leaf.path:
        settings = getattr(settings, name, _MISSING)
    return settings
