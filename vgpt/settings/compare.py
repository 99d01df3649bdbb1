"""Settings of `vgpt compare`: what to lay side by side, on top of all settings of the runs themselves."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vgpt.schema import Section
from vgpt.settings.train import TrainConfig

SortKey = Literal["given", "loss", "params", "flops", "speed", "memory", "kv"]


class ComparisonSettings(Section):
    """Which runs are wanted and how they are shown."""

    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """runs per variant, with the seeds --seed, --seed + 1, ..."""
    run_missing: bool = False
    """first train the runs that are missing, one after another"""
    sort: SortKey = "given"
    """order of the rows after the baseline, which stays first"""
    force: bool = False
    """give verdicts across unequal conditions too; the tables say so"""
    kv_at: Annotated[int, Field(ge=1, le=1_000_000_000)] = 8192
    """tokens of context for the second column of cache sizes"""
    at_tokens: Annotated[int | None, Field(ge=1)] = None
    """compare at the last evaluation by so many training tokens; none = at the end of each run"""
    at_flops: Annotated[float | None, Field(gt=0)] = None
    """likewise by so many training FLOPs, of each variant's own count"""
    at_seconds: Annotated[float | None, Field(gt=0)] = None
    """likewise by so many seconds of training, evaluations and checkpoints not counted"""
    columns: tuple[str, ...] = ()
    """one table of these columns: loss,delta,p_holm,params,kv_context,... or names of metrics; none = all tables"""

    @model_validator(mode="after")
    def _one_point(self) -> Self:
        asked = {"--at-tokens": self.at_tokens, "--at-flops": self.at_flops, "--at-seconds": self.at_seconds}
        given = [flag for flag, amount in asked.items() if amount is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} name different points: choose one of them")
        return self


class CompareConfig(TrainConfig):
    """The settings of the compared runs, and of the comparison."""

    compare: ComparisonSettings = ComparisonSettings()
