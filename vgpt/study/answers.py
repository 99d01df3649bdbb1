"""A study answered from the runs on record, and from those that it trains: what `vgpt compare` does before it shows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vgpt.compare.comparison import Comparison, as_one_family
from vgpt.compare.request import PlannedRun, Request
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.errors import DivergedError, TrackingError, VgptError
from vgpt.study.equivalents import with_equivalents
from vgpt.study.estimate import ThroughputEstimate
from vgpt.study.keeping import Keeper
from vgpt.study.ladders.answers import note_predictions
from vgpt.study.ladders.predictions import FILE as PREDICTIONS
from vgpt.study.plan import Plan, distinct, make_plan
from vgpt.study.sequential import (
    SeedPlan,
    follow,
    in_plans,
    looks_ahead,
    plan_of,
    read_plans,
    refuse_another,
    rule_of,
    study_at,
    without_lost,
    write_plan,
)
from vgpt.study.staircase import climbs_as_one_family
from vgpt.study.study import Answered, Study
from vgpt.study.train_missing import Failure, train_missing
from vgpt.tracking.histories import HistoryReader
from vgpt.tracking.report_runs import gather_under_study
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.store import merge_runs, read_local_runs, read_runs

Notify = Callable[[str], None]


class StudyAnswers:
    """The answers to a study, as far as its runs are there.

    Attributes:
        study: what was asked.
        answers: one per part of the study.
        plan: the runs that are missing, and how long they take.
        failures: runs that were tried and failed.

    Args:
        study: what is asked.
        windows: finds the losses of a run per window; one reader for tables and figures, for each run's may have to
            come from a server.
        notify: takes one line for people.
        warn: takes one remark that they should see.

    Raises:
        TrackingError: the store cannot be read.
        UsageError: the study is not the one that was sealed.
    """

    def __init__(self, study: Study, windows: Windows, notify: Notify, warn: Notify) -> None:
        self.study, self.failures = study, list[Failure]()
        self._windows, self._notify, self._warn = windows, notify, warn
        self._rule, self._seed_plan = rule_of(study), None
        runs = recorded_runs(study.first, warn)
        self.keeper = Keeper(study, runs, notify, warn)
        self._throughput = ThroughputEstimate(runs)
        self._answer(runs)

    def train_missing(self) -> None:
        """Train what is missing, and answer anew; a sweep of learning rates trains twice: it chooses, then reports.

        A plan of seeds trains once for each look, and is written down before.

        Raises:
            TrainingInterrupted: it was stopped from outside; what was trained is saved.
            TrackingError: the plan of seeds cannot be written.
        """
        for number in range(len(self.answers)) if self.study.ladder else (None,):
            self._note_predictions()
            self._train_part(number)
        self._note_predictions()

    def _train_part(self, number: int | None) -> None:
        """Train what one rung of a ladder lacks, or all that is missing; see `train_missing`."""
        options, runs_dir = self.study.first.settings.compare, self.study.first.settings.run.runs_dir
        stages = 2 if options.sweep_lr else self._rule.looks if self._rule else 1
        if self._seed_plan is not None and self.plan.missing:
            write_plan(runs_dir, self._seed_plan, read_plans(runs_dir))
        while (missing := self._missing_of(number)) and stages and not self.failures:
            self._notify(
                self.plan.sentence() + (f"; now {self.answers[number].part.title}" if number is not None else "")
            )
            self.failures = train_missing(missing, self._notify, throughput=self._throughput)
            if options.sweep_lr:  # a rate that is too high is an answer, and no failure
                self.failures = [failure for failure in self.failures if failure.code != DivergedError.exit_code]
            self._answer(recorded_runs(self.study.first, self._warn))
            if self._rule:  # a row that lost a seed gets no more of them: the others go on
                wanted = {run.config.settings_hash for run in self.plan.missing}
                self.failures = [one for one in self.failures if one.planned.config.settings_hash in wanted]
            stages -= 1
            self._gather()

    def look(self) -> list[Answered]:
        """Return the answers to be shown, with what is to be said of the study's plan; it counts as a look.

        Raises:
            VgptError: the look cannot be written down.
        """
        self.answers = self.keeper.look(self.answers, self._runs)
        return self.answers

    def _missing_of(self, number: int | None) -> tuple[PlannedRun, ...]:
        """Return what one part lacks, or all of them."""
        return self.plan.missing if number is None else distinct(self.answers[number].comparison.missing)

    def _note_predictions(self) -> None:
        """Write down what to expect of a ladder's next rung; a journal that refuses it is a note, and no failure."""
        try:
            number = note_predictions(self.study, self.answers)
        except OSError as error:
            self._warn(f"predictions of the next rung are not recorded: {error.strerror or error}")
            return
        if number:
            self._notify(f"{number} predictions of the next rung are recorded in {self._predictions}")
            self._gather()

    @property
    def _predictions(self) -> Path:
        """The journal of what ladders have foretold."""
        return self.study.first.settings.run.runs_dir / PREDICTIONS

    @property
    def missing(self) -> tuple[PlannedRun, ...]:
        """The runs that are wanted and not there, each once."""
        return distinct(wanted for answer in self.answers for wanted in answer.comparison.missing)

    def conclude(self) -> None:
        """End with an error where runs failed, or where there is nothing to show.

        Raises:
            VgptError: which, and what to do.
        """
        request, missing = self.study.first, self.missing
        if self.failures:
            names = ", ".join(f"{failure.planned.label} (exit code {failure.code})" for failure in self.failures)
            raise VgptError(
                f"{len(self.failures)} of the missing runs failed: {names}", "Their errors stand above the tables."
            )
        if request.settings.compare.run_missing and missing:
            names = ", ".join(wanted.label for wanted in missing)
            remedy = "Its log in --runs-dir says how it ended."
            raise VgptError(f"trained, yet not on record under these conditions: {names}", remedy)
        if any(answer.comparison.rows for answer in self.answers) or request.settings.compare.seal:
            return
        what = ", ".join(term.text for term in request.selectors) or "any variant"
        where = " under these conditions" if request.fixed else ""
        remedy = "vgpt compare mha gqa mqa --run-missing --preset demo trains three."
        if missing:
            remedy = "The commands above train what is missing; the same command with --run-missing runs them."
        raise VgptError(f"no finished run of {what}{where} in experiment {request.settings.run.experiment!r}", remedy)

    def _answer(self, runs: Sequence[RunInfo]) -> None:
        self._runs = runs

        def answer(study: Study) -> list[Answered]:
            return answer_study(study, runs, self._windows, self._warn, self._seed_plan)

        rule = self._rule
        if rule is not None and self._seed_plan is None:
            at_the_limit = answer(study_at(self.study, rule.most))
            self._seed_plan = plan_of(self.study, rule, at_the_limit)
            made = read_plans(self.study.first.settings.run.runs_dir)
            refuse_another(self._seed_plan, made, [one.comparison for one in at_the_limit])
        self.answers: list[Answered] = answer(self.study) if rule is None else follow(self.study, rule, answer)
        self.plan: Plan = make_plan([answer.comparison for answer in self.answers], self._throughput)
        if rule is not None:
            last = [without_lost(one).comparison for one in answer(study_at(self.study, rule.most))]
            most = make_plan(last, self._throughput) if self.plan.missing else self.plan
            self.plan = replace(self.plan, looks=looks_ahead(self.study, self.answers, rule, most))

    def _gather(self) -> None:
        """Put the runs of a study under its name in MLflow; what MLflow refuses is a note, and no failure."""
        study, run = self.study, self.study.first.settings.run
        if not study.name or run.tracker != "mlflow":
            return
        runs = [one for answer in self.answers for one in answer.comparison.recorded]
        try:
            foretold = study.ladder is not None and self._predictions.is_file()
            files = {PREDICTIONS: self._predictions.read_bytes()} if foretold else {}
            gather_under_study(
                study.name, experiment=run.experiment, runs=runs, files=files, tracking_uri=run.tracking_uri
            )
        except TrackingError as error:
            self._warn(f"the runs are not gathered under {study.name!r} in MLflow: {error.message}")


