"""Settings of `vgpt bench`: the models, how they compute, and how long is measured."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from vgpt.schema import Section
from vgpt.settings.model import ModelSettings
from vgpt.settings.train import SystemSettings, TrainingSettings


def _of_training(name: str) -> str:
    return TrainingSettings.model_fields[name].description or ""


class StepSettings(Section):
    """What a training step depends on; the rest of a preset's table of training says nothing of speed."""

    model_config = ConfigDict(extra="ignore")

    data: Annotated[str, Field(description=_of_training("data"))] = "demo"
    batch_size: Annotated[int, Field(ge=1, le=1_000_000, description=_of_training("batch_size"))] = 16
    grad_accum: Annotated[int, Field(ge=1, le=1_000_000, description=_of_training("grad_accum"))] = 1


class RecordSettings(Section):
    """Where results are logged."""

    model_config = ConfigDict(extra="ignore")

    experiment: Annotated[str, Field(min_length=1, max_length=200)] = "vgpt"
    """MLflow experiment"""
    tracking_uri: Annotated[str | None, Field(repr=False)] = None
    """MLflow store; none = MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this directory"""


class MeasuringSettings(Section):
    """What is measured, and how thoroughly."""

    phase: Literal["all", "train", "prefill", "decode"] = "all"
    """training steps, reading prompts, decoding through the cache, or all of them"""
    batch: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = (1,)
    """sequences in prefill and decoding; several make a case each"""
    context: tuple[Annotated[int, Field(ge=2, le=100_000_000)], ...] = ()
    """tokens of a sequence in prefill and decoding; none = block_size"""
    vocab_size: Annotated[int | None, Field(ge=1, le=10_000_000)] = None
    """tokens of the vocabulary; none = that of --data"""
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 10
    """measurements of each variant in each case; an interval needs 6"""
    seconds: Annotated[float, Field(gt=0, le=3600)] = 0.25
    """least length of a measurement"""
    patience: Annotated[float | None, Field(ge=0)] = None
    """seconds for rounds made again because others disturbed them; none = as long as measuring should take"""

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases to measure."""
        return ("train", "prefill", "decode") if self.phase == "all" else (self.phase,)


class BenchConfig(Section):
    """Everything about a bench."""

    model: ModelSettings = ModelSettings()
    train: StepSettings = StepSettings()
    system: SystemSettings = SystemSettings()
    run: RecordSettings = RecordSettings()
    bench: MeasuringSettings = MeasuringSettings()

    @property
    def contexts(self) -> tuple[int, ...]:
        """Tokens of a sequence in prefill and decoding."""
        return self.bench.context or (self.model.block_size,)

    @model_validator(mode="after")
    def _contexts_fit(self) -> Self:
        longest = max(self.contexts)
        if self.model.pos == "learned" and longest > self.model.block_size and self.bench.phase != "train":
            raise ValueError(
                f"--context {longest} is longer than the {self.model.block_size} learned positions of --block-size"
            )
        return self
