"""What a run trains with: the model and its state, new or as saved, the optimizer, the open record and the trainer."""

import torch

from vgpt.attention.mix.config import cut_off
from vgpt.attention.plugin_record import changed_variants
from vgpt.data.dataset import Dataset
from vgpt.model.config import GPT2Config
from vgpt.model.costs import count_parameters, palm_flops_per_token, train_flops_per_token
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.settings.train import TrainConfig
from vgpt.tracking.tracker import NoTracker, Tracker
from vgpt.training.checkpoints.checkpoint import Checkpoint, TrainingState, load_weights, read_tensors
from vgpt.training.checkpoints.source import open_source
from vgpt.training.display import Display
from vgpt.training.hardware.peak import Costs
from vgpt.training.optimizer import build_optimizer
from vgpt.training.parallel.distributed import World
from vgpt.training.parallel.replica import build_replica
from vgpt.training.records.provenance import note_facts
from vgpt.training.records.record import RunSetup, open_record
from vgpt.training.records.start import few_windows, measure_start
from vgpt.training.reporter import Reporter
from vgpt.training.trainer import Trainer


def build_model(config: TrainConfig, vocab_size: int) -> GPT2Model:
    """Build and initialize the model that a run starts from, in float32 on the CPU."""
    model = GPT2Model(GPT2Config(**config.model.concrete(), vocab_size=vocab_size))
    initialize(model, config.train.seed)
    return model


def build_trainer(setup: RunSetup, checkpoint: Checkpoint | None, world: World, display: Display) -> Trainer:
    """Build what trains, from the beginning or from a checkpoint, and open its record."""
    config, compute, evaluator = setup.config, setup.compute, setup.evaluator
    train = config.train
    model, state = _starting_model(config, setup.data, checkpoint, display)
    state.attention_backend = setup.attention_backend
    if world.main:
        note_facts(state, compute)
        if state.step == 0 and not state.init_digest:
            state.start = measure_start(model, evaluator.rows(few_windows(len(evaluator), config.model.block_size)))
    model.to(compute.device)
    model.recompute = config.system.recompute
    model.compile_blocks(bool(config.system.compile))
    replica = build_replica(model, config, world, compute.device, compute.dtype)
    optimizer = build_optimizer(
        model, lr=train.lr, betas=(train.beta1, train.beta2), weight_decay=train.weight_decay, device=compute.device
    )
    if checkpoint is not None:
        replica.load_optimizer(optimizer, read_tensors(checkpoint.directory / "optimizer.safetensors"))
        display.notify(f"resuming {config.name} at step {state.step}")
        for kind in changed_variants(checkpoint.plugins):
            display.notify(f"the plug-in of {kind!r} is not the one that trained so far: its file has changed")
    torch.manual_seed(train.seed)
    _announce(setup, model.config, world, display)
    # A run that was converted has a checkpoint, and no record yet.
    resume_step = state.step if checkpoint is not None and state.step else None
    tracker: Tracker = NoTracker()
    if world.main:
        tracker = open_record(setup, state, resume_step=resume_step, notify=display.notify)
    log_file = config.directory / f"{config.model.attn.kind}.log"
    return Trainer(
        setup,
        model=model,
        optimizer=optimizer,
        state=state,
        replica=replica,
        costs=Costs(
            train_flops_per_token(model.config), palm_flops_per_token(model.config), setup.peak.flops * world.size
        ),
        reporter=Reporter(tracker, display, log_file if world.main else None),
        world=world,
    )


def _starting_model(
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
        state.init_digest, state.converted = source.digest, source.converted
        display.notify(f"weights from {source.name} (SHA-256 {source.digest[:12]})")
        for remark in remarks:
            display.notify(remark)
    return model, state


def _announce(setup: RunSetup, model: GPT2Config, world: World, display: Display) -> None:
    """Say what is trained on what, and what the settings came to."""
    config, compute, peak = setup.config, setup.compute, setup.peak
    display.notify(
        f"{config.name}: {count_parameters(model).total:,} parameters, {compute.device_name}, "
        f"{compute.dtype_name} ({compute.reason}), peak {peak.flops / 1e12:.3g} TFLOP/s ({peak.source})"
        + ("" if world.alone else f", {world.size} processes ({config.workers.parallel})")
    )
    if config.model.budget is not None:
        display.notify(f"--match {config.model.match}: {config.model.budget}")
    if remark := cut_off(config.model.attn, config.model.n_layer):
        display.notify(remark)
