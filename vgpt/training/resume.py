"""Where a run continues: at its newest whole checkpoint, which must be of its data and the same for every process.

It goes on with the attention backend that it began with.
"""

from vgpt.attention.kernels.backends import BACKENDS, TABLE, Backend
from vgpt.data.dataset import Dataset
from vgpt.errors import CheckpointError, DataError
from vgpt.settings.train import TrainConfig
from vgpt.training.checkpoints.checkpoint import Checkpoint, mend_pointers, newest
from vgpt.training.checkpoints.files import sweep
from vgpt.training.display import Display
from vgpt.training.hardware.attention_backend import FLAG, choose
from vgpt.training.hardware.devices import Compute
from vgpt.training.parallel.distributed import World


def find_resume_point(config: TrainConfig, data: Dataset, world: World, display: Display) -> Checkpoint | None:
    """Return the newest checkpoint of a run that is whole, or None where it has not begun; tidy its directory.

    Raises:
        CheckpointError: there are checkpoints, but none is whole.
        DataError: the run was trained on other data.
    """
    directory = config.directory / "ckpt"
    if world.main:
        sweep(directory)
    world.wait()
    checkpoint, problems = newest(directory)
    for problem in problems:
        display.notify(f"damaged checkpoint left out: {problem}")
    if checkpoint is None and problems:
        raise CheckpointError(
            f"the run {config.name} has no checkpoint that is whole:\n" + "\n".join(problems),
            f"Begin anew under another --run-name, or remove {config.directory}.",
        )
    if checkpoint is None:
        return None
    if world.main:
        mend_pointers(checkpoint)
    if checkpoint.state.data_digest != data.manifest.digest:
        raise DataError(
            f"{config.directory} was trained on other data than {config.train.data} holds now "
            f"(digest {checkpoint.state.data_digest[:12]} then, {data.manifest.digest[:12]} now)",
            "Choose another --run-name, or restore the data.",
        )
    return checkpoint


def check_agreement(
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


def agreed_backend(
    config: TrainConfig, checkpoint: Checkpoint | None, compute: Compute, world: World, display: Display
) -> Backend:
    """Return what computes a run's attention, the same in all processes: what it began with, or the main one's choice.

    Raises:
        UsageError: a backend was asked for that cannot compute here.
    """
    asked, notify = config.system.attention_backend, display.notify
    if checkpoint is not None and checkpoint.state.step:
        recorded = checkpoint.state.attention_backend
        if asked in BACKENDS and asked != recorded:
            notify(f"attention backend: {recorded}, as the run was begun; {FLAG} {asked} is for new runs")
        if recorded == "blockwise" and compute.device.type != "cpu":
            notify(
                f"attention backend: blockwise, as the run was begun, is for CPUs: {compute.device} computes by sdpa"
            )
        return recorded
    own = choose(config.model, config.system, compute, notify) if world.main else TABLE
    number = world.agree(BACKENDS.index(own) if world.main else -1, device=compute.device)[0]
    return BACKENDS[int(number)]
