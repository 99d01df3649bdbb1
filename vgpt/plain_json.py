"""JSON as its standard has it: what it cannot say (NaN, infinity) is null, and paths and other objects are text."""

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(value: Any, *, indent: int | None = 2, ascii_only: bool = False) -> str:
    """Return the one JSON text of a value for people's programs."""
    return json.dumps(_known(value), indent=indent, ensure_ascii=ascii_only, default=str, allow_nan=False)


def _known(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return value
