"""The base of every settings class: frozen, no unknown keys, and the string under a field is its help text."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, field_validator

from vgpt.files.paths import user_path

Place = Annotated[str, AfterValidator(lambda word: str(user_path(word)) if word.startswith("~") else word)]
"""A word that may name a path, beside other things."""


class Section(BaseModel):
    """A group of settings.

    Frozen, so that what was validated is what runs; unknown keys are refused, so that a typo is never a silent default.
    The docstring under a field becomes its help text on the command line: lower case, no full stop, with its unit.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        # JSON has neither: settings that hold them could not be read back.
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    @field_validator("*", mode="after")
    @classmethod
    def _home_is_known(cls, value: Any) -> Any:
        """Take every path for what a shell takes it: no folder is ever called `~` because nobody expanded it."""
        return user_path(value) if isinstance(value, Path) else value
