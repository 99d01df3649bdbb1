"""Settings of `vgpt reproduce`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vgpt.settings.commands import RunsConfig


class ReproduceConfig(RunsConfig):
    """Which row of a report is trained again, and where."""

    row: str | None = None
    """row to train again: its label, or the name of its variant; none = the only one"""
    part: str | None = None
    """which comparison of a study, by its title: 'match = params'"""
    seeds: Annotated[int | None, Field(ge=1, le=1000)] = None
    """train so many new seeds in place of the recorded ones"""
    out: Path | None = None
    """directory for the new runs, which must not be there; none = a fresh one below reproduced/"""
    plan: bool = False
    """show what would be trained and how long it takes, and stop"""
    anyway: bool = False
    """go on where data, source or settings are not those of the report"""
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads; none = as many as the runs recorded"""
