"""A trained run with another attention: its weights mapped, its loss before and after, a run to train on.

Converting and then training for a small share of the steps is uptraining (Ainslie et al. 2023, arXiv 2305.13245). It
tells cheaply whether an attention can work at all. It is no replacement for training from scratch: the weights were
learned with another attention, and favor what is near to it.
"""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vgpt.attention.grammar import full_label, short_label
from vgpt.attention.kernels.backends import use_backend
from vgpt.attention.plugin_record import plugin_flags
from vgpt.data.dataset import Dataset
from vgpt.data.progress import Progress, stage
from vgpt.errors import DataError, SettingsError, UsageError
from vgpt.evaluation.loss import Evaluation, Evaluator
from vgpt.files.digests import file_digest
from vgpt.interchange.weight_maps import check_map, convert_layer
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.settings.fields import Leaf, command_words, format_value, leaves
from vgpt.settings.interchange import ConvertConfig
from vgpt.settings.train import SystemSettings, TrainConfig
from vgpt.tracking.record import SETTINGS_FILE, read_record
from vgpt.training.checkpoints.checkpoint import (
    Checkpoint,
    TrainingState,
    find_checkpoint,
    load_weights,
    point,
    save_checkpoint,
)
from vgpt.training.checkpoints.files import write_json
from vgpt.training.hardware.devices import Compute, resolve
from vgpt.training.run import load_data

UPTRAINED = 0.05
"""Share of the source's steps that is proposed for training on: what Ainslie et al. find to be enough, section 3.2."""
_SEED = 1337
"""Of what a new attention has and the old one had not: a conversion is a function of weights alone."""
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Origin:
    """Where the weights of a converted run come from; recorded with it, and with all that start from it.

    Attributes:
        run: name of the source.
        id: its identity on record; empty where it has none.
        step: of the checkpoint.
        attn: its attention, as `--attn` takes it.
        weights: SHA-256 of the file of its weights.
        loss_before: validation loss of the source, nats per token.
        loss_after: of the converted weights, on the same windows.
        windows: number, length and hash of these.
        notes: what the map lost, changed or added.
        before: what the source was converted from itself, likewise; empty where it was not.
    """

    run: str
    id: str
    step: int
    attn: str
    weights: str
    loss_before: float
    loss_after: float
    windows: str
    notes: tuple[str, ...]
    before: dict[str, Any]


@dataclass(frozen=True)
class Conversion:
    """A converted run.

    Attributes:
        config: its settings.
        origin: where its weights come from.
        before: evaluation of the source.
        after: evaluation of the converted weights.
        command: trains it on, as it is typed.
    """

    config: TrainConfig
    origin: Origin
    before: Evaluation
    after: Evaluation
    command: str


def convert_run(run: str, settings: ConvertConfig, progress: Progress) -> Conversion:
    """Make a run whose weights are those of another with its attention replaced.

    Args:
        run: name of a run, its directory, or a checkpoint's; of a whole run its best checkpoint.
        settings: the new attention, the name of the new run, and how losses are computed.
        progress: hears how far it is.

    Raises:
        UsageError: no map of weights is known, the name is taken, or the settings do not fit the model.
        CheckpointError: no such run, or a damaged one.
        DataError: its data is gone, or was made with another tokenizer.
    """
    source = find_checkpoint(run, runs_dir=settings.runs_dir)
    old = source.model
    if faults := settings.attn.check(old.shape):
        raise SettingsError(faults)
    new = GPT2Config.model_validate({**dict(old), "attn": settings.attn})
    check_map(old, new)
    config = _settings(source, new, settings)
    if config.directory.exists():
        raise _taken(config)
    data = _data(run, source, config, progress)
    compute = _compute(source, settings)
    models = GPT2Model(old), GPT2Model(new)
    load_weights(models[0], source.directory / "model.safetensors")
    notes = fill_converted(*models, progress)
    windows = Evaluator.of(data, old.block_size, config.train.eval_windows)
    before, after = (_evaluated(model, windows, source, compute, progress) for model in models)
    origin = Origin(
        run=_directory(source).name,
        id=record.id if (record := read_record(_directory(source))) is not None else "",
        step=source.state.step,
        attn=full_label(old.attn),
        weights=file_digest(source.directory / "model.safetensors"),
        loss_before=before.loss,
        loss_after=after.loss,
        windows=windows.name,
        notes=notes,
        before=source.state.converted,
    )
    _write(config, models[1], data, origin)
    return Conversion(config, origin, before, after, _command(config))


def fill_converted(old: GPT2Model, new: GPT2Model, progress: Progress) -> tuple[str, ...]:
    """Fill a model with the weights of another that differs in its attention alone.

    Args:
        old: has weights, on the CPU.
        new: gets them.
        progress: hears of every layer.

    Returns:
        What the map loses, changes or adds, each once.

    Raises:
        UsageError: no map is known.
    """
    check_map(old.config, new.config)
    initialize(new, _SEED)  # for what has no counterpart
    weights, fresh = old.state_dict(), new.state_dict()
    rest = {name: tensor for name, tensor in weights.items() if ".attn." not in name}
    notes: dict[str, list[float]] = {}
    with stage(progress, "converting layers", old.config.n_layer, "layers"):
        for layer in range(old.config.n_layer):
            found, said = convert_layer(layer, old.config, new.config, weights, fresh)
            rest |= found
            for sentence, share in said:
                notes.setdefault(sentence, []).extend([] if share is None else [share])
            progress.advance(1)
    new.load_state_dict(rest)
    return tuple(sentence.format(_range(shares)) for sentence, shares in notes.items())


