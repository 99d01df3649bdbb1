"""What a run starts from: weights of another run or GPT-2's published ones, or all the state of a run that it forks."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vgpt.data.dataset import Dataset
from vgpt.errors import CheckpointError, UsageError
from vgpt.files.digests import file_digest
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.interchange import load_gpt2_safetensors
from vgpt.model.weights import check_numbers, weight_files
from vgpt.settings.fields import format_value
from vgpt.settings.model import ModelSettings
from vgpt.settings.train import TrainConfig
from vgpt.text.choose import tokenizer_beside
from vgpt.text.gpt2 import PUBLISHED_FINGERPRINT
from vgpt.text.tokenizer import Tokenizer
from vgpt.training.checkpoints.checkpoint import find_checkpoint, newest, point, read_tensors, save_checkpoint

HF = "hf:"
# What a model may change without another meaning of its weights.
_FREE = ("dropout", "flash", "block_size")
GPT2_IDS = 50_257
# Trainers round GPT-2's ids up to a multiple of 64 or 128.
_LARGEST_PADDING = 128


@dataclass(frozen=True)
class Source:
    """Weights on disk, and what they are of.

    Attributes:
        name: what they are called in messages.
        digest: SHA-256 of the file of weights; of several files, of their digests.
        model: the architecture.
        tokenizer: fingerprint of the tokenizer that they were trained with; empty where it is not known.
        tokenizer_name: its name.
        converted: where they come from, if another attention's weights were converted to them; see `TrainingState`.
    """

    name: str
    digest: str
    model: GPT2Config
    tokenizer: str
    tokenizer_name: str
    _read: Callable[[], dict[str, Tensor]]
    converted: dict[str, Any] = field(default_factory=dict[str, Any])

    def fill(self, model: GPT2Model, tokenizer: Tokenizer) -> list[str]:
        """Copy the weights into `model`; of learned positions the first `block_size`, of padded rows those with an id.

        Returns:
            What the user should hear.

        Raises:
            UsageError: data of another tokenizer, or another architecture; the message shows what differs.
            CheckpointError: the weights do not fit the architecture they claim, or are no finite numbers.
        """
        self._check(model.config, tokenizer)
        weights = self._read()
        check_numbers(weights, self.name)
        rows = model.config.vocab_size
        for name in ("wte.weight", "lm_head.weight"):
            if name in weights:
                weights[name] = weights[name][:rows]
        if model.wpe is not None:
            weights["wpe.weight"] = weights["wpe.weight"][: model.config.block_size]
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"the weights of {self.name} do not fit the model: {error}") from error
        if self.model.vocab_size > rows:
            return [f"{self.name} has {self.model.vocab_size:,} rows for {rows:,} ids: the first {rows:,} are used"]
        return []

    def _check(self, model: GPT2Config, tokenizer: Tokenizer) -> None:
        if not self.tokenizer:
            raise UsageError(
                f"which tokenizer {self.name} was trained with is not known: no tokenizer.json is there, and its "
                f"{self.model.vocab_size:,} ids are not GPT-2's",
                "Put the tokenizer.json that it was trained with beside its weights.",
            )
        if tokenizer.fingerprint != self.tokenizer:
            raise UsageError(
                f"the data is tokenized by {tokenizer.name} ({tokenizer.fingerprint[:12]}), but {self.name} was "
                f"trained with {self.tokenizer_name} ({self.tokenizer[:12]})",
                "Prepare the data with its tokenizer: vgpt prepare TEXT --tokenizer "
                + ("gpt2" if self.tokenizer == PUBLISHED_FINGERPRINT else "CHECKPOINT-DIRECTORY"),
            )
        if model.vocab_size > self.model.vocab_size:
            raise CheckpointError(
                f"{self.name} has {self.model.vocab_size:,} rows for the {model.vocab_size:,} ids of its tokenizer",
                "The tokenizer beside the weights is not the one that they were trained with.",
            )
        if faults := differences(self.model, model, free=_FREE):
            hint = "Repeat the settings of the model that the weights are of."
            if not differences(self.model.model_copy(update={"attn": model.attn}), model, free=_FREE):
                hint = "Convert them first, to a run of its own that is trained on: vgpt convert RUN --attn VARIANT."
            raise UsageError(f"{self.name} has another architecture:\n" + "\n".join(faults), hint)
        if model.pos == "learned" and model.block_size > self.model.block_size:
            raise UsageError(
                f"--block-size {model.block_size} is longer than the {self.model.block_size} learned positions of "
                f"{self.name}",
                f"Use --block-size {self.model.block_size} or less.",
            )


def open_source(place: str, *, runs_dir: Path) -> Source:
    """Find the weights that `--init-from` names.

    Args:
        place: a run, a checkpoint, or `hf:` and a directory with config.json and safetensors.
        runs_dir: where names of runs are looked up; of a whole run its best checkpoint counts.

    Raises:
        CheckpointError: nothing there, or it is damaged.
        TokenizerError: the tokenizer beside the weights cannot be read.
    """
    if place.startswith(HF):
        return _published(Path(place.removeprefix(HF)).expanduser())
    found = find_checkpoint(place, runs_dir=runs_dir, which="best")
    tokenizer, file = found.tokenizer(), found.directory / "model.safetensors"
    name = f"{place} at step {found.state.step}"
    return Source(
        name,
        file_digest(file),
        found.model,
        tokenizer.fingerprint,
        tokenizer.name,
        lambda: read_tensors(file),
        found.state.converted,
    )


def differences(there: ModelSettings, here: ModelSettings, *, free: tuple[str, ...] = ()) -> list[str]:
    """Return one line for every setting of the model that differs, but for the `free` ones."""
    old, new = _flat(there), _flat(here)
    return [
        f"--{name.replace('_', '-')}: {format_value(old.get(name))} there, {format_value(new.get(name))} asked"
        for name in dict.fromkeys([*old, *new])
        if name not in free and old.get(name) != new.get(name)
    ]


def _published(directory: Path) -> Source:
    model = load_gpt2_safetensors(directory)
    published = 0 <= model.config.vocab_size - GPT2_IDS < _LARGEST_PADDING
    fingerprint, name = (PUBLISHED_FINGERPRINT, "gpt2") if published else ("", "")
    if (tokenizer := tokenizer_beside(directory)) is not None:
        fingerprint, name = tokenizer.fingerprint, tokenizer.name
    files = weight_files(directory)
    digest = file_digest(files[0])
    if len(files) > 1:
        digest = hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()
    return Source(f"{HF}{directory}", digest, model.config, fingerprint, name, lambda: dict(model.state_dict()))


def _flat(model: ModelSettings) -> dict[str, Any]:
    table = model.model_dump(mode="json", exclude={"attn", "vocab_size"})
    attn = model.attn.model_dump(mode="json")
    # The width that nobody gave and the same width given are one architecture.
    return {"attn": attn.pop("kind"), **attn, **table, "mlp_hidden": model.hidden}


def fork_run(config: TrainConfig, data: Dataset, notify: Callable[[str], None]) -> None:
    """Give a run that has no checkpoint yet a copy of the one that `--fork` names; of a whole run, its newest.

    Weights, optimizer, position in the data and counters go on; which evaluation was the best, and patience, begin
    anew, because other settings may measure otherwise.

    Raises:
        UsageError: other model settings or other data than the copied run's, or no steps are left.
        CheckpointError: there is no such run, or its checkpoint is damaged.
    """
    directory = config.directory / "ckpt"
    if config.train.fork is None or newest(directory)[0] is not None:
        return
    old = find_checkpoint(config.train.fork, runs_dir=config.run.runs_dir, which="last")
    name, step = old.settings.name, old.state.step
    if faults := differences(old.settings.model, config.model):
        raise UsageError(
            f"a fork goes on with the model of {name}, and these settings differ:\n" + "\n".join(faults),
            "Repeat them; data, schedule, optimizer and system may change. --init-from takes weights alone.",
        )
    if old.state.data_digest != data.manifest.digest:
        raise UsageError(
            f"{name} was trained on other data than {config.train.data} holds",
            "A fork keeps its place in the data. To train on other data: --init-from.",
        )
    if step >= config.steps:
        raise UsageError(
            f"{name} stands at step {step}, and {config.steps} steps are asked", "Give a larger --max-steps."
        )
    weights = read_tensors(old.directory / "model.safetensors")
    check_numbers(weights, f"{name} at step {step}")
    state = replace(
        old.state,
        best_loss=None,
        best_step=0,
        bad_evaluations=0,
        finished=False,
        forked_from=f"{name}/{old.directory.name}",
        init_digest=file_digest(old.directory / "model.safetensors"),
    )
    target = save_checkpoint(
        directory,
        model=old.model,
        weights=weights,
        optimizer=read_tensors(old.directory / "optimizer.safetensors"),
        state=state,
        settings=config,
        tokenizer=data.tokenizer,
    )
    point(directory, "last", target)
    notify(f"forked from {name} at step {step}")
    if old.settings.sequences_per_step != config.sequences_per_step or old.settings.train.seed != config.train.seed:
        notify(
            "other sequences per step, or another seed, order the data anew: some of it may be seen twice in an epoch"
        )