def answer_study(
    study: Study, runs: Sequence[RunInfo], windows: Windows, warn: Notify, plan: SeedPlan | None = None
) -> list[Answered]:
    """Return the answer to each part of a study from these runs; intervals and verdicts hold jointly over all.

    Of runs that a plan of seeds gathered, they hold at all its looks too, whoever asks.

    Args:
        study: what is asked.
        runs: all runs on record.
        windows: finds the losses of a run per window.
        warn: takes one remark that people should see.
        plan: the plan of seeds that the study itself makes, which may not be written yet.

    Raises:
        TrackingError: a plan beside the runs cannot be read.
    """
    plans = [*read_plans(study.first.settings.run.runs_dir), *([plan] if plan else [])]
    histories = histories_of(study.first, details=True)
    try:
        found: list[Comparison] = as_one_family([part.answer(runs, windows, histories) for part in study.parts])
        found = with_equivalents(study.parts, found, runs, windows)
    finally:
        if histories.failure:
            warn(f"losses along the way are missing: {histories.failure}")
    told = climbs_as_one_family(in_plans(found, plans))
    return [Answered(part, one) for part, one in zip(study.parts, told, strict=True)]


def histories_of(request: Request, *, details: bool = False) -> HistoryReader:
    """Return what finds the loss curves of the runs that a request is about."""
    run = request.settings.run
    return HistoryReader(mlflow=run.tracker == "mlflow", tracking_uri=run.tracking_uri, details=details)


def recorded_runs(request: Request, warn: Notify) -> list[RunInfo]:
    """Return all runs on record: those of MLflow, and those of the journals, which are never behind.

    Raises:
        TrackingError: the store cannot be read; the hint says how to do without.
    """
    run = request.settings.run
    local = read_local_runs(run.runs_dir, experiment=run.experiment, notify=warn)
    if run.tracker == "journal":
        return local
    try:
        stored = read_runs(experiment=run.experiment, tracking_uri=run.tracking_uri)
    except TrackingError as error:
        journals = f"`--tracker journal` compares what the journals in {run.runs_dir} hold, without MLflow."
        raise TrackingError(error.message, f"{error.hint}\n{journals}".strip()) from error
    return merge_runs(local, stored)
