"""Tensors that depend on sizes and a device alone: made once, kept, and shared by all layers and steps."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar, TypeVarTuple, cast

import torch

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class KeptTables:
    """What functions returned, by function and arguments.

    What CUDA graphs read must stay where it is for as long as they are replayed, so nothing is let go by default.

    Args:
        most: entries to keep, of which the one longest unasked for goes first; None for all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._made: OrderedDict[tuple[Hashable, ...], object] = OrderedDict()

    def __call__(self, make: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Return `make(*arguments)`, made once; arguments must be hashable, and say all that the result depends on."""
        if torch.compiler.is_compiling():  # a compiler traces through the making and keeps nothing
            return make(*arguments)
        key: tuple[Hashable, ...] = (make, *arguments)  # pyright: ignore[reportAssignmentType]  # as demanded
        if key not in self._made:
            # A tensor born in inference mode could not take part in a later training step.
            with torch.inference_mode(False):
                made = make(*arguments)
            self._made[key] = made
        self._made.move_to_end(key)
        while self._most is not None and len(self._made) > self._most:
            self._made.popitem(last=False)
        return cast(T, self._made[key])

    def __iter__(self) -> Iterator[tuple[Hashable, ...]]:
        """Go through the (function, arguments...) that are kept."""
        return iter(self._made)

    def clear(self) -> None:
        """Let go of everything."""
        self._made.clear()
