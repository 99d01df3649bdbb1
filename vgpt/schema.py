"""The base of every settings class: frozen, no unknown keys, and the string under a field is its help text."""

from pydantic import BaseModel, ConfigDict


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
