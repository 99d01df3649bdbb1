"""Settings of `vgpt verify`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vgpt.attention.options import SETTINGS
from vgpt.schema import Section
from vgpt.settings.model import ModelSettings

BACKBONE = ("n_embd", "n_head", "block_size", "bias", *SETTINGS, "flash")
"""Settings of the model that an attention layer is built for; where one is given, checks run on that backbone."""


class VerifyConfig(Section):
    """What is checked, and where."""

    checks: tuple[str, ...] = ()
    """names of checks to run, separated by commas; none = all"""
    oracle: str | None = None
    """variant that outputs and gradients are compared with, given equal weights; none = no reference"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """of the weights, the inputs and the places looked at"""
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")] = "cpu"
    """cpu, cuda, cuda:1 or mps"""
    runs_dir: Path = Path("runs")
    """directory of all runs; verified.json in it records what has passed"""
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads; none = as many as CPU affinity and quota allow"""
    model: ModelSettings = ModelSettings()
