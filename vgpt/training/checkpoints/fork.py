"""Going on from another run under other settings: its state is copied, and the copy is a run of its own."""

from collections.abc import Callable
from dataclasses import replace

from vgpt.data.dataset import Dataset
from vgpt.errors import UsageError
from vgpt.files.digests import file_digest
from vgpt.model.weights import check_numbers
from vgpt.settings.train import TrainConfig
from vgpt.training.checkpoints.checkpoint import find_checkpoint, newest, point, read_tensors, save_checkpoint
from vgpt.training.checkpoints.source import differences


def fork_run(config: TrainConfig, data: Dataset, say: Callable[[str], None]) -> None:
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
    say(f"forked from {name} at step {step}")
    if old.settings.sequences_per_step != config.sequences_per_step or old.settings.train.seed != config.train.seed:
        say("other sequences per step, or another seed, order the data anew: some of it may be seen twice in an epoch")
