"""The architecture of one concrete model: the settings, and the vocabulary that the data brought."""

from typing import Annotated

from pydantic import Field

from vgpt.settings.model import ModelSettings


class GPT2Config(ModelSettings):
    """All that is needed to build a model; torch-free, so that costs can be computed without building one."""

    vocab_size: Annotated[int, Field(ge=1)]
    """tokens of the vocabulary"""
