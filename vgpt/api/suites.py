"""A trained model on standard suites: what `vgpt eval --suite` does."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgpt.api.display import facts_html, with_error
from vgpt.data.progress import Progress
from vgpt.settings.commands import EvalConfig

if TYPE_CHECKING:
    import pandas as pd

    from vgpt.evaluation.suites.scoring import Scorer
    from vgpt.tracking.record import RunRecord
    from vgpt.tracking.suites.record import TaskResult
    from vgpt.training.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class SuiteResults:
    """What came of standard suites on a trained model.

    Attributes:
        run: the run, as it was named.
        checkpoint: directory of the checkpoint that was evaluated.
        step: its step.
        dtype: precision of matrix products.
        context: most tokens that the model was given at once.
        tasks: the tasks, then the groups.
        notes: what a command would say beside it: texts that were cut, where the results are kept.
    """

    run: str
    checkpoint: Path
    step: int
    dtype: str
    context: int
    tasks: "tuple[TaskResult, ...]"
    notes: tuple[str, ...]

    def table(self) -> dict[str, Any]:
        """Return it for programs."""
        return {**vars(self), "checkpoint": str(self.checkpoint), "tasks": [one.table() for one in self.tasks]}

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per figure: task, metric, value, standard error over documents."""
        import pandas as pd

        rows = [
            {"task": one.task, "metric": name, "value": figure.value, "se": figure.se, "documents": one.documents}
            for one in self.tasks
            for name, figure in one.figures.items()
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        facts = [
            (f"{one.task}: {name}", with_error(figure.value, figure.se))
            for one in self.tasks
            for name, figure in one.figures.items()
        ]
        return facts_html(f"Suites on {self.run} at step {self.step:,}", facts)


def evaluate_suites(run: str, settings: EvalConfig, progress: Progress) -> SuiteResults:
    """Evaluate a trained model on standard suites, and keep what came of it with the run.

    Args:
        run: name of a run, its directory, or a checkpoint's.
        settings: which suites, and how exactly.
        progress: hears how many requests are answered.

    Raises:
        CheckpointError: no such run, or a damaged one.
        VgptError: lm-evaluation-harness is not installed, or a suite that it does not have, cannot load or refuses.
    """
    from vgpt.attention.kernels.backends import use_backend
    from vgpt.evaluation.suites.harness import require_harness
    from vgpt.evaluation.suites.results import run_suites
    from vgpt.evaluation.suites.scoring import Scorer
    from vgpt.settings.train import SystemSettings
    from vgpt.tracking.journal import now_ms
    from vgpt.training.checkpoints.checkpoint import find_checkpoint
    from vgpt.training.hardware.devices import resolve

    require_harness()
    checkpoint = find_checkpoint(run, runs_dir=settings.runs_dir)
    compute = resolve(SystemSettings(device=settings.device, dtype=settings.dtype, threads=settings.threads))
    model = checkpoint.load_model(compute.device, flash=settings.flash)
    scorer = Scorer(model, checkpoint.tokenizer(), compute.dtype, progress)
    with use_backend(checkpoint.state.attention_backend):
        found = run_suites(settings.suite, scorer, fewshot=settings.fewshot, limit=settings.limit)
    step, made = checkpoint.state.step, now_ms()
    tasks = tuple(replace(one, step=step, dtype=compute.dtype_name, made=made) for one in found)
    notes = (*_met(scorer), *_keep(checkpoint, tasks))
    return SuiteResults(run, checkpoint.directory, step, compute.dtype_name, scorer.context, tasks, notes)


def _met(scorer: "Scorer") -> list[str]:
    """Say what befell requests that the model could not take as they are."""
    from vgpt.evaluation.suites.scoring import CUT, LONG, NO_ROOM, SPLIT

    context = f"{scorer.context:,} tokens, its block_size"
    said = {
        CUT: f"longer than the model's context of {context}: cut from the left",
        LONG: f"with an answer longer than the model's context of {context}: scored window by window",
        SPLIT: "whose answer would merge with the end of its question: both encoded by themselves; "
        'target_delimiter: " " avoids it',
        NO_ROOM: f"for as many new tokens as the model's context of {context}: prompts cut to half of it, which slides",
    }
    return [f"{scorer.met[name]:,} requests {text}" for name, text in said.items() if scorer.met[name]]


def _keep(checkpoint: "Checkpoint", tasks: "tuple[TaskResult, ...]") -> list[str]:
    """Write results into their run's directory and deliver them; return what the user should know.

    Results are no less true for not being recorded: what is in the way is told, and is no failure.
    """
    from vgpt.errors import CheckpointError
    from vgpt.tracking.lock import lock_owner
    from vgpt.tracking.record import read_record
    from vgpt.tracking.suites.record import Owner, save
    from vgpt.training.checkpoints.checkpoint import find_checkpoint

    run_dir = checkpoint.directory.parent.parent
    record = read_record(run_dir)
    if record is None:
        return [f"not recorded: {checkpoint.directory} lies in no run's directory"]
    if lock_owner(run_dir) is not None:
        return [f"not recorded: {run_dir} is being trained; evaluate it again when it has ended"]
    try:
        meant = find_checkpoint(run_dir).directory
        if meant.resolve() != checkpoint.directory.resolve():
            what = f"it is of {checkpoint.directory.name}, and the run stands for its best checkpoint, {meant.name}"
            return [f"not recorded with the run: {what}"]
        path = save(run_dir, Owner.of(record), tasks)
    except CheckpointError as error:
        return [f"not recorded: {error.message}"]
    except OSError as error:
        return [f"not recorded: {run_dir} cannot be written: {error.strerror or error}"]
    return [f"recorded in {path}{_delivered(run_dir, record)}"]


def _delivered(run_dir: Path, record: "RunRecord") -> str:
    """Bring what is new to the store of the run, where it has one; return what to add to the note."""
    from vgpt.errors import TrackingError
    from vgpt.tracking.mirror import sync_run

    if not record.store:
        return ""
    try:
        return f" and in MLflow at {sync_run(run_dir).store}"
    except TrackingError as error:
        return f"; MLflow has it not yet ({error.message}): `vgpt sync {run_dir.name}` delivers"
