"""Checkpoints: a directory per saved step, safetensors and JSON alone, verified before use.

runs/<name>/ckpt/step-00001000/   model.safetensors  optimizer.safetensors  state.json
                                  settings.json  model.json  tokenizer.json ...  manifest.json
                                  plugins.json where the attention is a plug-in's
runs/<name>/ckpt/last, best       plain files that hold the name of a step directory
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vgpt.attention.kernels.backends import Backend
from vgpt.attention.plugin_record import absent_variants, plugin_record
from vgpt.errors import CheckpointError
from vgpt.files.paths import RUNS_DIR
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.settings.train import TrainConfig
from vgpt.text.tokenizer import Tokenizer
from vgpt.training.checkpoints.files import remove_directory, verify, write_directory, write_json

PLUGINS = "plugins.json"
Count = Annotated[int, Field(ge=0, lt=2**63)]
STEP = re.compile(r"step-(\d{8,})")


@dataclass
class TrainingState:
    """What training remembers beside tensors; the schedule, the batches and dropout are functions of `step`.

    `loss_sum`, `loss_count`, `interval_steps` and `interval_seconds` are the unfinished log interval; `batch_hash`
    chains the hashes of all batches so far; `train_bytes` is the memory of steps, 0 where it is not known;
    `skipped_steps` counts updates left out because the gradient was not finite, `bad_steps` those in a row up to now.
    `init_digest` is the SHA-256 of the weights that the run began with, empty for random ones; where they had been
    converted for it, of those before. `converted` tells of these, as `vgpt.interchange.convert.Origin` has it, and
    stays with all that starts from them; `forked_from` names the checkpoint of another run that it went on from.
    `facts` holds, by tag, what every process that trained it found of code and machine; `start` the digests and figures
    of random first weights, as `vgpt.training.records.start` takes them. `attention_backend` computes the run's
    attention, as vgpt.attention.kernels.backends has it; before it was recorded, the table chose.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    step: Count = 0
    tokens: Count = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: Count = 0
    bad_evaluations: Count = 0
    loss_sum: float = 0.0
    loss_count: Count = 0
    batch_hash: str = ""
    data_digest: str = ""
    finished: bool = False
    scaler: dict[str, Any] = field(default_factory=dict[str, Any])
    bad_steps: Count = 0
    skipped_steps: Count = 0
    init_digest: str = ""
    forked_from: str = ""
    converted: dict[str, Any] = field(default_factory=dict[str, Any])
    facts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    start: dict[str, str] = field(default_factory=dict[str, str])
    interval_steps: Count = 0
    interval_seconds: float = 0.0
    train_bytes: Count = 0
    attention_backend: Backend = "table"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk; `plugins` says which brought its variants, as `plugin_record` does."""

    directory: Path
    settings: TrainConfig
    model: GPT2Config
    state: TrainingState
    plugins: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def tokenizer(self) -> Tokenizer:
        """Read the tokenizer that the model was trained with."""
        return Tokenizer.load(self.directory)

    def load_model(self, device: torch.device | str = "cpu", *, flash: bool | None = None) -> GPT2Model:
        """Build the model with its trained weights, in float32.

        Args:
            device: where it goes.
            flash: overrides the stored choice of fused kernels; the weights do not depend on it.

        Raises:
            CheckpointError: weights and architecture do not fit.
        """
        config = self.model if flash is None else self.model.model_copy(update={"flash": flash})
        model = GPT2Model(config)
        load_weights(model, self.directory / "model.safetensors")
        return model.to(device)


def save_checkpoint(
    directory: Path,
    *,
    model: GPT2Config,
    weights: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    state: TrainingState,
    settings: TrainConfig,
    tokenizer: Tokenizer,
) -> Path:
    """Write `directory/step-NNNNNNNN` whole and flushed, and return it.

    Args:
        directory: `runs/<name>/ckpt`.
        model: the architecture.
        weights: whole tensors by parameter name, contiguous.
        optimizer: whole tensors as `<parameter>/<slot>`.
        state: where training stands.
        settings: of the run.
        tokenizer: that the model was trained with.

    Raises:
        OSError, SafetensorError: the disk is full or not writable; nothing that was there before is lost.
    """

    def fill(target: Path) -> None:
        save_file(weights, target / "model.safetensors")
        save_file(optimizer, target / "optimizer.safetensors")
        write_json(target / "state.json", asdict(state))
        write_json(target / "settings.json", settings.model_dump(mode="json"))
        write_json(target / "model.json", model.model_dump(mode="json"))
        if foreign := plugin_record(model.attn, model.n_layer):
            write_json(target / PLUGINS, foreign)
        tokenizer.save(target)

    target = directory / f"step-{state.step:08d}"
    write_directory(target, fill)
    return target


def point(directory: Path, name: str, target: Path) -> None:
    """Let `directory/name` (best or last) name a step directory."""
    write_json(directory / name, target.name)


def mend_pointers(checkpoint: Checkpoint) -> None:
    """Let `last` and `best` name what a checkpoint knows of: its writer may have died before it could say so."""
    directory, state = checkpoint.directory.parent, checkpoint.state
    for name, step in (("last", state.step), ("best", state.best_step)):
        target = directory / f"step-{step:08d}"
        if target.is_dir() and _pointed(directory, name) != target.name:
            point(directory, name, target)


def rotate(directory: Path, keep_last: int, latest: Path) -> None:
    """Remove all but `keep_last` checkpoints up to `latest` and the best; only directories that vgpt wrote are touched.

    Those of later steps stay: they are damaged, or the run would not have gone back behind them, and perhaps looked at.
    """
    done = [path for path in steps(directory) if step_of(path) <= step_of(latest)]
    kept = {path.name for path in done[-keep_last:]} | {_pointed(directory, "best") or ""}
    for path in done:
        if path.name not in kept and not path.is_symlink():
            remove_directory(path)


def steps(directory: Path) -> list[Path]:
    """Return the step directories, oldest first."""
    found = [path for path in directory.glob("step-*") if STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Return the step in the name of a step directory."""
    return int(path.name.removeprefix("step-"))


