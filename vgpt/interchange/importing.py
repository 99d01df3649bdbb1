"""A directory of GPT-2 or GPTBigCode as a run: its weights as a checkpoint, and a record that says where they are from.

Nothing of the directory is executed: settings and tokenizer are JSON, and weights are safetensors.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vgpt.attention.config import positions_of
from vgpt.attention.grammar import LayerPattern
from vgpt.data.dataset import Dataset
from vgpt.errors import DataError, UsageError
from vgpt.evaluation.loss import Evaluation, Evaluator
from vgpt.model.config import GPT2Config
from vgpt.model.costs import (
    cache_bytes,
    cache_read_bytes,
    count_parameters,
    palm_flops_per_token,
    train_flops_per_token,
)
from vgpt.model.gpt2 import GPT2Model
from vgpt.settings.fields import format_value
from vgpt.settings.interchange import ImportConfig
from vgpt.settings.model import ModelSettings
from vgpt.settings.train import RUN_NAME, SystemSettings, TrainConfig
from vgpt.text.choose import tokenizer_beside
from vgpt.text.gpt2 import PUBLISHED_FINGERPRINT, load_gpt2
from vgpt.text.tokenizer import Tokenizer
from vgpt.tracking.record import WindowLosses
from vgpt.tracking.schema import Metric, Tag
from vgpt.tracking.tracker import RunStart, open_tracker
from vgpt.training.checkpoints.checkpoint import TrainingState, point, save_checkpoint
from vgpt.training.checkpoints.files import write_json
from vgpt.training.checkpoints.source import HF, Source, open_source
from vgpt.training.hardware.devices import resolve
from vgpt.training.run import load_data

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Imported:
    """A run that was made of a directory.

    Attributes:
        name: its name.
        directory: where it lies.
        source: the directory that it was made of.
        digest: SHA-256 of the weights.
        model: the architecture.
        tokenizer: name of its tokenizer.
        parameters: how many there are.
        loss: on the windows of the data that was named, nats per token; None where none was.
    """

    name: str
    directory: Path
    source: str
    digest: str
    model: GPT2Config
    tokenizer: str
    parameters: int
    loss: float | None


def import_run(place: str, settings: ImportConfig, notify: Notify) -> Imported:
    """Make a run of a directory with config.json and safetensors.

    Args:
        place: `hf:` and the directory.
        settings: what the run is called and where it goes.
        notify: hears what the user should know.

    Raises:
        UsageError: no such place, or the run's name is taken.
        CheckpointError, TokenizerError: the directory is damaged, or of a model that vgpt does not compute.
        DataError: the data was made with another tokenizer.
    """
    if not place.startswith(HF):
        raise UsageError(f"{place}: where it is from is not said", f"A directory: vgpt import {HF}{place}")
    source_directory = Path(place.removeprefix(HF)).expanduser()
    name = settings.run_name or _name_of(source_directory)
    target = settings.runs_dir / name
    if target.exists():
        raise UsageError(f"there is a run {name} in {settings.runs_dir}/ already", "Give another name with --run-name.")
    source = open_source(f"{HF}{source_directory}", runs_dir=settings.runs_dir)
    tokenizer = _tokenizer(source_directory, source, settings)
    data = _data(settings, tokenizer)
    model = GPT2Model(source.model.model_copy(update={"vocab_size": tokenizer.vocab_size}))
    for remark in source.fill(model, tokenizer):
        notify(remark)
    config = _settings(model.config, source, settings, name)
    try:
        _write(target, config, model, tokenizer, source)
        loss = _record(config, model, source, tokenizer, data, settings, notify)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    parameters = count_parameters(model.config).total
    return Imported(name, target, source.name, source.digest, model.config, tokenizer.name, parameters, loss)


def _name_of(directory: Path) -> str:
    """Return a name for the run: the directory's, as far as a run may be called so."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", directory.resolve().name).lstrip("._-")[:80]
    if not RUN_NAME.fullmatch(name):
        raise UsageError(f"{directory} has no name that a run could have", "Give one with --run-name.")
    return name


def _tokenizer(directory: Path, source: Source, settings: ImportConfig) -> Tokenizer:
    """Return the tokenizer beside the weights; GPT-2's own where there is none and the ids are as many."""
    found = tokenizer_beside(directory)
    if found is None and source.tokenizer == PUBLISHED_FINGERPRINT:
        found = load_gpt2(settings.vocab_dir)
    if found is None:
        raise UsageError(
            f"{directory}: no tokenizer is there, and its {source.model.vocab_size:,} ids are not GPT-2's",
            "Put tokenizer.json, or vocab.json and merges.txt, beside the weights.",
        )
    return found


def _data(settings: ImportConfig, tokenizer: Tokenizer) -> Dataset | None:
    if settings.data is None:
        return None
    data = load_data(settings.data)
    if data.tokenizer.fingerprint != tokenizer.fingerprint:
        raise DataError(
            f"{data.directory} was made with another tokenizer than the model: its ids mean other text",
            "Import without --data first; then prepare the text with the run's tokenizer: "
            "vgpt prepare TEXT --tokenizer runs/NAME/ckpt/step-00000000",
        )
    return data


