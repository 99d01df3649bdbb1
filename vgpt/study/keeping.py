"""Whether a study keeps to its sealed plan: sealed or refused before anything is shown, and counted when it is."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from vgpt.compare.known import KnownRuns
from vgpt.compare.sealed import SHOWN_DIGITS, SealedPlan, Sealing
from vgpt.errors import TrackingError, UsageError
from vgpt.files.text import table_of
from vgpt.formatting import counted
from vgpt.study.looks import Looks, add_look, came_and_went, looks_path, read_looks
from vgpt.study.sealing import changes, check_sealable, plan_path, planned, read_plan, seal
from vgpt.study.study import Answered, Study
from vgpt.tracking.journal import now_ms
from vgpt.tracking.report_runs import StoredPlan, log_plan, note_looks, stored_plans
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Tag

Notify = Callable[[str], None]
_MOST_NAMED = 12


class Keeper:
    """Holds a study to its plan.

    Args:
        study: what was asked.
        runs: all runs on record.
        notify: takes one line for people.
        warn: takes one remark that they should see.

    Raises:
        UsageError: the study is not what was sealed, and going on was not asked for; or it cannot be sealed.
    """

    def __init__(self, study: Study, runs: Sequence[RunInfo], notify: Notify, warn: Notify) -> None:
        self._study, self._warn = study, warn
        self._path = plan_path(study)
        self._stored: StoredPlan | None = None
        self.plan: SealedPlan | None = None
        self.changes: tuple[str, ...] = ()
        options = study.first.settings.compare
        if options.seal:
            self._seal(runs, notify)
        elif study.name:
            self.plan, self.changes = self._read()
            if self._stored is None and not self.changes:
                self._log(read_looks(looks_path(self._path)), "the plan was not in MLflow yet: logged", notify)
            if self.changes and not options.exploratory:
                raise UsageError(
                    f"the study {study.name!r} is not what was sealed:\n{_listed(self.changes)}",
                    "Bring it back as it was. --exploratory goes on, and every output says that it was changed.",
                )
        if options.exploratory and self.plan is None and not self.changes:
            warn("--exploratory has nothing to go on from: no plan was sealed")

    def look(self, answers: Sequence[Answered], runs: Sequence[RunInfo]) -> list[Answered]:
        """Count the look that showing these answers is, and return them with what a report says of the plan."""
        shown = [run for one in answers for run in one.comparison.recorded]
        if not self._study.name:
            sealing = self._look_in_passing(shown, runs)
        elif not any(one.comparison.rows for one in answers):
            sealing = Sealing(self.plan, self.changes, looks=read_looks(looks_path(self._path)).number)
        else:
            sealing = self._look(shown, runs)
        return [replace(one, comparison=replace(one.comparison, sealing=sealing)) for one in answers]

    def _look(self, shown: Sequence[RunInfo], runs: Sequence[RunInfo]) -> Sealing:
        journal = looks_path(self._path)
        before = read_looks(journal)
        own = belonging(self._study, runs)
        remarks = [*before.faults, *came_and_went(before, runs)]
        if self._stored is not None and int(self._stored.looks.partition(" ")[0] or 0) > before.number:
            remarks.append(
                f"MLflow knows of {self._stored.looks.partition(' ')[0]} looks, the journal of {before.number}"
            )
        after = add_look(journal, own, now_ms())
        remarks += [fault for fault in after.faults if fault not in before.faults]
        self._note(after)
        found = self.changes
        if self.plan is not None:
            found = (*found, *departures(self.plan, shown))
            if self.plan.looked:
                remarks.append(f"looked at {counted(self.plan.looked, 'time')} before it was sealed")
        return Sealing(self.plan, found, tuple(remarks), after.number)

    def _look_in_passing(self, shown: Sequence[RunInfo], runs: Iterable[RunInfo]) -> Sealing:
        """Count a comparison that no study file asked for, where it shows runs of a sealed plan."""
        remarks: list[str] = []
        for path in sorted(self._path.parent.glob("*.json")):
            try:
                plan = read_plan(path)
            except UsageError as error:
                self._warn(error.message)
                continue
            if plan is not None and any(plan.has(run) for run in shown):
                own = [(run, plan.runs[run.settings_hash][0]) for run in runs if plan.has(run)]
                number = add_look(looks_path(path), own, now_ms()).number
                remarks.append(f"shows runs of the sealed study {plan.study!r}: look {number} at it")
        return Sealing(remarks=tuple(remarks))

    def _seal(self, runs: Sequence[RunInfo], notify: Notify) -> None:
        study = self._study
        check_sealable(study)
        if stored := self._plans_in_store():
            raise UsageError(
                f"the study {study.name!r} is sealed already: MLflow holds its plan as run {stored[0].run_id}",
                "Another plan needs another name.",
            )
        own = [one for one, _ in belonging(study, runs)]
        results = [one for one in own if one.status in ("finished", "diverged")]
        others = [one for one in own if one not in results]
        looks = read_looks(looks_path(self._path))
        self.plan = seal(study, existed=map(_id, results), begun=map(_id, others), looked=looks.number, made=now_ms())
        late = f" after {len(results)} of its runs existed" if results else ""
        notify(f"sealed{late}: plan {self.plan.hash[:SHOWN_DIGITS]} in {self._path}")
        self._log(looks, "logged", notify)

    def _log(self, looks: Looks, words: str, notify: Notify) -> None:
        """Put the plan into MLflow, which is told of every look from then on."""
        run, plan = self._study.first.settings.run, self.plan
        if run.tracker != "mlflow" or plan is None:
            return
        try:
            marks = f"{looks.number} {looks.last}"
            name = log_plan(
                self._study.name,
                plan.hash,
                self._path.read_bytes(),
                looks=marks,
                experiment=run.experiment,
                tracking_uri=run.tracking_uri,
            )
            self._stored = StoredPlan(name, plan.hash, marks)
            notify(f"{words} as run {name} of experiment {run.experiment!r}")
        except TrackingError as error:
            self._warn(f"the plan is not in MLflow: {error.message}")

    def _read(self) -> tuple[SealedPlan | None, tuple[str, ...]]:
        """Return the plan, and what is not as it was sealed."""
        exploratory = self._study.first.settings.compare.exploratory
        try:
            plan = read_plan(self._path)
        except UsageError as error:
            if not exploratory:
                raise
            return None, (error.message,)
        stored = self._plans_in_store()
        if plan is None:
            gone = [f"its file {self._path} is gone, and MLflow holds the plan as run {one.run_id}" for one in stored]
            return None, tuple(gone)
        if stored and plan.hash not in [one.hash for one in stored]:
            return plan, (
                f"MLflow holds another plan of it, {stored[0].hash[:SHOWN_DIGITS]}",
                *changes(self._study, plan),
            )
        self._stored = next((one for one in stored if one.hash == plan.hash), None)
        return plan, changes(self._study, plan)

    def _plans_in_store(self) -> list[StoredPlan]:
        run = self._study.first.settings.run
        if run.tracker != "mlflow":
            return []
        try:
            return stored_plans(self._study.name, experiment=run.experiment, tracking_uri=run.tracking_uri)
        except TrackingError as error:
            self._warn(f"whether MLflow holds a plan is not known: {error.message}")
            return []

    def _note(self, looks: Looks) -> None:
        if self._stored is None:
            return
        try:
            marks = f"{looks.number} {looks.last}"
            note_looks(self._stored.run_id, marks, tracking_uri=self._study.first.settings.run.tracking_uri)
        except TrackingError as error:
            self._warn(f"MLflow was not told of this look: {error.message}")


def belonging(study: Study, runs: Iterable[RunInfo]) -> list[tuple[RunInfo, str]]:
    """Return the runs on record that a study would train, of any state, each with the name of its variant."""
    known = KnownRuns(runs)
    found: dict[str, tuple[RunInfo, str]] = {}
    for _, wanted in planned(study):
        for one in wanted:
            found |= {_id(run): (run, one.label) for run in known.find_all(one.config)}
    return list(found.values())


def departures(plan: SealedPlan, shown: Iterable[RunInfo]) -> list[str]:
    """Say which shown runs were not made as the plan says: before it, by other code, from other data."""
    said: dict[str, list[str]] = {}
    places = {value for name, value in plan.fixed.items() if name.endswith(": train.data")}
    for run in shown:
        who = f"{run.attention_label} seed {run.seed}"
        told = {
            "vgpt": (run.tags.get(Tag.VERSION, ""), {plan.fixed.get("vgpt", "")}),
            "source": (run.tags.get(Tag.SOURCE, ""), {plan.fixed.get("source", "")}),
            "data": (run.tags.get(Tag.DATA_DIGEST, ""), places),
            "evaluation windows": (run.tags.get(Tag.EVAL_WINDOWS, ""), set(plan.windows)),
        }
        for kind, digest in _plugins(run).items():
            told[f"plug-in of {kind}"] = (str(digest), {plan.fixed.get(f"plug-in of {kind}", "")})
        for name, (value, sealed) in told.items():
            if value not in sealed:
                was = " or ".join(sorted(sealed)) or "none"
                said.setdefault(f"{name}: {was} when sealed, {value or 'not recorded'} in", []).append(who)
        if run.start_time < plan.made and _id(run) not in (*plan.existed, *plan.begun):
            said.setdefault("its clock says that it began before the plan, and it was not there then:", []).append(who)
        if not plan.has(run) and not plan.allows([run.seed]):
            said.setdefault("a seed that the plan does not have:", []).append(who)
    return [f"{words} {', '.join(who)}" for words, who in said.items()]


def _plugins(run: RunInfo) -> dict[str, object]:
    try:
        return dict(table_of(json.loads(run.tags.get(Tag.PLUGINS, "{}"))))
    except ValueError:
        return {}


def _id(run: RunInfo) -> str:
    return run.id or run.run_id or run.run_name


def _listed(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
    return "\n".join([*lines[:_MOST_NAMED], *more])
