"""A trained model on standard suites: what `vgpt eval --suite` does."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgpt.api.display import facts_html, with_error
from vgpt.data.progress import Progress
from vgpt.settings.commands import EvalConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from vgpt.evaluation.suites.scoring import Scorer
    from vgpt.study.study import Answered
    from vgpt.tracking.suites.record import TaskResult


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


def attach_suites(answers: "Sequence[Answered]") -> "list[Answered]":
    """Return answers with what came of suites on their runs; what is damaged is a remark."""
    from vgpt.compare.suites.collect import collect_suites
    from vgpt.tracking.suites.reader import SuiteReader

    found: list[Answered] = []
    for answer in answers:
        run = answer.part.request.settings.run
        read = SuiteReader(mlflow=run.tracker == "mlflow", tracking_uri=run.tracking_uri)
        comparison = answer.comparison
        suites = collect_suites(comparison.rows, read) if comparison.rows else {}
        remarks = (*comparison.remarks, *dict.fromkeys(read.problems))
        found.append(replace(answer, comparison=replace(comparison, suites=suites, remarks=remarks)))
    return found


def run_suites(run: str, settings: EvalConfig, progress: Progress) -> SuiteResults:
    """Evaluate a trained model on standard suites, and keep what came of it with the run.

    Args:
        run: name of a run, its directory, or a checkpoint's.
        settings: which suites, and how exactly.
        progress: hears how many requests are answered.

    Raises:
        CheckpointError: no such run, or a damaged one.
        VgptError: lm-evaluation-harness is not installed, or a suite that it does not have, cannot load or refuses.
    """
    from vgpt.api.recording import keep_by
    from vgpt.attention.kernels.backends import use_backend
    from vgpt.evaluation.suites.harness import require_harness
    from vgpt.evaluation.suites.results import results_of
    from vgpt.evaluation.suites.scoring import Scorer
    from vgpt.settings.train import SystemSettings
    from vgpt.tracking.journal import now_ms
    from vgpt.tracking.suites.record import save
    from vgpt.training.checkpoints.checkpoint import find_checkpoint
    from vgpt.training.hardware.devices import resolve

    require_harness()
    checkpoint = find_checkpoint(run, runs_dir=settings.runs_dir)
    compute = resolve(SystemSettings(device=settings.device, dtype=settings.dtype, threads=settings.threads))
    model = checkpoint.load_model(compute.device, flash=settings.flash)
    scorer = Scorer(model, checkpoint.tokenizer(), compute.dtype, progress)
    with use_backend(checkpoint.state.attention_backend):
        found = results_of(settings.suite, scorer, fewshot=settings.fewshot, limit=settings.limit)
    step, made = checkpoint.state.step, now_ms()
    tasks = tuple(replace(one, step=step, dtype=compute.dtype_name, made=made) for one in found)
    kept = keep_by(checkpoint, lambda run_dir, owner: save(run_dir, owner, tasks)) if settings.record else []
    notes = (*_met(scorer), *kept)
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