def _range(shares: Sequence[float]) -> str:
    """Return the least and the largest of the layers' shares in percent."""
    return " to ".join(dict.fromkeys(f"{share:.1%}" for share in (min(shares), max(shares)))) if shares else ""


def _settings(source: Checkpoint, new: GPT2Config, settings: ConvertConfig) -> TrainConfig:
    """Return the settings of the new run: the source's, from its weights, at the rate that its schedule ends with."""
    train = source.settings.train
    steps = max(1, round(UPTRAINED * source.state.step))
    changed: dict[str, Any] = {
        "init_from": str(source.directory),
        "fork": None,
        "data": settings.data or train.data,
        "max_steps": steps,
        "max_tokens": None,
        "warmup_steps": min(train.warmup_steps, steps // 10),
        "lr": train.final_lr or train.lr,
        "min_lr": None,
    }
    name = settings.run_name or f"{new.attn.kind}-from-{_directory(source).name}"[:_LONGEST_NAME]
    tables = source.settings.model_dump(mode="json")
    tables["model"] = new.model_dump(mode="json", exclude={"vocab_size"})
    tables["train"] |= changed
    tables["run"] |= {"run_name": name, "runs_dir": str(settings.runs_dir), "group": None, "profile": False}
    return TrainConfig.model_validate(tables)


def _data(run: str, source: Checkpoint, config: TrainConfig, progress: Progress) -> Dataset:
    """Open the data that losses are computed on.

    Raises:
        DataError: it is gone, or was made with another tokenizer.
    """
    remedy = f"Name data of its tokenizer: vgpt convert {shlex.quote(run)} --data DIRECTORY ..."
    try:
        data = load_data(config.train.data, progress)
    except DataError as error:
        raise DataError(f"the data of {run} cannot be opened: {error.message}", remedy) from error
    if data.tokenizer.fingerprint != source.tokenizer().fingerprint:
        raise DataError(f"{data.directory} was made with another tokenizer than {run}: its ids mean other text", remedy)
    return data


def _compute(source: Checkpoint, settings: ConvertConfig) -> Compute:
    """Return what computes losses: as the run was trained, so that they compare with its own, or as is asked for."""
    asked = settings.model_dump(include={"device", "dtype", "threads"}, exclude_none=True)
    return resolve(SystemSettings(**source.settings.system.model_dump(include={"device", "dtype"}) | asked))


def _evaluated(
    model: GPT2Model, windows: Evaluator, source: Checkpoint, compute: Compute, progress: Progress
) -> Evaluation:
    with stage(progress, f"evaluating {model.config.attn.kind}", len(windows), "windows"):
        with use_backend(source.state.attention_backend):
            found = windows.evaluate(model.to(compute.device), dtype=compute.dtype)
        progress.advance(len(windows))
    model.to("cpu")
    return found


def _write(config: TrainConfig, model: GPT2Model, data: Dataset, origin: Origin) -> None:
    """Write the run's directory, whole or not at all: its settings, and a checkpoint at step 0."""
    directory = config.directory
    try:
        directory.mkdir(parents=True)
    except FileExistsError as error:
        raise _taken(config) from error
    try:
        # First: without a checkpoint they lead to the source's weights, which do not fit, never to random ones.
        write_json(directory / SETTINGS_FILE, config.model_dump(mode="json"))
        target = save_checkpoint(
            directory / "ckpt",
            model=model.config,
            weights={name: tensor.contiguous() for name, tensor in model.state_dict().items()},
            optimizer={},
            state=TrainingState(data_digest=data.manifest.digest, init_digest=origin.weights, converted=asdict(origin)),
            settings=config,
            tokenizer=data.tokenizer,
        )
        for name in ("last", "best"):
            point(directory / "ckpt", name, target)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _taken(config: TrainConfig) -> UsageError:
    return UsageError(
        f"{config.directory} is there already, and nothing is overwritten", "Choose another name: --run-name NAME."
    )


def _directory(source: Checkpoint) -> Path:
    """Return the directory of the run that a checkpoint is of."""
    return source.directory.absolute().parent.parent


def settings_to_train_on(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that train a converted run on: every one that is not its default, by its flat name."""
    flat = {**config.flat(), "attn": short_label(config.model.attn)}
    return {
        name: flat[name]
        for name, leaf in _trainable().items()
        if name == "attn" or format_value(flat.get(name)) != format_value(leaf.default)
    }


def _trainable() -> dict[str, Leaf]:
    return {name: leaf for name, leaf in leaves(TrainConfig).items() if not leaf.variants and not leaf.hidden}


def _command(config: TrainConfig) -> str:
    """Return the command that trains the run on."""
    plugins = plugin_flags(config.model.attn, config.model.n_layer)
    words = command_words(_trainable(), settings_to_train_on(config))
    return shlex.join(["vgpt", "train", *words, *plugins])
