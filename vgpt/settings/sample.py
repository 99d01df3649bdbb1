"""Settings of `vgpt sample`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vgpt.schema import Section


class SampleConfig(Section):
    """What is generated, and how tokens are chosen."""

    prompt: str | None = None
    """text to continue; none = begin a new text"""
    prompt_file: Path | None = None
    """file that holds the prompt, taken as it is; - = stdin"""
    allow_special: bool = False
    """read spellings of special tokens in the prompt, as <|endoftext|>, as the tokens themselves"""
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """most new tokens per sample; a sample ends earlier at end-of-text"""
    num_samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    """texts to generate, each with its own random numbers"""
    temperature: Annotated[float, Field(ge=0, le=1000)] = 0.8
    """divides the logits: lower is more deterministic; 0 = always the likeliest token"""
    top_k: Annotated[int | None, Field(ge=1)] = None
    """draw among the k likeliest tokens only; none = all"""
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    """draw among the fewest tokens whose probabilities reach p; none = all"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """of the draws; the same seed gives the same texts"""
    context: Annotated[int | None, Field(ge=1)] = None
    """most tokens that the model looks back on; none = --block-size of its training"""
    cache: bool = True
    """keep what attention remembers between tokens; --no-cache computes it anew for each, to compare"""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of weights and cache; auto = bfloat16 where native, else float16 on GPUs that have it, else float32"""
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads; none = as many as CPU affinity and quota allow"""
    flash: bool = True
    """fused attention kernels; --no-flash computes the naive formula"""
    runs_dir: Path = Path("runs")
    """directory of all runs"""

    @model_validator(mode="after")
    def _one_prompt(self) -> "SampleConfig":
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("--prompt and --prompt-file are two prompts; give one of them")
        return self
