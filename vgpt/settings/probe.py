"""Settings of `vgpt probe`: the tasks, the small models that learn them, and the effort that each variant gets."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vgpt.attention.config import ModelAttention
from vgpt.attention.grouped.config import MHAConfig
from vgpt.schema import Section
from vgpt.settings.model import AttentionSetting, Position, with_switches
from vgpt.settings.presets import Preset, load_preset, preset_directory

DEFAULT_TASKS = ("mqar", "stacked-mqar", "induction", "parity", "s3")
_SIZES = Path("probes", "sizes.toml")

Rate = Annotated[float, Field(gt=0, le=10)]


class _SmallLayers(Section):
    """The layers: what stands before the switches. Sizes that are none are those of the task's recipe."""

    attn: AttentionSetting = MHAConfig()
    """attention variant, also with its settings, gqa:n_kv_head=2, or a pattern of layers, local+mha"""
    n_layer: Annotated[int | None, Field(ge=1, le=64)] = None
    """layers, a short convolution among them; none = as the task has it, mostly 2"""
    n_head: Annotated[int | None, Field(ge=1, le=256)] = None
    """query heads; divides --n-embd; none = as the task has it"""
    n_embd: Annotated[int | None, Field(ge=2, le=8192)] = None
    """width of the residual stream; none = as the task has it"""
    pos: Position = "none"
    """position encoding; learned positions end at the training length, and longer tests are left out"""


class SmallModelSettings(with_switches(_SmallLayers)):
    """The small models. Everything but `attn` is the same for all variants."""

    short_conv: bool | None = None
    """a gated convolution of width 3 as the first layer, so that recall is measured and not who finds the token before;
    none = as the task has it"""
    mlp: bool = False
    """an MLP of four times the width behind every layer"""
    init: Literal["uniform", "normal"] = "uniform"
    """first weights of linear layers: uniform within 1 / sqrt(fan-in) as torch has them, or N(0, 0.02) as GPT-2 has,
    from which models of these widths learn later and less"""


class EffortSettings(Section):
    """What is tried, the same for every variant."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_TASKS
    """tasks, also with settings, mqar:n_pairs=8,length=64"""
    seeds: Annotated[int, Field(ge=1, le=100)] = 2
    """runs of each variant at each learning rate"""
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    """the first of them"""
    lrs: tuple[Rate, ...] = ()
    """peak learning rates; none = the task's own, three"""
    steps: Annotated[int | None, Field(ge=1, le=10_000_000)] = None
    """optimizer steps at most; none = as the task has it"""
    batch_size: Annotated[int | None, Field(ge=1, le=65_536)] = None
    """instances of one step; none = as the task has it"""
    stop_at: Annotated[float | None, Field(gt=0, le=1)] = 0.99
    """accuracy on validation instances at which a training ends early; none = never"""
    validation_instances: Annotated[int, Field(ge=16, le=1_000_000)] = 512
    """instances that choose the learning rate"""
    test_instances: Annotated[int, Field(ge=16, le=1_000_000)] = 1024
    """instances of each point of the test"""
    jobs: Annotated[int | None, Field(ge=1, le=1024)] = None
    """trainings at a time, each on one thread; none = one per processor"""

    @model_validator(mode="after")
    def _rates_differ(self) -> Self:
        if len(set(self.lrs)) < len(self.lrs):
            raise ValueError("--lrs names a learning rate twice")
        return self


class ProbeRecords(Section):
    """Where results are kept."""

    probe_dir: Path = Path("probes")
    """directory of all trainings; one that is there is not made again"""
    tracker: Literal["mlflow", "journal"] = "mlflow"
    """mlflow = local journal, and MLflow at the end; journal = local files alone"""
    experiment: Annotated[str, Field(min_length=1, max_length=200)] = "vgpt"
    """MLflow experiment"""
    tracking_uri: Annotated[str | None, Field(repr=False)] = None
    """MLflow store; none = MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this directory"""


class ProbeConfig(Section):
    """Everything about a probe."""

    model: SmallModelSettings = SmallModelSettings()
    probe: EffortSettings = EffortSettings()
    run: ProbeRecords = ProbeRecords()

    @property
    def attn(self) -> ModelAttention:
        """The variant."""
        return self.model.attn


def small_sizes() -> Preset:
    """Return the settings of variants that fit models of a probe's size, where nobody sets them.

    A window of 256 tokens or a latent of 192 numbers would be no limit at all there.
    """
    tables = load_preset(str(preset_directory() / _SIZES)).tables
    return Preset("of probes", tables)
