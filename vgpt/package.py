"""What this package is: its version, and where it lies. Rooms ask here, not `vgpt`, which opens onto all of them."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

VERSION = "0.1.0"
"""As in pyproject.toml."""

PACKAGE = Path(__file__).parent
"""Directory of the package."""


def call_as(room: str, home: str) -> None:
    """Let a room be called as the function of its name: `vgpt.compare("mha")` is `compare` of `vgpt.api.comparing`.

    Python hangs a package into the one around it under its name, where the function would stand otherwise.

    Args:
        room: the package, as `__name__` has it there.
        home: the module that holds the function.
    """

    class Room(ModuleType):
        """A module that can be called."""

        def __call__(self, *args: Any, **settings: Any) -> Any:
            return getattr(import_module(home), room.rpartition(".")[2])(*args, **settings)

    sys.modules[room].__class__ = Room
