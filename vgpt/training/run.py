"""One run from settings to result: opens what it needs, resumes what is there, trains, and records the outcome."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vgpt.attention.mix.config import cut_off
from vgpt.data.dataset import Dataset, open_dataset
from vgpt.data.prepare import prepare_demo
from vgpt.data.progress import Progress as DataProgress
from vgpt.errors import CheckpointError, DataError, DivergedError, UsageError
from vgpt.evaluation.loss import Evaluator
from vgpt.model.config import GPT2Config
from vgpt.model.costs import (
    cache_bytes,
    cache_read_bytes,
    count_parameters,
    palm_flops_per_token,
    train_flops_per_token,
)
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialise
from vgpt.settings.train import TrainConfig
from vgpt.tracking.lock import RunLock
from vgpt.tracking.tracker import NoTracker, Tracker
from vgpt.training.checkpoint import Checkpoint, TrainingState, load_weights, mend_pointers, newest, read_tensors
from vgpt.training.devices import Compute, resolve
from vgpt.training.display import Display, Quiet
from vgpt.training.distributed import ALONE, World, join, leave
from vgpt.training.files import sweep, write_json
from vgpt.training.hardware import Peak, peak_flops, peak_memory
from vgpt.training.optimizer import build_optimizer
from vgpt.training.record import open_record
from vgpt.training.replica import FSDPReplica, build_replica
from vgpt.training.stopping import StopRequest
from vgpt.training.trainer import Costs, Trainer

DEMO = "demo"
DEMO_DIRECTORY = Path("data/demo")


@dataclass(frozen=True)
class RunResult:
    """How a run ended: "finished", "early" (patience ran out), "stopped" (by a signal) or "already" (nothing to do)."""

    name: str
    directory: Path
    status: str
    exit_code: int
    summary: dict[str, float]


def load_data(place: str, progress: DataProgress | None = None) -> Dataset:
    """Open a prepared directory, or the built-in demo corpus, which is prepared at first use.

    Raises:
        DataError: nothing there, or damaged.
    """
    if place == DEMO:
        prepare_demo(DEMO_DIRECTORY, progress=progress)
        return open_dataset(DEMO_DIRECTORY)
    return open_dataset(Path(place))


def train_run(
    config: TrainConfig, display: Display, *, data_progress: DataProgress | None = None, world: World = ALONE
) -> RunResult:
    """Train a run, or continue it where it was left; with others, where `world` names this process among them.

    Raises:
        UsageError: the name belongs to a run with other settings or is in use.
        DataError, CheckpointError, DivergedError: see there.
    """
    compute = resolve(config.system, local_rank=None if world.alone else world.local_rank)
    join(world, compute.device, config.workers.collective_timeout)
    try:
        if not world.main:
            result = _as_one_of_many(config, Quiet(), compute, world)
        else:
            config.directory.mkdir(parents=True, exist_ok=True)
            with RunLock(config.directory):
                refuse_other_settings(config)
                # The others open what is then prepared.
                load_data(config.train.data, data_progress)
                result = _as_one_of_many(config, display, compute, world)
        # A process that left while another still records would break the connection for it.
        world.wait()
        return result
    finally:
        leave()


def _as_one_of_many(config: TrainConfig, display: Display, compute: Compute, world: World) -> RunResult:
    world.wait()
    data = load_data(config.train.data)
    if world.main:
        sweep(config.directory / "ckpt")
    world.wait()
    checkpoint, problems = newest(config.directory / "ckpt")
    for problem in problems:
        display.say(f"damaged checkpoint left out: {problem}")
    if checkpoint is None and problems:
        raise CheckpointError(
            f"the run {config.name} has no checkpoint that is whole:\n" + "\n".join(problems),
            f"Begin anew under another --run-name, or remove {config.directory}.",
        )
    if checkpoint is not None and world.main:
        mend_pointers(checkpoint)
    if checkpoint is not None and checkpoint.state.data_digest != data.manifest.digest:
        raise DataError(
            f"{config.directory} was trained on other data than {config.train.data} holds now "
            f"(digest {checkpoint.state.data_digest[:12]} then, {data.manifest.digest[:12]} now)",
            "Choose another --run-name, or restore the data.",
        )
    if checkpoint is not None and checkpoint.state.finished and (summary := _summary(config.directory)):
        display.say(f"{config.name} is finished at step {checkpoint.state.step}: nothing to train")
        return RunResult(config.name, config.directory, "already", 0, summary)
    return _train(config, display, data, compute, checkpoint, world)


def finished_result(config: TrainConfig) -> RunResult | None:
    """Return the result of a run that has ended, from its directory."""
    summary = _summary(config.directory)
    return None if summary is None else RunResult(config.name, config.directory, "finished", 0, summary)


def refuse_other_settings(config: TrainConfig) -> None:
    """Hold a run's name to its settings.

    Raises:
        UsageError: the run exists with other settings; the message shows each that differs.
    """
    path = config.directory / "settings.json"
    if not path.exists():
        write_json(path, config.model_dump(mode="json"))
        return
    try:
        before = TrainConfig.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}", "Choose another --run-name.") from error
    if before.identity() == config.identity():
        return
    old, new = before.flat(), config.flat()
    run_section = set(type(config.run).model_fields)
    differing = [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} asked"
        for name in dict.fromkeys([*old, *new])
        if name not in run_section and old.get(name) != new.get(name)
    ]
    raise UsageError(
        f"the run {config.name} exists with other settings:\n" + "\n".join(differing),
        "Choose another --run-name, or repeat its settings to continue it.",
    )


def build_model(config: TrainConfig, vocab_size: int) -> GPT2Model:
    """Build and initialise the model that a run starts from, in float32 on the CPU."""
    model = GPT2Model(GPT2Config(**dict(config.model), vocab_size=vocab_size))
    initialise(model, config.train.seed)
    return model


def _train(
    config: TrainConfig, display: Display, data: Dataset, compute: Compute, checkpoint: Checkpoint | None, world: World
) -> RunResult:
    evaluator = Evaluator.of(data, config.model.block_size, config.train.eval_windows)
    model = build_model(config, data.tokenizer.vocab_size)
    train = config.train
    state = TrainingState(data_digest=data.manifest.digest)
    if checkpoint is not None:
        load_weights(model, checkpoint.directory / "model.safetensors")
        state = checkpoint.state
    model.to(compute.device)
    model.recompute = config.system.recompute
    if config.system.compile:
        model.hidden = torch.compile(model.hidden)
    replica = build_replica(model, config, world, compute.device)
    optimizer = build_optimizer(
        model, lr=train.lr, betas=(train.beta1, train.beta2), weight_decay=train.weight_decay, device=compute.device
    )
    if checkpoint is not None:
        replica.load_optimizer(optimizer, read_tensors(checkpoint.directory / "optimizer.safetensors"))
        display.say(f"resuming {config.name} at step {state.step}")
    torch.manual_seed(train.seed)
    peak = peak_flops(compute)
    costs = Costs(train_flops_per_token(model.config), palm_flops_per_token(model.config), peak.flops * world.size)
    display.say(
        f"{config.name}: {count_parameters(model.config).total:,} parameters, {compute.device_name}, "
        f"{compute.dtype_name} ({compute.reason}), peak {peak.flops / 1e12:.3g} TFLOP/s ({peak.source})"
        + ("" if world.alone else f", {world.size} processes ({config.workers.parallel})")
    )
    if remark := cut_off(config.model.attn, config.model.n_layer):
        display.say(remark)
    resume_step = None if checkpoint is None else state.step
    tracker: Tracker = NoTracker()
    if world.main:
        tracker = open_record(config, data, compute, peak, evaluator, resume_step=resume_step, say=display.say)
    trainer = Trainer(
        config,
        model=model,
        optimizer=optimizer,
        state=state,
        data=data,
        evaluator=evaluator,
        compute=compute,
        costs=costs,
        tracker=tracker,
        display=display,
        log_file=config.directory / f"{config.model.attn.kind}.log",
        replica=replica,
        world=world,
    )
    status = "failed"
    summary: dict[str, float] = {}
    with StopRequest(display.say) as stop:
        display.start(config.name, config.steps, state.step)
        try:
            status = trainer.run(stop)
            if status != "stopped":
                summary = summarise(trainer, compute, peak)
        except DivergedError:
            status = "diverged"
            raise
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            display.stop()
            ending = {"finished": "finished", "early": "finished", "stopped": "killed"}.get(status, status)
            for note in tracker.finish(ending, summary):
                display.say(note)
    code = stop.exit_code if status == "stopped" else 0
    if code:
        display.say(f"stopped at step {state.step}; run the same command again to continue")
    return RunResult(config.name, config.directory, status, code, summary)


def summarise(trainer: Trainer, compute: Compute, peak: Peak) -> dict[str, float]:
    """Return the figures that comparisons read, under their names in the tracking schema."""
    state, architecture = trainer.state, trainer.model.config
    # Of the last step, which training has just made.
    final = trainer.last_evaluation or trainer.evaluation()
    rate = state.tokens / state.seconds if state.seconds else 0.0
    element = torch.finfo(compute.dtype).bits // 8
    context = architecture.block_size
    measured = measured_cache_bytes(trainer, context, compute.dtype)
    count = count_parameters(architecture)
    return {
        **final.metrics(),
        "val/best_loss": state.best_loss if state.best_loss is not None else final.loss,
        "params/total": count.total,
        "params/attention": count.attention,
        "params/non_embedding": count.non_embedding,
        "flops/train_per_token": trainer.costs.flops_per_token,
        "flops/train_per_token_palm": trainer.costs.palm_flops_per_token,
        "flops/peak": peak.flops,
        "kv/bytes_per_token": cache_bytes(architecture, context, element) / context,
        "kv/bytes_at_context": cache_bytes(architecture, context, element),
        "kv/bytes_read": cache_read_bytes(architecture, context, element),
        "kv/bytes_measured": measured,
        "memory/peak_bytes": peak_memory(compute.device),
        "train/tokens": state.tokens,
        "train/steps": state.step,
        "train/skipped_steps": state.skipped_steps,
        "train/seconds": state.seconds,
        "perf/tokens_per_second": rate,
        "perf/mfu": trainer.costs.mfu(rate),
        "perf/mfu_palm": trainer.costs.mfu_palm(rate),
    }


def measured_cache_bytes(trainer: Trainer, tokens: int, dtype: torch.dtype) -> int:
    """Return the bytes in use in real caches after `tokens` tokens of one sequence went through them."""
    # Where the weights are shared out, a model of the same shape will do: sizes do not depend on weights.
    model = GPT2Model(trainer.model.config) if isinstance(trainer.replica, FSDPReplica) else trainer.model
    caches = model.make_caches(1, tokens, dtype=dtype)
    ids = torch.zeros(1, tokens, dtype=torch.int64, device=model.wte.weight.device)
    training = model.training
    model.eval()
    with torch.inference_mode(), torch.autocast(ids.device.type, dtype=dtype, enabled=dtype is not torch.float32):
        model.hidden(ids, caches)
    model.train(training)
    return sum(cache.nbytes for cache in caches)


def _summary(directory: Path) -> dict[str, float] | None:
    try:
        value: Any = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        return {name: float(figure) for name, figure in value["metrics"].items()} or None
    except (OSError, ValueError, KeyError, TypeError):
        return None
