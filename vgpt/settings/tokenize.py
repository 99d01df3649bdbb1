"""Settings of `vgpt tokenize`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vgpt.schema import Place, Section


class TokenizerTrainConfig(Section):
    """How a tokenizer is trained."""

    out: Path = Path("tokenizer")
    """folder to write"""
    vocab_size: Annotated[int, Field(ge=257, le=1_000_000)] = 4096
    """bytes, merges and special tokens together"""
    pattern: str = "gpt4"
    """split pattern: gpt2, gpt4, o200k, bytes, or a regular expression"""
    special_tokens: tuple[str, ...] = ()
    """special tokens beside <|endoftext|>, separated by commas"""
    text_key: str = "text"
    """key (.jsonl) or column (.parquet) that holds the text"""


class TokenizerConfig(Section):
    """Which tokenizer is used."""

    tokenizer: Place = "tokenizer"
    """gpt2, a folder with a tokenizer, a tokenizer.json or a .model file"""
    vocab_dir: Path | None = None
    """folder with GPT-2's vocab.bpe and encoder.json, for --tokenizer gpt2"""
    allow_special: bool = False
    """read spellings of special tokens in the text as the tokens themselves"""
