"""What variants can do, by small models that learn tasks: what `vgpt probe` does."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgpt.api.display import DataLine, tables_html, tables_text
from vgpt.api.settings import as_argument, for_users, sources_of, warn
from vgpt.data.progress import Progress
from vgpt.errors import SettingsError, TrackingError, UsageError
from vgpt.settings.probe import ProbeConfig, small_sizes

if TYPE_CHECKING:
    import pandas as pd

    from vgpt.evaluation.tasks.base import Task
    from vgpt.probe.card import Card
    from vgpt.probe.plan import ProbePlan

Tell = Callable[[str], None]


@dataclass(frozen=True, repr=False)
class ProbeCard:
    """What variants can do: for each task the accuracy of each variant on its test.

    Attributes:
        card: everything: recipes, rates, seeds, controls, verdicts.
        notes: what a command would have said beside it: trainings that failed, where it was logged.
    """

    card: "Card"
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per task, variant and place of the test: accuracy over seeds, state of a sequence in bytes."""
        import pandas as pd

        rows = [
            {
                "task": task.task,
                "attention": row.label,
                "control": row.control,
                "verdict": row.verdict,
                "lr": row.lr,
                "place": place,
                "tokens": tokens,
                "accuracy": point.mean,
                "lowest": point.low,
                "highest": point.high,
                "state_bytes": point.state_bytes,
            }
            for task in self.card.tasks
            for row in task.rows
            for place, tokens, point in zip(task.points, task.lengths, row.points, strict=False)
        ]
        return pd.DataFrame(rows)

    def save_html(self, path: str | Path) -> Path:
        """Write the page of `vgpt probe --html`, and return where it lies.

        Raises:
            VgptError: it cannot be written.
        """
        from vgpt.report.html.page import save_html
        from vgpt.report.probe_card import card_page

        place = Path(path)
        save_html(card_page(self.card), place)
        return place

    def __str__(self) -> str:
        from vgpt.report.probe_card import card_tables

        return tables_text(card_tables(self.card))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from vgpt.report.probe_card import card_tables

        return tables_html(card_tables(self.card))


@for_users
def probe(*variants: str, quiet: bool = False, **settings: Any) -> ProbeCard:
    """Measure what variants can do, by small models of each that learn tasks with equal effort: `vgpt probe`.

    What is on record in `probe_dir` is not trained again: interrupted, the same call goes on.

    Args:
        variants: what `--attn` takes: "gqa", "gqa:n_kv_head=2", "local+mha".
        quiet: show no progress.
        settings: what the flags of `vgpt probe` are called: `tasks=["mqar", "parity"]`, `seeds=3`, `lrs=[1e-3, 3e-3]`.

    Raises:
        SettingsError: unknown or wrong settings, or variants that do not fit the models of a task.
        UsageError: no variant is named, a name is none, or something is named twice.
        VgptError: `probe_dir` cannot be written.
        KeyboardInterrupt: it was interrupted; finished trainings are kept.
    """
    from vgpt.compare.selectors import settings_of_each

    if not variants:
        raise UsageError("no variant is named", 'vgpt.probe("mha", "linear")')
    sources = replace(sources_of(ProbeConfig, settings), preset=small_sizes())
    try:
        loaded = settings_of_each(ProbeConfig, variants, sources)
    except SettingsError as error:
        raise as_argument(error) from error
    for note in dict.fromkeys(note for one in loaded.values() for note in one.notes):
        warn(note)
    configs = {label: one.settings for label, one in loaded.items()}
    config = next(iter(configs.values()))
    notes: list[str] = []
    plan = train_plan(plan_of(configs), config, DataLine(quiet=quiet), notes.append)
    card = card_of(plan)
    log_card(card, plan, config, notes.append, notes.append)
    return ProbeCard(card, tuple(notes))


def plan_of(configs: Mapping[str, ProbeConfig]) -> "ProbePlan":
    """Return what a probe trains, and what of it is on record.

    Args:
        configs: the settings of each variant by its label; they differ in nothing but the variant.

    Raises:
        SettingsError: a task is unknown, its settings are wrong, or variants do not fit its models.
        UsageError: a task is named twice.
    """
    from vgpt.probe.plan import make_plan

    config = next(iter(configs.values()))
    return make_plan(_tasks(config.probe.tasks), configs)


def _tasks(names: Sequence[str]) -> "list[Task]":
    from vgpt.evaluation.tasks.registry import resolve_task, split_tasks, task_label

    found = [resolve_task(text) for text in split_tasks(",".join(names))]
    labels = [task_label(task) for task in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError(f"--tasks names {twice} twice", "Name each task once.")
    return found


def train_plan(plan: "ProbePlan", config: ProbeConfig, progress: Progress, tell: Tell) -> "ProbePlan":
    """Train what is missing; return the plan with all that is on record then.

    Args:
        plan: what is trained.
        config: how many at a time, and where results are kept.
        progress: hears of optimizer steps.
        tell: hears of each training that failed, and why.

    Raises:
        VgptError: the directory cannot be written.
        KeyboardInterrupt: after the processes have ended.
    """
    from vgpt.probe.plan import with_records
    from vgpt.probe.run import jobs_for, run_trials

    missing, directory = plan.missing, config.run.probe_dir
    for failure in run_trials(missing, directory, jobs_for(config.probe.jobs, len(missing)), progress):
        trial = failure.trial
        tell(f"{trial.recipe.task}, {trial.label}, rate {trial.lr:g}, seed {trial.seed}: {failure.reason}")
    return with_records(plan, directory)


def card_of(plan: "ProbePlan") -> "Card":
    """Return the card of what is on record now."""
    from importlib.metadata import version

    from vgpt.package import VERSION
    from vgpt.probe.card import make_card

    return make_card(plan, facts={"vgpt": VERSION, "torch": version("torch")}, made=time.time())


def log_card(card: "Card", plan: "ProbePlan", config: ProbeConfig, notify: Tell, warn: Tell) -> None:
    """Bring everything to MLflow, where it is not there yet; what MLflow refuses is a remark, and no failure."""
    from vgpt.probe.logged import is_logged, log_probe
    from vgpt.report.probe_card import card_files

    records, directory = config.run, config.run.probe_dir
    if records.tracker == "journal" or not plan.outcomes:
        return
    store = {"experiment": records.experiment, "tracking_uri": records.tracking_uri}
    try:
        if not is_logged(plan, directory, **store):
            name = f"probe {' '.join(card.labels)}"[:200]
            run_id = log_probe(plan, directory, name=name, files=card_files(card), **store)
            notify(f"logged as run {run_id} of experiment {records.experiment!r}")
    except TrackingError as error:
        warn(f"the results were not logged: {error.message}")
