"""Settings of `vgpt verify`."""

from typing import Annotated

from pydantic import Field

from vgpt.schema import Section


class VerifyConfig(Section):
    """What is checked, and where."""

    checks: tuple[str, ...] = ()
    """names of checks to run, separated by commas; none = all"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """of the weights, the inputs and the places looked at"""
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")] = "cpu"
    """cpu, cuda, cuda:1 or mps"""
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads; none = as many as CPU affinity and quota allow"""
