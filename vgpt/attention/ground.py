"""Where variants meet: the settings at which one is multi-head attention, or comes nearest to it.

A comparison that goes from one variant to another in small steps passes through this common ground. What a variant says
of it is data beside its settings; nothing else knows which variants have any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ground:
    """A variant's settings at the common ground.

    Attributes:
        settings: by name, in the order in which a path that comes from mha sets them one by one; settings that are not
            named are as they were.
        differs: what still sets the variant apart from mha there; empty where it is the same function of the same
            weights.
    """

    settings: Mapping[str, Any]
    differs: str = ""
