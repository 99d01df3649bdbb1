"""Settings of `vgpt variants` and `vgpt explain`: the model that costs are stated for, and how."""

from typing import Annotated, Literal

from pydantic import Field

from vgpt.schema import Section
from vgpt.settings.model import ModelSettings

ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class VariantsConfig(Section):
    """The model that the costs are those of."""

    model: ModelSettings = ModelSettings()
    kv_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """type of the numbers in the cache"""
    kv_at: Annotated[int, Field(ge=1, le=1_000_000_000)] = 8192
    """tokens of context for the second column of cache sizes"""

    @property
    def element_bytes(self) -> int:
        """Bytes of one number in the cache."""
        return ELEMENT_BYTES[self.kv_dtype]


class ExplainConfig(Section):
    """The model that one variant is explained in."""

    model: ModelSettings = ModelSettings()
    kv_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """type of the numbers in the cache"""
    mask_tokens: Annotated[int | None, Field(ge=1, le=16_384)] = None
    """tokens in the picture of the mask; none = block_size, at most 2048"""

    @property
    def element_bytes(self) -> int:
        """Bytes of one number in the cache."""
        return ELEMENT_BYTES[self.kv_dtype]

    @property
    def pictured(self) -> int:
        """Tokens in the picture of the mask."""
        return self.mask_tokens or min(self.model.block_size, 2048)
