"""A path from one variant to another that changes one thing at a time: the settings of every stair, without torch.

Within one kind one setting after the other goes from its first to its last value. Between kinds the path leads over
the common ground that each variant declares (`vgpt.attention.ground`): the first variant goes back to it, the last one
comes from it. Neighbors that are the same function of the same weights, as `gqa` with all key/value heads and `mha`
are, make one stair.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations
from typing import Any

from pydantic import ValidationError

from vgpt.attention.config import ModelAttention, Shape
from vgpt.attention.grammar import display_label, full_label
from vgpt.attention.ground import Ground
from vgpt.attention.grouped.config import MHAConfig
from vgpt.errors import UsageError

_MOST_ORDERS = 720
"""Orders of the settings that are tried for one that is allowed, where the given one is not."""


@dataclass(frozen=True)
class Change:
    """One thing that a step changes.

    Attributes:
        name: the setting; empty where the variant itself changes.
        before: its value before; the variant's name.
        after: its value after.
    """

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        """The change in words: `n_kv_head 2 -> 4`."""
        return f"{self.name} {self.before} -> {self.after}".lstrip()


@dataclass(frozen=True)
class Stair:
    """One variant on the path.

    Attributes:
        attn: its settings.
        changes: what the step to it changes; none for the first. More than one only where all but one change nothing
            that is computed.
        note: what else the step brings, in words; empty for nothing.
    """

    attn: ModelAttention
    changes: tuple[Change, ...] = ()
    note: str = ""

    @property
    def label(self) -> str:
        """The variant with all its settings, as `--attn` takes it."""
        return full_label(self.attn)

    @property
    def what(self) -> str:
        """What the step changes, in words; empty for the first stair."""
        return ", ".join(map(str, self.changes))


@dataclass(frozen=True)
class Staircase:
    """The path on one backbone, from its first to its last variant: two stairs at least."""

    stairs: tuple[Stair, ...]
    shape: Shape

    def index(self, attn: ModelAttention) -> int | None:
        """Return which stair has these settings, spelled out or not; None where none has."""
        wanted = spelled(attn, self.shape)
        return next((i for i, one in enumerate(self.stairs) if spelled(one.attn, self.shape) == wanted), None)


def build_staircase(start: ModelAttention, end: ModelAttention, shape: Shape, via: Sequence[str] = ()) -> Staircase:
    """Return the path between two variants on a backbone.

    Args:
        start: the first.
        end: the last.
        shape: the backbone.
        via: settings in the order in which they change; what is not named comes after them, in the usual order.

    Raises:
        UsageError: the two are the same function, a step is none on this backbone, or `via` names what never changes.
    """
    if function_of(start, shape) == function_of(end, shape):
        raise UsageError(
            f"--from {display_label(start)} and --to {display_label(end)} are the same function on this backbone: "
            "there is nothing between them",
            "Name two variants that differ: --from gqa:n_kv_head=2 --to mha",
        )
    stairs = _merged(_path(start, end, shape, via), start, end, shape)
    changing = list(dict.fromkeys(change.name for stair in stairs for change in stair.changes if change.name))
    for number, name in enumerate(via):
        if name not in changing or name in via[:number]:
            why = "is named twice" if name in via[:number] else "does not change on this path"
            remedy = f"Settings that change: {', '.join(changing)}." if changing else "Leave out --via."
            raise UsageError(f"--via: {name} {why}", remedy)
    _check(stairs, start, end, shape, changing)
    return Staircase(tuple(stairs), shape)


def spelled(attn: ModelAttention, shape: Shape) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """Return kind and settings, the same for all spellings of the same settings."""
    meant = attn.defaults_in(shape)
    table = {name: None if name in meant and meant[name] == value else value for name, value in _settings(attn).items()}
    return attn.kind, tuple(table.items())


def function_of(attn: ModelAttention, shape: Shape) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """Return the same for all variants and settings that make the same function of the same weights."""
    return spelled(_plainest(attn, shape), shape)


def _settings(attn: ModelAttention) -> dict[str, Any]:
    return {name: getattr(attn, name) for name in type(attn).model_fields}


def _declares(attn: ModelAttention, method: str) -> bool:
    """Return whether what a class says of its function is said of this variant: one derived from it computes more."""
    owner = next(base for base in type(attn).__mro__ if method in vars(base))
    return vars(owner).get("kind", attn.kind) == attn.kind


def _ground(attn: ModelAttention, shape: Shape) -> Ground | None:
    return attn.ground(shape) if _declares(attn, "ground") else None


def _same(attn: ModelAttention, shape: Shape) -> ModelAttention | None:
    return attn.same_as(shape) if _declares(attn, "same_as") else None


def _plainest(attn: ModelAttention, shape: Shape) -> ModelAttention:
    seen = [attn]
    while (other := _same(seen[-1], shape)) is not None and other not in seen:
        seen.append(other)
    return seen[-1]


def _path(start: ModelAttention, end: ModelAttention, shape: Shape, via: Sequence[str]) -> list[Stair]:
    """Return the stairs before neighbors of the same function are made one."""
    for first in dict.fromkeys((start, _same(start, shape) or start)):
        for last in dict.fromkeys((end, _same(end, shape) or end)):
            if first.kind == last.kind:
                return [Stair(start), *_walk(first, last, shape, _order(via, type(first).model_fields))]
    down, first_ground = _leg(start, shape)
    up, last_ground = _leg(end, shape)
    stairs = [Stair(start)]
    if first_ground is not None:
        names = _order(via, reversed([*first_ground.settings]))
        stairs += _walk(down[0], down[1], shape, names)
        stairs.append(Stair(MHAConfig(), (Change("", down[1].kind, "mha"),), _without(first_ground.differs)))
    if last_ground is None:
        before = stairs[-1].attn
        note = _jump_note(end if first_ground is not None else start, end)
        stairs.append(Stair(end, (Change("", before.kind, end.kind),), note))
        return stairs
    if first_ground is None:
        stairs.append(Stair(MHAConfig(), (Change("", start.kind, "mha"),), _jump_note(start)))
    stairs.append(Stair(up[1], (Change("", "mha", up[1].kind),), last_ground.differs))
    return [*stairs, *_walk(up[1], up[0], shape, _order(via, last_ground.settings))]


def _leg(attn: ModelAttention, shape: Shape) -> tuple[tuple[ModelAttention, ModelAttention], Ground | None]:
    """Return a variant, in the terms of the one that it is a case of, with its settings at the common ground."""
    for one in (attn, _same(attn, shape)):
        if one is not None and (ground := _ground(one, shape)) is not None:
            return (one, one.model_copy(update=dict(ground.settings))), ground
    return (attn, attn), None


def _walk(first: ModelAttention, last: ModelAttention, shape: Shape, order: Sequence[str]) -> list[Stair]:
    """Return the stairs after the first: one setting after the other takes its last value."""
    here, there = dict(spelled(first, shape)[1]), dict(spelled(last, shape)[1])
    goal, before = _settings(last), _settings(first)
    meant = first.defaults_in(shape)
    changing = [name for name in (*order, *here) if here[name] != there[name]]
    stairs: list[Stair] = []
    now = first
    for name in dict.fromkeys(changing):
        now = now.model_copy(update={name: goal[name]})
        told = [_word(meant.get(name) if value is None else value) for value in (before[name], goal[name])]
        stairs.append(Stair(now, (Change(name, *told),)))
    if stairs:  # its own spelling, for the runs that are there
        stairs[-1] = replace(stairs[-1], attn=last)
    return stairs


def _order(via: Sequence[str], usual: Iterable[str]) -> list[str]:
    names = list(usual)
    return [*(name for name in via if name in names), *(name for name in names if name not in via)]


def _merged(stairs: Sequence[Stair], start: ModelAttention, end: ModelAttention, shape: Shape) -> list[Stair]:
    """Make neighbors of the same function one stair: the end that was asked for, or the plainest of them."""
    kept: list[Stair] = []
    for one in stairs:
        if not kept or function_of(kept[-1].attn, shape) != function_of(one.attn, shape):
            kept.append(one)
            continue
        last = kept[-1]
        fixed = len(kept) == 1
        changes = (*last.changes, *(change for change in one.changes if change.name))
        attn = last.attn if fixed else _plainest(one.attn, shape)
        kept[-1] = last if fixed else Stair(attn, changes, "; ".join(filter(None, (last.note, one.note))))
    kept[0], kept[-1] = replace(kept[0], attn=start), replace(kept[-1], attn=end)
    return kept


def _check(
    stairs: Sequence[Stair], start: ModelAttention, end: ModelAttention, shape: Shape, changing: Sequence[str]
) -> None:
    for before, stair in pairwise(stairs):
        if not (faults := _faults(stair.attn, shape)):
            continue
        raise UsageError(
            f"no path from {display_label(start)} to {display_label(end)}: the step {stair.what} after "
            f"{display_label(before.attn)} is none here: {'; '.join(faults)}",
            _other_order(start, end, shape, changing),
        )


def _faults(attn: ModelAttention, shape: Shape) -> list[str]:
    try:
        type(attn).model_validate(_settings(attn))
    except ValidationError as error:
        return [f"{'.'.join(map(str, one['loc']))} = {one['input']!r}: {one['msg']}" for one in error.errors()]
    return attn.check(shape)


def _other_order(start: ModelAttention, end: ModelAttention, shape: Shape, changing: Sequence[str]) -> str:
    """Return advice: an order of the settings in which every step is allowed, where there is one."""
    for number, names in enumerate(permutations(changing)):
        if number == _MOST_ORDERS:
            break
        stairs = _merged(_path(start, end, shape, names), start, end, shape)
        if not any(_faults(stair.attn, shape) for stair in stairs):
            return f"In another order every step is allowed: --via {','.join(names)}"
    return "Name a variant between the two as --to, and go on from there with --from."


def _without(differs: str) -> str:
    return f"no longer: {differs}" if differs else ""


def _jump_note(*kinds: ModelAttention) -> str:
    names = " and ".join(dict.fromkeys(one.kind for one in kinds))
    verb = "declare" if len({one.kind for one in kinds}) > 1 else "declares"
    return f"{names} {verb} no settings at which it is near mha: all that sets it apart changes in this one step"


def _word(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
