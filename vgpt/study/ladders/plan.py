"""The rungs of a ladder file as settings: what `vgpt compare` would be given for each rung, were it typed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from vgpt.compare.ladder import Rung, backbone_parameters, rung_after
from vgpt.compare.request import Request, make_request
from vgpt.errors import SettingsError, UsageError
from vgpt.files.digests import json_digest
from vgpt.files.paths import user_path
from vgpt.formatting import flag_of
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import leaves
from vgpt.settings.ladder import RULED, LadderFile, RungFile, load_ladder
from vgpt.settings.loader import Sources, given_value
from vgpt.settings.presets import load_preset
from vgpt.settings.study import listed_axes

Settings = Mapping[str, Mapping[str, str]]
"""Settings of variants: variant -> name -> value as typed."""


@dataclass(frozen=True)
class RungPlan:
    """A rung, and what is typed for it.

    Attributes:
        rung: its size.
        sources: where its settings come from.
        scaled: the settings of variants there.
    """

    rung: Rung
    sources: Sources
    scaled: Settings


@dataclass(frozen=True)
class LadderPlan:
    """The rungs of a file.

    Attributes:
        name: of the ladder.
        rate: the rule of the learning rate, in words.
        rungs: those that were asked for, from small to large.
        ahead: the next one: of the file where it has one more, otherwise as far on as the last from the one before.
    """

    name: str
    rate: str
    rungs: tuple[RungPlan, ...]
    ahead: Rung


def plan_ladder(place: str, words: Sequence[str], sources: Sources) -> LadderPlan:
    """Read a ladder file and work out each of its rungs.

    Raises:
        UsageError: a flag makes no sense here, or the file or the settings of a rung are wrong.
    """
    file = load_ladder(_path(place))
    _check_flags(file, sources, words, place)
    preset = sources.preset or (load_preset(file.preset) if file.preset is not None else None)
    plans = [_plan(file, rung, words, replace(sources, preset=preset)) for rung in file.rungs]
    for before, after in pairwise(plans):
        if after.rung.compute <= before.rung.compute:
            raise UsageError(
                f"{place}: rung {after.rung.name} takes no more compute than {before.rung.name}: "
                f"{after.rung.compute:.3g} and {before.rung.compute:.3g} FLOPs",
                "Order the rungs from small to large.",
            )
    number = given_value(CompareConfig, sources, "rungs")
    wanted = plans[: int(number)] if number is not None and str(number) != "none" else plans
    sizes = [one.rung for one in plans]
    ahead = sizes[len(wanted)] if len(wanted) < len(sizes) else rung_after(sizes)
    return LadderPlan(file.name, str(file.lr), tuple(wanted), ahead)


def _path(place: str) -> Path:
    try:
        return user_path(place)
    except ValueError as error:
        raise UsageError(f"--ladder {place}: {error}") from error


def _check_flags(file: LadderFile, sources: Sources, words: Sequence[str], place: str) -> None:
    """Refuse what would take away from the rungs what makes them rungs.

    Raises:
        UsageError: which flag.
    """
    if not words:
        raise UsageError(
            f"--ladder {place} says at which sizes, not what is compared",
            f"Name the variants, the baseline first: vgpt compare mha gqa --ladder {place}",
        )
    typed = sources.command_line
    if given_value(CompareConfig, sources, "study") is not None:
        raise UsageError("--ladder and --study both say which comparisons are made", "Leave one of them out.")
    if lists := listed_axes(typed):
        name = next(iter(lists))
        raise UsageError(
            f"{flag_of(name)} {typed[name]} lists values, and the rungs of --ladder are the only axis of a ladder",
            "Give one value, and run the command for each.",
        )
    ruled = [*RULED, *(name for rung in file.rungs for name in rung.typed())]
    ruled += ["warmup_steps"] if file.warmup is not None else []
    ruled += ["eval_interval"] if file.evaluations is not None else []
    for name in ruled:
        if name in typed:
            raise UsageError(f"{flag_of(name)} {typed[name]}: the rungs of {place} set this", f"Change {place}.")


def _plan(file: LadderFile, rung: RungFile, words: Sequence[str], sources: Sources) -> RungPlan:
    """Return a rung with its budget, its learning rate and the settings of its variants.

    Raises:
        UsageError: they are wrong; the rung is named.
    """
    shape = {**rung.typed(), "lr": str(file.rate(rung))}
    typed: dict[str, Any] = {**file.shared(), **sources.command_line, **shape}
    sources = replace(sources, command_line=typed)
    context = given_value(CompareConfig, sources, "block_size") or leaves(CompareConfig)["block_size"].default
    scaled = file.scaled(rung, int(context))
    try:
        request = make_request(words, sources, scaled)
    except SettingsError as error:
        raise SettingsError([f"rung {rung.name}: {fault}" for fault in error.faults], error.hint) from error
    config = request.settings
    parameters = backbone_parameters(config.model)
    steps = max(1, -(-round(file.budget(rung, parameters)) // config.tokens_per_step))
    own = {**shape, "max_steps": str(steps)}
    # What a preset says of these is of another size.
    own |= {name: "none" for name in ("max_tokens", "min_lr") if getattr(config.train, name) is not None}
    if file.warmup is not None:
        own["warmup_steps"] = str(round(file.warmup * steps))
    if file.evaluations is not None:
        own["eval_interval"] = str(max(1, -(-steps // file.evaluations)))
    complete = replace(sources, command_line={**typed, **own})
    request = make_request(words, complete, scaled)
    found = Rung(
        name=rung.name,
        parameters=parameters,
        tokens=steps * config.tokens_per_step,
        settings={name: value for name, value in own.items() if value != "none"},
        variants=tuple(selector.attn for selector in request.selectors),
        conditions=conditions_digest(request),
    )
    return RungPlan(found, complete, scaled)


def conditions_digest(request: Request) -> str:
    """Return the digest of what the runs of a rung have in common, the budget that is matched among it."""
    return json_digest(request.settings.conditions())
