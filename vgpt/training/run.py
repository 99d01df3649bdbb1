"""One run from settings to result: opens what it needs, resumes what is there, trains, and records the outcome."""

from dataclasses import dataclass
from pathlib import Path

import torch

from vgpt.attention.mix.config import cut_off
from vgpt.attention.plugin_record import changed_variants
from vgpt.data.dataset import Dataset, open_dataset
from vgpt.data.prepare import prepare_demo
from vgpt.data.progress import Progress as DataProgress
from vgpt.errors import CheckpointError, DataError, DivergedError
from vgpt.evaluation.loss import Evaluator
from vgpt.files.paths import DEMO
from vgpt.model.config import GPT2Config
from vgpt.model.costs import (
    count_parameters,
    palm_flops_per_token,
    train_flops_per_token,
)
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.settings.train import TrainConfig
from vgpt.tracking.lock import RunLock
from vgpt.tracking.target import resolve_target
from vgpt.tracking.tracker import NoTracker, Tracker
from vgpt.training.checkpoints.checkpoint import (
    Checkpoint,
    TrainingState,
    load_weights,
    mend_pointers,
    newest,
    read_tensors,
)
from vgpt.training.checkpoints.files import sweep
from vgpt.training.checkpoints.fork import fork_run
from vgpt.training.checkpoints.source import open_source
from vgpt.training.display import Display, Quiet
from vgpt.training.hardware.devices import Compute, resolve
from vgpt.training.hardware.peak import Costs, Peak, peak_flops
from vgpt.training.optimizer import build_optimizer
from vgpt.training.parallel.distributed import ALONE, World, join, leave
from vgpt.training.parallel.replica import build_replica
from vgpt.training.records.provenance import note_facts
from vgpt.training.records.record import open_record, record_windows
from vgpt.training.records.same_run import DEMO_DIRECTORY, refuse_foreign, refuse_other_settings
from vgpt.training.records.start import ATTENTION_RMS, few_windows, measure_start
from vgpt.training.stopping import StopRequest
from vgpt.training.summary import read_summary, summarise
from vgpt.training.trainer import Trainer


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

    Args:
        place: the directory, or "demo".
        progress: hears how the demo is prepared.

    Raises:
        DataError: nothing there, or damaged.
    """
    if place == DEMO:
        prepare_demo(DEMO_DIRECTORY, progress=progress)
    return open_dataset(DEMO_DIRECTORY if place == DEMO else Path(place))


def train_run(
    config: TrainConfig, display: Display, *, data_progress: DataProgress | None = None, world: World = ALONE
) -> RunResult:
    """Train a run, or continue it where it was left; with others, where `world` names this process among them.

    Raises:
        UsageError: the name belongs to a run with other settings or is in use.
        TrackingError: the tracking URI is of no known kind.
        DataError, CheckpointError, DivergedError: see there.
    """
    if config.run.tracker == "mlflow":
        resolve_target(config.run.tracking_uri)  # a wrong URI is refused before anything is made or computed
    compute = resolve(config.system, local_rank=None if world.alone else world.local_rank)
    join(world, compute.device, config.workers.collective_timeout)
    try:
        if not world.main:
            result = _as_one_of_many(config, Quiet(), compute, world)
        else:
            refuse_foreign(config.directory)
            config.directory.mkdir(parents=True, exist_ok=True)
            with RunLock(config.directory) as lock:
                if lock.note:
                    display.say(lock.note)
                refuse_other_settings(config)
                # The others open what is then prepared.
                data = load_data(config.train.data, data_progress)
                fork_run(config, data, display.say)
                result = _as_one_of_many(config, display, compute, world, data)
        # A process that left while another still records would break the connection for it.
        world.wait()
        return result
    finally:
        leave()


def _as_one_of_many(
    config: TrainConfig, display: Display, compute: Compute, world: World, data: Dataset | None = None
) -> RunResult:
    world.wait()
    data = load_data(config.train.data) if data is None else data
    # The digest that comparisons rely on is the manifest's: the main process holds the files to it.
    if world.main:
        data.verify()
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
    if checkpoint is not None and checkpoint.state.finished and (summary := read_summary(config.directory)):
        display.say(f"{config.name} is finished at step {checkpoint.state.step}: nothing to train")
        return RunResult(config.name, config.directory, "already", 0, summary)
    _check_agreement(config, checkpoint, data, compute, world)
    return _train(config, display, data, compute, checkpoint, world)


def _check_agreement(
    config: TrainConfig, checkpoint: Checkpoint | None, data: Dataset, compute: Compute, world: World
) -> None:
    """Refuse to train as one run from different beginnings, as machines without a common directory would.

    Raises:
        CheckpointError: processes found different checkpoints.
        DataError: processes opened different data.
    """
    step, digest = checkpoint.state.step if checkpoint else 0, int(data.manifest.digest[:12], 16)
    last, first, one, other = world.agree(step, -step, digest, -digest, device=compute.device)
    if last != -first:
        raise CheckpointError(
            f"the processes of {config.name} found checkpoints of different steps, from {-first:.0f} to {last:.0f}",
            f"--runs-dir {config.run.runs_dir} must be one directory that all machines share.",
        )
    if one != -other:
        raise DataError(
            f"the processes of {config.name} read different data from {config.train.data}",
            "Copy the prepared directory to every machine, or share it.",
        )


def finished_result(config: TrainConfig) -> RunResult | None:
    """Return the result of a run that has ended, from its directory."""
    summary = read_summary(config.directory)
    return None if summary is None else RunResult(config.name, config.directory, "finished", 0, summary)


def build_model(config: TrainConfig, vocab_size: int) -> GPT2Model:
    """Build and initialize the model that a run starts from, in float32 on the CPU."""
    model = GPT2Model(GPT2Config(**config.model.concrete(), vocab_size=vocab_size))
    initialize(model, config.train.seed)
    return model


def _train(
    config: TrainConfig, display: Display, data: Dataset, compute: Compute, checkpoint: Checkpoint | None, world: World
) -> RunResult:
    evaluator = Evaluator.of(data, config.model.block_size, config.train.eval_windows)
    peak = peak_flops(compute)
    trainer = _trainer(config, display, data, evaluator, compute, peak, checkpoint, world)
    status = "failed"
    summary: dict[str, float] = {}
    with StopRequest(display.say) as stop:
        display.start(config.name, config.steps, trainer.state.step)
        try:
            ended = trainer.run(stop, evaluate_first=checkpoint is None and config.train.init_from is not None)
            if ended != "stopped":
                # Of the last step, which training has just made.
                final = trainer.last_evaluation or trainer.evaluation()
                summary = summarise(trainer, final, compute, peak)
                if ATTENTION_RMS in trainer.state.start:
                    summary[ATTENTION_RMS] = float(trainer.state.start[ATTENTION_RMS])
                if world.main:
                    record_windows(config, data, evaluator, final, trainer.state.step, trainer.tracker, display.say)
                    trainer.tracker.tag({"vgpt.batches": trainer.state.batch_hash})
            status = ended  # only now: a run without its figures has failed
        except DivergedError:
            status = "diverged"
            raise
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            display.stop()
            ending = {"finished": "finished", "early": "finished", "stopped": "killed"}.get(status, status)
            for note in trainer.tracker.finish(ending, summary):
                display.say(note)
    code = stop.exit_code if status == "stopped" else 0
    if code:
        display.say(f"stopped at step {trainer.state.step}; run the same command again to continue")
    return RunResult(config.name, config.directory, status, code, summary)


def _trainer(
    config: TrainConfig,
    display: Display,
    data: Dataset,
    evaluator: Evaluator,
    compute: Compute,
    peak: Peak,
    checkpoint: Checkpoint | None,
    world: World,
) -> Trainer:
    """Build what trains, from the beginning or from a checkpoint, and open its record."""
    train = config.train
    model, state = _model(config, data, checkpoint, display)
    if world.main:
        note_facts(state, compute)
        if state.step == 0 and not state.init_digest:
            state.start = measure_start(model, evaluator.rows(few_windows(len(evaluator), config.model.block_size)))
    model.to(compute.device)
    model.recompute = config.system.recompute
    model.compile_blocks(config.system.compile)
    replica = build_replica(model, config, world, compute.device, compute.dtype)
    optimizer = build_optimizer(
        model, lr=train.lr, betas=(train.beta1, train.beta2), weight_decay=train.weight_decay, device=compute.device
    )
    if checkpoint is not None:
        replica.load_optimizer(optimizer, read_tensors(checkpoint.directory / "optimizer.safetensors"))
        display.say(f"resuming {config.name} at step {state.step}")
        for kind in changed_variants(checkpoint.plugins):
            display.say(f"the plug-in of {kind!r} is not the one that trained so far: its file has changed")
    torch.manual_seed(train.seed)
    _announce(config, model.config, compute, peak, world, display)
    resume_step = None if checkpoint is None else state.step
    tracker: Tracker = NoTracker()
    if world.main:
        tracker = open_record(config, data, compute, peak, evaluator, state, resume_step=resume_step, say=display.say)
    return Trainer(
        config,
        model=model,
        optimizer=optimizer,
        state=state,
        data=data,
        evaluator=evaluator,
        compute=compute,
        costs=Costs(train_flops_per_token(model.config), palm_flops_per_token(model.config), peak.flops * world.size),
        tracker=tracker,
        display=display,
        log_file=config.directory / f"{config.model.attn.kind}.log",
        replica=replica,
        world=world,
    )


def _model(
    config: TrainConfig, data: Dataset, checkpoint: Checkpoint | None, display: Display
) -> tuple[GPT2Model, TrainingState]:
    """Return the model and where training stands: as saved, as its source was left, or at the very beginning."""
    model = build_model(config, data.tokenizer.vocab_size)
    if checkpoint is not None:
        load_weights(model, checkpoint.directory / "model.safetensors")
        return model, checkpoint.state
    state = TrainingState(data_digest=data.manifest.digest)
    if config.train.init_from is not None:
        source = open_source(config.train.init_from, runs_dir=config.run.runs_dir)
        remarks = source.fill(model, data.tokenizer)
        state.init_digest = source.digest
        display.say(f"weights from {source.name} (SHA-256 {source.digest[:12]})")
        for remark in remarks:
            display.say(remark)
    return model, state


def _announce(
    config: TrainConfig, model: GPT2Config, compute: Compute, peak: Peak, world: World, display: Display
) -> None:
    """Say what is trained on what, and what the settings came to."""
    display.say(
        f"{config.name}: {count_parameters(model).total:,} parameters, {compute.device_name}, "
        f"{compute.dtype_name} ({compute.reason}), peak {peak.flops / 1e12:.3g} TFLOP/s ({peak.source})"
        + ("" if world.alone else f", {world.size} processes ({config.workers.parallel})")
    )
    if config.model.budget is not None:
        display.say(f"--match {config.model.match}: {config.model.budget}")
    if remark := cut_off(config.model.attn, config.model.n_layer):
        display.say(remark)
