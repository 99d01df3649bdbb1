"""Settings of `vgpt prepare`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vgpt.errors import UsageError
from vgpt.formatting import flag_of
from vgpt.schema import Place, Section
from vgpt.text.clean import parse_steps

DEFAULT_VOCAB_SIZE = 4096
DEFAULT_PATTERN = "gpt4"


class PrepareConfig(Section):
    """How text becomes a tokenizer and token files."""

    out: Path = Path("data/corpus")
    """folder to write"""
    tokenizer: Place = "bpe"
    """bpe: train one on the text; gpt2; or a tokenizer's folder, tokenizer.json or .model file"""
    vocab_size: Annotated[int | None, Field(ge=257, le=1_000_000)] = None
    """tokens of a trained vocabulary, end of text included; none = 4096"""
    pattern: str | None = None
    """split pattern of a trained tokenizer: gpt2, gpt4, o200k, bytes, or a regular expression; none = gpt4"""
    vocab_dir: Path | None = None
    """folder with GPT-2's vocab.bpe and encoder.json, for --tokenizer gpt2"""
    clean: str = "none"
    """steps separated by commas: control, nfc, whitespace, dedup; or all, or none"""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the text kept for validation"""
    split: Literal["auto", "documents", "tail"] = "auto"
    """documents by their hash, or the tail of every document; auto = documents where there are enough of them"""
    text_key: str = "text"
    """key (.jsonl) or column (.parquet) that holds the text"""
    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"
    """processes that encode; the result is the same for any number"""
    overwrite: bool = False
    """replace a data set that was prepared from something else"""

    @field_validator("clean")
    @classmethod
    def _known_steps(cls, value: str) -> str:
        try:
            return ",".join(parse_steps(value)) or "none"
        except UsageError as error:
            raise ValueError(f"{error.message} ({error.hint})") from error

    @model_validator(mode="after")
    def _no_idle_settings(self) -> "PrepareConfig":
        if self.tokenizer != "bpe":
            for name in ("vocab_size", "pattern"):
                if getattr(self, name) is not None:
                    flag = flag_of(name)
                    raise ValueError(f"{flag} is for a trained tokenizer; {self.tokenizer!r} has its own, leave it out")
        if self.vocab_dir is not None and self.tokenizer != "gpt2":
            raise ValueError(f"--vocab-dir goes with --tokenizer gpt2 only, not with {self.tokenizer!r}")
        return self

    @property
    def steps(self) -> tuple[str, ...]:
        """The cleaning steps in the order they run."""
        return parse_steps(self.clean)
