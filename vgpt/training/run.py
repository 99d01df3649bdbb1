"""One run from settings to result: takes its directory, opens its data, trains, and records the outcome."""

from dataclasses import dataclass
from pathlib import Path

from vgpt.attention.kernels.backends import use_backend
from vgpt.data.dataset import Dataset, open_dataset
from vgpt.data.prepare import prepare_demo
from vgpt.data.progress import Progress as DataProgress
from vgpt.errors import DivergedError
from vgpt.evaluation.loss import Evaluator
from vgpt.files.paths import DEMO
from vgpt.settings.train import TrainConfig
from vgpt.tracking.lock import RunLock
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.training.build import build_trainer
from vgpt.training.checkpoints.checkpoint import Checkpoint
from vgpt.training.checkpoints.source import fork_run
from vgpt.training.display import Display, Quiet
from vgpt.training.hardware.compiling import settle
from vgpt.training.hardware.devices import Compute, resolve
from vgpt.training.hardware.peak import peak_flops
from vgpt.training.parallel.distributed import ALONE, World, join, leave
from vgpt.training.records.record import RunSetup, record_windows
from vgpt.training.records.same_run import DEMO_DIRECTORY, refuse_foreign, refuse_other_settings
from vgpt.training.records.start import ATTENTION_RMS
from vgpt.training.resume import agreed_backend, check_agreement, find_resume_point
from vgpt.training.stopping import StopRequest
from vgpt.training.summary import read_summary, summarize


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
    config, _ = settle(config)  # those that were not typed, but made by a program
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
                    display.notify(lock.note)
                refuse_other_settings(config)
                # The others open what is then prepared.
                data = load_data(config.train.data, data_progress)
                fork_run(config, data, display.notify)
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
    checkpoint = find_resume_point(config, data, world, display)
    if checkpoint is not None and checkpoint.state.finished and (summary := read_summary(config.directory)):
        display.notify(f"{config.name} is finished at step {checkpoint.state.step}: nothing to train")
        return RunResult(config.name, config.directory, "already", 0, summary)
    check_agreement(config, checkpoint, data, compute, world)
    backend = agreed_backend(config, checkpoint, compute, world, display)
    evaluator = Evaluator.of(data, config.model.block_size, config.train.eval_windows)
    setup = RunSetup(config, data, evaluator, compute, peak_flops(compute), backend)
    with use_backend(backend):
        return _train(setup, display, checkpoint, world)


def finished_result(config: TrainConfig) -> RunResult | None:
    """Return the result of a run that has ended, from its directory."""
    summary = read_summary(config.directory)
    return None if summary is None else RunResult(config.name, config.directory, "finished", 0, summary)


def _train(setup: RunSetup, display: Display, checkpoint: Checkpoint | None, world: World) -> RunResult:
    config, compute = setup.config, setup.compute
    trainer = build_trainer(setup, checkpoint, world, display)
    reporter = trainer.reporter
    status = "failed"
    summary: dict[str, float] = {}
    with StopRequest(display.notify) as stop:
        reporter.start(config.name, config.steps, trainer.state.step)
        try:
            ended = trainer.run(stop, evaluate_first=trainer.state.step == 0 and config.train.init_from is not None)
            if ended != "stopped":
                # Of the last step, which training has just made.
                final = trainer.last_evaluation or trainer.evaluation()
                summary = summarize(trainer, final, compute, setup.peak)
                if ATTENTION_RMS in trainer.state.start:
                    summary[ATTENTION_RMS] = float(trainer.state.start[ATTENTION_RMS])
                if world.main:
                    record_windows(setup, final, trainer.state.step, reporter.tracker, display.notify)
                    reporter.tracker.tag({"vgpt.batches": trainer.state.batch_hash})
            status = ended  # only now: a run without its figures has failed
        except DivergedError:
            status = "diverged"
            raise
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            ending = {"finished": "finished", "early": "finished", "stopped": "killed"}.get(status, status)
            reporter.finish(ending, summary)
    code = stop.exit_code if status == "stopped" else 0
    if code:
        display.notify(f"stopped at step {trainer.state.step}; run the same command again to continue")
    return RunResult(config.name, config.directory, status, code, summary)