def newest(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and what was wrong with newer ones."""
    problems: list[str] = []
    for path in reversed(steps(directory)):
        try:
            return open_checkpoint(path), problems
        except CheckpointError as error:
            problems.append(error.message)
    return None, problems


def open_checkpoint(directory: Path) -> Checkpoint:
    """Verify and read a step directory.

    Raises:
        CheckpointError: damaged, incomplete, of a newer vgpt, or of a variant whose plug-in is not loaded.
    """
    verify(directory)
    for name in ("model.safetensors", "optimizer.safetensors"):
        if not (directory / name).exists():
            raise CheckpointError(f"{directory}: {name} is missing")
    recorded = _plugins(directory)
    try:
        settings = TrainConfig.model_validate_json((directory / "settings.json").read_bytes())
        model = GPT2Config.model_validate_json((directory / "model.json").read_bytes())
        state = TypeAdapter(TrainingState).validate_json((directory / "state.json").read_bytes())
    except (OSError, ValidationError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{directory}: its settings cannot be read: {error}", "Use the vgpt version that wrote it."
        ) from error
    return Checkpoint(directory, settings, model, state, recorded)


def find_checkpoint(place: str | Path, *, runs_dir: Path = RUNS_DIR, which: str = "best") -> Checkpoint:
    """Find a checkpoint by run name, run directory, checkpoint directory, step directory, or `.../best` and `.../last`.

    Args:
        place: what the user named.
        runs_dir: where run names are looked up.
        which: "best" or "last", where a whole run is named; the other stands in where it is missing.

    Raises:
        CheckpointError: nothing there, or what is there is damaged.
    """
    path = Path(place)
    if path.name in ("best", "last") and path.is_file():
        path, which = path.parent, path.name
    elif not path.exists() and (runs_dir / str(place)).is_dir():
        path = runs_dir / str(place)
    if STEP.fullmatch(path.name) and path.is_dir():
        return open_checkpoint(path)
    directory = path / "ckpt" if (path / "ckpt").is_dir() else path
    if not directory.is_dir() or not steps(directory):
        known = sorted(entry.parent.name for entry in runs_dir.glob("*/ckpt"))
        raise CheckpointError(
            f"no checkpoint at {place}: neither a run in {runs_dir}/ nor a directory with checkpoints",
            f"Runs here: {', '.join(known)}." if known else "Train a model first: vgpt train.",
        )
    name = _pointed(directory, which) or _pointed(directory, "last")
    return open_checkpoint(directory / name) if name else open_checkpoint(steps(directory)[-1])


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model from a safetensors file.

    Raises:
        CheckpointError: unreadable, or other names or shapes than the model's.
    """
    tensors = read_tensors(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: unreadable.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _plugins(directory: Path) -> list[dict[str, str]]:
    """Read what a step directory says about the plug-ins of its variants; they must be loaded."""
    path = directory / PLUGINS
    try:
        recorded = json.loads(path.read_bytes()) if path.exists() else []
        absent = absent_variants(recorded)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if absent:
        kinds = ", ".join(repr(kind) for kind, _ in absent)
        remedies = "; ".join(dict.fromkeys(remedy for _, remedy in absent))
        raise CheckpointError(
            f"{directory}: its attention {kinds} comes from a plug-in that is not loaded", f"Load it: {remedies}"
        )
    return recorded


def _pointed(directory: Path, name: str) -> str | None:
    try:
        value = json.loads((directory / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, str) and STEP.fullmatch(value) and (directory / value).is_dir() else None
