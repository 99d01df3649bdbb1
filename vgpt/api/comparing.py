"""Variants side by side, as tables that a notebook shows: what `vgpt compare` does."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from vgpt.api.display import DataLine, Line, tables_html, tables_text
from vgpt.api.settings import as_argument, for_users, sources_of, warn
from vgpt.errors import SettingsError, UsageError
from vgpt.settings.compare import CompareConfig

if TYPE_CHECKING:
    import pandas as pd

    from vgpt.compare.comparison import Comparison as Found
    from vgpt.study.study import Answered, Study


@dataclass(frozen=True, repr=False)
class Comparison:
    """Variants side by side: what is lost, what is saved, and whether the conditions were equal.

    Attributes:
        study: what was asked for.
        answers: one comparison, or one for each value of a setting that was given as a list.
        notes: what a command would have said beside the tables.
    """

    study: "Study"
    answers: "tuple[Answered, ...]"
    notes: tuple[str, ...] = ()

    @property
    def comparisons(self) -> "list[Found]":
        """The comparisons themselves: rows, audit, statistics, speeds."""
        return [answer.comparison for answer in self.answers]

    @property
    def equal(self) -> bool:
        """Whether all conditions are equal, as far as they were recorded: without that there is no verdict."""
        return all(one.audit.equal for one in self.comparisons)

    def to_pandas(self, columns: Sequence[str] = ()) -> "pd.DataFrame":
        """Return one row per variant, with raw numbers: losses in nats per token, sizes in bytes.

        Args:
            columns: names as `vgpt compare --columns` takes them; those of `--csv` by default.

        Raises:
            UsageError: an unknown column.
        """
        import pandas as pd

        from vgpt.report.formats import study_as_csv

        parts = [(answer.part.values, answer.comparison) for answer in self.answers if answer.comparison.rows]
        if not parts:
            return pd.DataFrame()
        return pd.read_csv(io.StringIO(study_as_csv(parts, columns))).set_index([*parts[0][0], "attention"])

    def save_html(self, path: str | Path) -> Path:
        """Write the report of `vgpt compare --html`, with figures, and return where it lies.

        Raises:
            VgptError: it cannot be written.
        """
        from vgpt.report.html.page import save_html

        place = Path(path)
        save_html(self._page(), place)
        return place

    def __str__(self) -> str:
        return tables_text(self._parts())

    __repr__ = __str__

    def _parts(self) -> list[RenderableType]:
        from vgpt.report.study_report import StudyReport
        from vgpt.report.tables import tables

        found: list[RenderableType] = []
        for answer in self.answers:
            if answer.part.title:
                found.append(Text(answer.part.title, style="bold"))
            found += tables(answer.comparison)
        return [*found, *StudyReport(self.study, self.answers).together.tables]

    def _page(self) -> str:
        from vgpt.report.study_report import StudyReport
        from vgpt.study.answers import histories_of

        report = StudyReport(self.study, self.answers)
        return report.page(report.sections(histories_of(self.study.first), _windows(self.study)))

    def _repr_html_(self) -> str:
        return tables_html(self._parts())


@for_users
def compare(*selectors: str, preset: str | Path | None = None, quiet: bool = False, **settings: Any) -> Comparison:
    """Lay variants side by side: `vgpt compare`.

    With a preset or any setting of the runs, the runs of exactly those settings are compared; without, the newest
    ones. `run_missing=True` trains those that are not there, each in a process of its own.

    Args:
        selectors: variants ("gqa", "gqa:n_kv_head=4") or names of runs, the baseline first; none = all with runs.
        preset: settings from a preset: a packaged one by name, or a TOML file by path.
        quiet: show no progress.
        settings: what the flags of `vgpt compare` are called: `seeds=3`, `match="params"`, `pos=["learned", "rope"]`.

    Raises:
        SettingsError: unknown or wrong settings.
        TrackingError: the store of runs cannot be read.
        VgptError: there is nothing to compare, or a missing run failed.
        KeyboardInterrupt: training was interrupted; what was trained is saved.
    """
    from vgpt.api.breakdowns import attach_breakdowns
    from vgpt.api.speeds import attach_speeds, measure_speeds
    from vgpt.api.suites import attach_suites
    from vgpt.report.columns import check_columns
    from vgpt.study.answers import StudyAnswers
    from vgpt.study.study import make_study
    from vgpt.study.train_missing import TrainingInterrupted

    if settings.get("plan"):
        raise UsageError("plan says what would be trained, which the command prints", "vgpt compare ... --plan")
    try:
        study = make_study(list(map(str, selectors)), sources_of(CompareConfig, settings, preset=preset))
    except SettingsError as error:
        raise as_argument(error) from error
    options, line, notes = study.first.settings.compare, Line(quiet=quiet), list[str]()
    check_columns(options.columns)

    def notify(text: str) -> None:
        notes.append(text)
        line.show(text, now=True)

    found = StudyAnswers(study, _windows(study), notify, warn)
    try:
        if options.run_missing:
            found.train_missing()
            if options.bench and not found.failures:
                measure_speeds(found.answers, notify, warn, DataLine(quiet=quiet))
    except TrainingInterrupted as stop:
        raise KeyboardInterrupt("what was trained is saved; the same call continues it") from stop
    finally:
        line.end()
    found.conclude()
    answers = attach_suites(attach_breakdowns(attach_speeds(found.look())))
    notes += [remark for answer in answers for remark in answer.comparison.remarks]
    notes += [f"missing: {one.title} with seed {one.seed}; this trains it: {one.command}" for one in found.missing]
    return Comparison(study, tuple(answers), tuple(notes))


def _windows(study: "Study") -> Any:
    """Return what finds the losses of a run per window."""
    from vgpt.tracking.histories import WindowReader

    run = study.first.settings.run
    return WindowReader(mlflow=run.tracker == "mlflow", tracking_uri=run.tracking_uri)
