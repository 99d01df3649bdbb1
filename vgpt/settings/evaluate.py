"""Settings of `vgpt eval`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vgpt.schema import Place, Section


class EvalConfig(Section):
    """What is evaluated, and how exactly."""

    data: Place | None = None
    """prepared directory; none = the data that the run was trained on"""
    split: Literal["val", "train"] = "val"
    """which part of the data"""
    windows: Annotated[int | None, Field(ge=1)] = None
    """fixed windows of block_size tokens; none = all that the split holds"""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of matrix products"""
    flash: bool = True
    """fused attention kernels; --no-flash computes the naive formula"""
    runs_dir: Path = Path("runs")
    """directory of all runs"""