def _settings(model: GPT2Config, source: Source, settings: ImportConfig, name: str) -> TrainConfig:
    """Return the settings of a run that ended before its first step."""
    table = {field: value for field, value in dict(model).items() if field in ModelSettings.model_fields}
    # What it was trained on is not there: the place of its weights stands for it where none is named.
    data = source.name if settings.data is None else settings.data
    train = {"init_from": source.name, "data": data, "eval_windows": settings.eval_windows, "max_steps": 1}
    run = {field: getattr(settings, field) for field in ("runs_dir", "tracker", "experiment", "tracking_uri")}
    return TrainConfig.model_validate({"model": table, "train": train, "run": {**run, "run_name": name}})


def _write(target: Path, config: TrainConfig, model: GPT2Model, tokenizer: Tokenizer, source: Source) -> None:
    """Write the run's directory with its one checkpoint."""
    target.mkdir(parents=True)
    weights: dict[str, Tensor] = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    checkpoint = save_checkpoint(
        target / "ckpt",
        model=model.config,
        weights=weights,
        optimizer={},
        state=TrainingState(finished=True, init_digest=source.digest),
        settings=config,
        tokenizer=tokenizer,
    )
    for pointer in ("best", "last"):
        point(target / "ckpt", pointer, checkpoint)
    write_json(target / "settings.json", config.model_dump(mode="json"))


def _record(
    config: TrainConfig,
    model: GPT2Model,
    source: Source,
    tokenizer: Tokenizer,
    data: Dataset | None,
    settings: ImportConfig,
    notify: Notify,
) -> float | None:
    """Record what is known of the run: its architecture and costs, and its loss where data was named."""
    layers = [config.model.attn.at(layer) for layer in range(config.model.n_layer)]
    tags = {
        Tag.IMPORTED: f"{source.name}, SHA-256 {source.digest[:16]}",
        Tag.ATTN: config.model.attn.kind,
        Tag.ATTN_SETTINGS: json.dumps(config.model.attn.model_dump(mode="json"), sort_keys=True),
        Tag.ATTN_LAYERS: str(LayerPattern(tuple(layers))),
        Tag.MLP_HIDDEN: str(config.model.hidden),
        Tag.POSITIONS: positions_of(layers, config.model.shape),
        Tag.TOKENIZER: tokenizer.fingerprint,
        Tag.INIT_DIGEST: source.digest,
    }
    compute = resolve(SystemSettings(device=settings.device, dtype=settings.dtype))
    summary = _costs(model.config, torch.finfo(compute.dtype).bits // 8)
    found: Evaluation | None = None
    if data is not None:
        evaluator = Evaluator.of(data, config.model.block_size, config.train.eval_windows)
        notify(f"evaluating on {len(evaluator):,} windows of {data.directory}")
        found = evaluator.evaluate(model.to(compute.device).eval(), dtype=compute.dtype)
        summary |= found.metrics()
        tags |= {Tag.DATA_DIGEST: data.manifest.digest, Tag.EVAL_WINDOWS: evaluator.name}
        tags |= {Tag.DTYPE: compute.dtype_name, Tag.DEVICE: compute.device_name}
        documents = tuple(evaluator.documents(tokenizer.end_of_text).tolist())
        each, by_position = tuple(found.window_losses.tolist()), tuple(found.position_losses.tolist())
        WindowLosses(0, evaluator.name, each, by_position, documents).save(config.directory)
    # Of how it was trained nothing is known: only settings of the model are on record.
    flat = {**config.model.model_dump(mode="json", exclude={"attn"}), **config.model.attn.model_dump(mode="json")}
    flat["attn"] = flat.pop("kind")
    start = RunStart(
        run_name=config.name,
        run_dir=config.directory,
        experiment=config.run.experiment,
        params={name: format_value(value) for name, value in flat.items()},
        tags={str(name): value for name, value in tags.items()},
    )
    tracker = open_tracker(
        start, kind=config.run.tracker, resume_step=None, tracking_uri=settings.tracking_uri, notify=notify
    )
    tracker.artifact(config.directory / "settings.json")
    for note in tracker.finish("finished", summary):
        notify(note)
    return None if found is None else found.loss


def _costs(model: GPT2Config, element: int) -> dict[str, float]:
    """Return the figures that follow from the architecture, under their names in the tracking schema.

    Args:
        model: the architecture.
        element: bytes of one number in a cache.
    """
    count, context = count_parameters(model), model.block_size
    held = cache_bytes(model, context, element)
    return {
        Metric.PARAMS_TOTAL: count.total,
        Metric.PARAMS_ATTENTION: count.attention,
        Metric.PARAMS_NON_EMBEDDING: count.non_embedding,
        Metric.FLOPS_TRAIN_PER_TOKEN: train_flops_per_token(model),
        Metric.FLOPS_TRAIN_PER_TOKEN_PALM: palm_flops_per_token(model),
        Metric.KV_BYTES_PER_TOKEN: held / context,
        Metric.KV_BYTES_AT_CONTEXT: held,
        Metric.KV_BYTES_READ: cache_read_bytes(model, context, element),
    }
