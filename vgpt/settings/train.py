"""Settings of a training run: model, training, system and bookkeeping."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from vgpt.addresses import without_credentials
from vgpt.files.digests import json_digest
from vgpt.files.paths import DEMO, RUNS_DIR, plain_place
from vgpt.schema import Place, Section
from vgpt.settings.matching import UNMATCHED
from vgpt.settings.model import ModelSettings

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
PLACES = ("data", "init_from", "fork")
"""Settings of a run that name a place, whose spelling means nothing."""

_MEANT = {"min_lr": ("lr", 0.1), "mlp_hidden": ("n_embd", 4.0)}


def spells_default(name: str, values: Mapping[str, Any]) -> bool:
    """Tell whether a setting spells out its default: `min_lr` as lr / 10, `mlp_hidden` as 4 n_embd.

    Args:
        name: the setting.
        values: all settings by flat name, as numbers or as text.
    """
    other, factor = _MEANT.get(name, ("", 0.0))
    try:
        return math.isclose(float(values[name]), float(values[other]) * factor, rel_tol=1e-9)
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


PROFILED = (11, 13)
"""First and last step of a process, counted from 1, that --profile traces; compilers have done their work by then."""

MOST_MICRO_STEPS = 1_000_000
"""Of one step."""


class TrainingSettings(Section):
    """Data, budget and optimizer: conditions that must be equal for a comparison to be fair."""

    data: Place = DEMO
    """directory made by vgpt prepare, or demo: Python's own sources; without it, what was prepared last here"""
    init_from: Place | None = None
    """weights to start from: a run, a checkpoint, or hf:DIR with GPT-2's safetensors; none = random ones"""
    fork: Place | None = None
    """run or checkpoint to continue from under other settings, with its optimizer and its place in the data"""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    """sequences per micro-step and process"""
    grad_accum: Annotated[int, Field(ge=1, le=MOST_MICRO_STEPS)] = 1
    """micro-steps whose gradients make one step"""
    tokens_per_step: Annotated[int | None, Field(ge=1)] = None
    """tokens of one step, of all processes: sets --grad-accum by their number; none = as --grad-accum says"""
    max_steps: Annotated[int, Field(ge=1)] = 1000
    """optimizer steps"""
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    """training tokens; the run ends at this or at --max-steps, whichever is earlier"""
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """peak learning rate"""
    min_lr: Annotated[float | None, Field(ge=0, le=10)] = None
    """learning rate at the end of the cosine; none = lr / 10"""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """steps of linear warm-up"""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    """decay of matrices; biases and norms have none"""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW decay of the first moment"""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW decay of the second moment"""
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    """largest gradient norm; 0 = no clipping"""
    max_bad_steps: Annotated[int, Field(ge=0)] = 10
    """updates in a row that may be left out because the gradient is not finite; one more ends the run"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """of initialization, batch order and dropout"""
    eval_interval: Annotated[int, Field(ge=1)] = 250
    """steps between evaluations; the last step is always evaluated"""
    eval_windows: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """fixed validation windows of block_size tokens, the same for every run"""
    patience: Annotated[int | None, Field(ge=1)] = None
    """stop after this many evaluations without a better loss; none = never"""

    @property
    def final_lr(self) -> float:
        """Learning rate at the end of the schedule."""
        return self.lr / 10 if self.min_lr is None else self.min_lr

    @model_validator(mode="after")
    def _rates_in_order(self) -> "TrainingSettings":
        if self.final_lr > self.lr:
            raise ValueError(f"--min-lr {self.min_lr} must not be above --lr {self.lr}")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> "TrainingSettings":
        if self.init_from is not None and self.fork is not None:
            raise ValueError("--init-from takes weights alone and --fork a run's whole state: choose one of them")
        return self


class SystemSettings(Section):
    """Where and in which precision the run is computed."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of matrix products; auto = bfloat16 where native, else float16 on GPUs that have it, else float32"""
    compile: bool | None = None
    """torch.compile the model; by default large models on CUDA"""
    attention_backend: Literal["auto", "measure", "table", "sdpa", "blockwise"] = "auto"
    """causal attention on a CPU; auto = by a table on processors that it was measured on, else a short measurement"""
    tf32: bool = False
    """TensorFloat-32 for float32 matrix products on GPUs that have it: faster, 10 bits of mantissa"""
    recompute: bool = False
    """compute each block again in the backward pass in place of keeping its activations: less memory, a third slower"""
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads of all processes of this machine; none = as many as CPU affinity and quota allow"""


class WorkerSettings(Section):
    """How many processes share the work. Nothing here changes what is learned, but by the sequences of one step."""

    nproc: Annotated[int, Field(ge=1, le=1024)] = 1
    """processes on this machine, one per GPU; gpu = as many as there are GPUs"""
    parallel: Literal["ddp", "fsdp", "hsdp"] = "ddp"
    """ddp = every process holds the model; fsdp = parameters, gradients and optimizer state are shared out among all;
    hsdp = among those of each machine"""
    nnodes: Annotated[int, Field(ge=1, le=4096)] = 1
    """machines, each started with the same command but for --node-rank"""
    node_rank: Annotated[int, Field(ge=0)] = 0
    """number of this machine, from 0"""
    rdzv_endpoint: str | None = None
    """host:port on machine 0 where machines meet; needed with --nnodes"""
    retries: Annotated[int, Field(ge=0, le=1000)] = 0
    """fresh starts from the last good checkpoint after a worker died"""
    collective_timeout: Annotated[int, Field(ge=1, le=86_400)] = 300
    """seconds after which processes that wait for each other give up"""

    @property
    def world_size(self) -> int:
        """Processes on all machines."""
        return self.nproc * self.nnodes

    @model_validator(mode="after")
    def _machines_can_meet(self) -> "WorkerSettings":
        if self.node_rank >= self.nnodes:
            raise ValueError(f"--node-rank {self.node_rank} must be below --nnodes {self.nnodes}")
        if self.nnodes > 1 and not self.rdzv_endpoint:
            raise ValueError("--nnodes needs --rdzv-endpoint HOST:PORT, an address of machine 0, the same on all")
        return self


class RunSettings(Section):
    """Names, places and records; nothing here changes what is learned."""

    run_name: str | None = None
    """name of the run; the same name again resumes; none = made from the settings"""
    runs_dir: Path = RUNS_DIR
    """directory of all runs"""
    log_interval: Annotated[int, Field(ge=1)] = 10
    """steps between log lines"""
    save_interval: Annotated[int, Field(ge=1)] = 250
    """steps between checkpoints; the last step is always saved"""
    keep_last: Annotated[int, Field(ge=1)] = 2
    """newest checkpoints to keep beside the best"""
    profile: bool = False
    """trace steps 11 to 13 of the process to the run's trace.json.gz (for Perfetto); recorded speeds leave them out"""
    tracker: Literal["mlflow", "journal"] = "mlflow"
    """mlflow = local journal mirrored to MLflow; journal = local files alone"""
    experiment: Annotated[str, Field(min_length=1, max_length=200)] = "vgpt"
    """MLflow experiment"""
    group: Annotated[str | None, Field(pattern=RUN_NAME.pattern, json_schema_extra={"hidden": True})] = None
    """study that the run belongs to: its tag vgpt.group"""
    tracking_uri: Annotated[str | None, Field(repr=False)] = None
    """MLflow store; none = MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this directory"""

    @field_serializer("tracking_uri")
    def _no_credentials(self, uri: str | None) -> str | None:
        """What is written down names the store; only this process, and those it starts, may know how to enter it."""
        return None if uri is None else without_credentials(uri)

    @field_validator("run_name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not RUN_NAME.fullmatch(name):
            raise ValueError("must be letters, digits, '.', '_' or '-', start with a letter or digit, at most 80 long")
        return name


class TrainConfig(Section):
    """Everything that makes one run."""

    model: ModelSettings = ModelSettings()
    train: TrainingSettings = TrainingSettings()
    system: SystemSettings = SystemSettings()
    workers: WorkerSettings = WorkerSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _micro_steps_make_the_step(self) -> "TrainConfig":
        train = self.train
        micro_steps = self.micro_steps()
        if "grad_accum" in train.model_fields_set and train.grad_accum != micro_steps:
            raise ValueError(
                f"--grad-accum {train.grad_accum} makes {self.tokens_per_step:,} tokens per step, not the "
                f"{train.tokens_per_step:,} of --tokens-per-step: leave one of them out (--tokens-per-step none)"
            )
        if train.grad_accum != micro_steps:
            # What was derived is recorded like what was given; nobody has seen the settings yet.
            object.__setattr__(self, "train", train.model_copy(update={"grad_accum": micro_steps}))
        return self

    @model_validator(mode="after")
    def _steps_to_profile(self) -> "TrainConfig":
        if self.run.profile and self.steps < PROFILED[1]:
            raise ValueError(
                f"--profile traces steps {PROFILED[0]} to {PROFILED[1]}, and the run has {self.steps}: raise "
                "--max-steps (and --max-tokens, if given), or leave --profile out"
            )
        return self

    def micro_steps(self) -> int:
        """Return the micro-steps of one step: as given, or as tokens per step, micro-batch and processes make them.

        Raises:
            ValueError: they do not divide, or are too many.
        """
        train, tokens = self.train, self.train.tokens_per_step
        if tokens is None:
            return train.grad_accum
        size, count = self.model.block_size, self.workers.world_size
        micro_steps, rest = divmod(tokens, part := train.batch_size * size * count)
        if rest:
            raise ValueError(
                f"--tokens-per-step {tokens} is no multiple of the {part} tokens of a micro-step: --batch-size "
                f"{train.batch_size} times --block-size {size}" + f" times {count} processes" * (count > 1)
            )
        if micro_steps > MOST_MICRO_STEPS:
            raise ValueError(
                f"--tokens-per-step {tokens} takes {micro_steps:,} micro-steps of {part} tokens, more than "
                f"{MOST_MICRO_STEPS:,}: lower it, or raise --batch-size"
            )
        return micro_steps

    @property
    def sequences_per_step(self) -> int:
        """Sequences of one optimizer step, of all processes."""
        return self.train.batch_size * self.train.grad_accum * self.workers.world_size

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, of all processes."""
        return self.sequences_per_step * self.model.block_size

    @property
    def steps(self) -> int:
        """Optimizer steps that the budget allows."""
        if self.train.max_tokens is None:
            return self.train.max_steps
        return max(1, min(self.train.max_steps, -(-self.train.max_tokens // self.tokens_per_step)))

    @property
    def name(self) -> str:
        """The run's name: the given one, or the variant, the seed and a hash of all settings that matter."""
        if self.run.run_name:
            return self.run.run_name
        return f"{self.model.attn.kind}-s{self.train.seed}-{self.settings_hash[:8]}"

    @property
    def settings_hash(self) -> str:
        """Hash of `identity`: two runs with the same one would learn the same."""
        return json_digest(self.identity())

    @property
    def directory(self) -> Path:
        """Where the run lives."""
        return self.run.runs_dir / self.name

    @property
    def spelled_hash(self) -> str:
        """The same hash of the settings as they were spelled, which runs of earlier versions recorded."""
        return json_digest(self._learned(matched=self._matched, plain=False))

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide what is learned: a run resumes only under the same ones.

        Matching that leaves the MLP as it was has no part in it: the run is the one without matching. Nor has how a
        step's sequences are divided into processes and micro-steps, by how many threads they are computed, or whether
        a default was spelled out.
        """
        return self._learned(matched=self._matched)

    def conditions(self) -> dict[str, Any]:
        """Return the settings that a fair comparison holds equal: `identity` without the variant and the seed.

        Widths of MLPs that are matched to one reference differ as that rule says: the rule, and the reference's width,
        are the condition. Matched caches differ by the variants' own settings alone.
        """
        table = self._learned(matched=self.model.match in ("params", "flops"))
        del table["model"]["attn"], table["train"]["seed"]
        return table

    @property
    def _matched(self) -> bool:
        return self.model.hidden != self.model.raw_hidden

    def _learned(self, *, matched: bool, plain: bool = True) -> dict[str, Any]:
        table = self.model_dump(mode="json", include={"model", "train", "system"})
        for part in ("batch_size", "grad_accum", "tokens_per_step"):
            del table["train"][part]
        table["train"]["sequences_per_step"] = self.sequences_per_step
        # What both came to is recorded. An unset `compile` means what it did when there was one default.
        del table["system"]["threads"], table["system"]["attention_backend"]
        table["system"]["compile"] = bool(table["system"]["compile"])
        if not matched:
            table["model"] |= UNMATCHED
        if plain:
            self._leave_out_defaults(table)
        return table

    def _leave_out_defaults(self, table: dict[str, Any]) -> None:
        """Turn what was spelled out, and means what it would mean left out, into what is left out."""
        model, train = table["model"], table["train"]
        for place in PLACES:
            train[place] = train[place] and plain_place(train[place])
        for name, part in (("min_lr", train), ("mlp_hidden", model)):
            if spells_default(name, {**model, **train}):
                part[name] = None
        if (
            self.train.max_tokens is not None
            and self.train.max_tokens > (self.train.max_steps - 1) * self.tokens_per_step
        ):
            train["max_tokens"] = None
        meant = self.model.attn.defaults_in(self.model.shape)
        model["attn"] |= {name: None for name, value in meant.items() if model["attn"].get(name) == value}

    def flat(self) -> dict[str, Any]:
        """Return every setting under its flat name, as on the command line; the variant's own ones beside `attn`."""
        flat: dict[str, Any] = {}
        for section in self.model_dump(mode="json").values():
            flat.update(section)
        attn = flat.pop("attn")
        return {"attn": attn.pop("kind"), **attn, **flat}
