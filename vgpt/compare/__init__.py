"""From the records of runs to a comparison: selecting, grouping, auditing, statistics.

The room can be called: `vgpt.compare("mha", "gqa")` is the function `compare` of `vgpt.api.comparing`. Python hangs a
package into the one around it under its name, where the function would stand otherwise.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A module that can be called."""

    def __call__(self, *selectors: str, **settings: Any) -> Any:
        return import_module("vgpt.api.comparing").compare(*selectors, **settings)


sys.modules[__name__].__class__ = _Room
