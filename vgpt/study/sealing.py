"""Plans that are fixed before looking: what a study will train and how it will be judged, sealed into a file.

The file lies in `RUNS/plans/`, under the study's name, and is never overwritten. What is compared with it later is made
in the same way from the study as it then is: file, variants with their settings, seeds, rule of judging, code, data.
The hash is a check-sum over the plan and no signature; published beforehand, it binds.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from vgpt.attention.plugin_record import plugin_record
from vgpt.compare.request import PlannedRun, Request, planned_runs
from vgpt.compare.sealed import SealedPlan
from vgpt.compare.statistics.sequential import MOST_SEEDS
from vgpt.errors import UsageError, VgptError
from vgpt.files.digests import digest_if_there, json_digest
from vgpt.files.text import table_of
from vgpt.files.writing import flush
from vgpt.package import VERSION
from vgpt.settings.compare import ComparisonSettings
from vgpt.settings.fields import format_value
from vgpt.study.study import Study, StudyPart
from vgpt.tracking.schema import Metric
from vgpt.training.records.source_code import source_digest

FOLDER = "plans"
FORMAT, FORMAT_VERSION = "vgpt-plan", 1
EXCLUSIONS = "none: every finished run counts; a row that lost a seed by divergence has no verdict"
"""What is left out of a comparison, which is no setting."""
_OF_SHOWING = {
    *("run_missing", "bench", "plan", "study", "sort", "power", "kv_at", "columns"),
    *("seal", "exploratory", "require"),
}
"""Settings of a comparison that say what is shown or done, and nothing of how it is judged."""
_JUDGES = ("compare", "study", "tracking")
"""Rooms whose code finds runs, stops adding seeds, and makes verdicts of losses."""
_LARGEST_PLAN = 32 * 2**20


def sealed_plan(study: Study) -> SealedPlan | None:
    """Return the plan that a study was sealed with; None where it was not, or where the study has no name.

    Whether the study is still what was sealed says `changes`.

    Raises:
        UsageError: the file of the plan is damaged, or was edited.
    """
    return read_plan(plan_path(study)) if study.name else None


def plan_path(study: Study) -> Path:
    """Return where the plan of a study lies."""
    return study.first.settings.run.runs_dir / FOLDER / f"{study.name}.json"


def changes(study: Study, plan: SealedPlan) -> tuple[str, ...]:
    """Return what of a study is not as it was sealed, one sentence each."""
    now = fixed(study)
    # What holds for the whole study before what each run has: a long list is cut.
    names = sorted(dict.fromkeys([*plan.fixed, *now]), key=lambda name: ": " in name)
    return tuple(
        f"{name}: {plan.fixed.get(name, 'absent')} when sealed, {now.get(name, 'absent')} now"
        for name in names
        if plan.fixed.get(name) != now.get(name)
    )


def fixed(study: Study) -> dict[str, str]:
    """Return what a plan of the study fixes, flat."""
    from vgpt.training.records.same_run import data_digest  # imports torch

    first = study.first.settings
    found = {
        "study": study.name,
        "experiment": first.run.experiment,
        "metric": str(Metric.VAL_LOSS),
        "exclusions": EXCLUSIONS,
        "vgpt": VERSION,
        "source": source_digest(),
        "source of verdicts": source_digest(_JUDGES),
    }
    if first.compare.study is not None:
        found["file"] = digest_if_there(first.compare.study)[:16]
    for name in ComparisonSettings.model_fields:
        if name not in _OF_SHOWING:
            found[f"compare.{name}"] = format_value(getattr(first.compare, name))
    for part in study.parts:
        if part.staircase is not None:
            stairs = " -> ".join(stair.label for stair in part.staircase.stairs)
            found[", ".join(filter(None, [part.title, "staircase"]))] = stairs
    for place, runs in planned(study):
        config = runs[0].config
        found[f"{place}: seeds"] = ", ".join(str(run.seed) for run in runs)
        table = config.identity()
        del table["train"]["seed"]
        table["train"]["data"] = data_digest(config.train.data) or f"not prepared: {config.train.data}"
        found |= {f"{place}: {name}": value for name, value in _flat(table)}
        for one in plugin_record(config.model.attn, config.model.n_layer):
            found[f"plug-in of {one['kind']}"] = one["sha256"]
    return found


def planned(study: Study) -> list[tuple[str, list[PlannedRun]]]:
    """Return every run of a study by variant and part: (`mha`, runs by seed), (`lr = 0.001, mha`, ...)."""
    found: list[tuple[str, list[PlannedRun]]] = []
    for part in study.parts:
        for title, request in _requests(part):
            seeds = allowed_seeds(request)
            for selector in request.selectors:
                if selector.kind:
                    runs = planned_runs(request, selector, seeds)
                    found.append((", ".join(filter(None, [part.title, title, runs[0].label])), runs))
    return found


def allowed_seeds(request: Request) -> list[int]:
    """Return the seeds that a request may train: with a stopping rule, all up to its limit."""
    options = request.settings.compare
    count = (options.max_seeds or MOST_SEEDS) if options.seeds == "auto" else options.seeds
    first = request.settings.train.seed
    return [first + number for number in range(count)]


def stopping_rule(request: Request) -> str:
    """Return the rule by which seeds are added; empty where their number is fixed."""
    seeds: Any = request.settings.compare.seeds
    return "" if isinstance(seeds, int) else str(seeds)


def read_plan(path: Path) -> SealedPlan | None:
    """Read a plan; None where there is none.

    Raises:
        UsageError: it is damaged, or is not what was sealed.
    """
    try:
        if path.stat().st_size > _LARGEST_PLAN:
            raise ValueError("too large")
        table = table_of(json.loads(path.read_bytes()))
        plan = _plan_of(table)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"the sealed plan {path} cannot be read: {error}", _MOVE) from error
    if plan.hash != _hash(table):
        raise UsageError(f"the sealed plan {path} was changed: its hash is not that of its content", _MOVE)
    return plan


_MOVE = "Bring the file back as it was; a study of another name may be sealed anew."


def _plan_of(table: Mapping[str, Any]) -> SealedPlan:
    if table["format"] != FORMAT or table["version"] != FORMAT_VERSION:
        raise ValueError("it is no plan of this version")
    runs = {str(name): (str(label), int(seed)) for name, (label, seed) in table_of(table["runs"]).items()}
    return SealedPlan(
        hash=str(table["hash"]),
        study=str(table["study"]),
        made=int(table["made"]),
        fixed={str(name): str(value) for name, value in table_of(table["fixed"]).items()},
        seeds=tuple(map(int, table["seeds"])),
        rule=str(table["rule"]),
        runs=runs,
        existed=tuple(map(str, table["existed"])),
        begun=tuple(map(str, table["begun"])),
        looked=int(table["looked"]),
        windows=tuple(map(str, table["windows"])),
    )


def _hash(table: Mapping[str, Any]) -> str:
    return json_digest({name: value for name, value in table.items() if name != "hash"})


def _requests(part: StudyPart) -> list[tuple[str, Request]]:
    if not part.rates:
        return [
            ("", part.request),
            *((f"budget x{one:g}", request) for one, request in part.budgets.items() if one != 1),
        ]
    tuning = [(f"tuning at lr {rate:g}", request) for rate, request in part.tuning.items()]
    return [*tuning, *((f"lr {rate:g}", request) for rate, request in part.rates.items())]


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            found += _flat(cast("Mapping[str, Any]", value), f"{before}{name}.")
        else:
            found.append((f"{before}{name}", format_value(value)))
    return found


def seal(study: Study, *, existed: Iterable[str], begun: Iterable[str], looked: int, made: int) -> SealedPlan:
    """Seal a study: write its plan, which must not be there yet. Its data is read, and the demo prepared for it.

    Args:
        study: what was asked for, from a file, under conditions that it fixes.
        existed: ids of its runs that have finished or diverged already.
        begun: ids of those that have begun, and have no result.
        looked: how often their metric was looked at.
        made: the time, milliseconds since 1970.

    Raises:
        UsageError: the study has no file, or fixes no conditions; it is sealed already.
        DataError: its data is not there, or damaged.
        VgptError: the plan cannot be written.
    """
    check_sealable(study)
    path = plan_path(study)
    runs = [run for _, found in planned(study) for run in found]
    table: dict[str, Any] = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "study": study.name,
        "made": made,
        "windows": _windows(runs),  # first: it prepares data, whose digest is fixed
        "fixed": fixed(study),
        "seeds": allowed_seeds(study.first),
        "rule": stopping_rule(study.first),
        "runs": {run.config.settings_hash: (run.label, run.seed) for run in runs},
        "existed": sorted(existed),
        "begun": sorted(begun),
        "looked": looked,
    }
    table = json.loads(json.dumps({**table, "hash": _hash(table)}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_once(path, (json.dumps(table, indent=1, sort_keys=True) + "\n").encode())
    except FileExistsError as error:
        raise UsageError(f"the study {study.name!r} was sealed just now by another process: {path}") from error
    except OSError as error:
        raise VgptError(f"{path} cannot be written: {error.strerror or error}", "Nothing was sealed.") from error
    return _plan_of(table)


def check_sealable(study: Study) -> None:
    """Refuse what cannot be sealed.

    Raises:
        UsageError: there is nothing that could be fixed, or it is sealed already.
    """
    if not study.name:
        raise UsageError("--seal fixes a study, which a file describes", "vgpt compare --study study.toml --seal")
    if not study.first.fixed:
        raise UsageError(
            f"the study {study.name!r} fixes no conditions: its runs would be those that happen to be newest",
            'Name a preset in it, preset = "demo", or settings of the runs below [settings].',
        )
    named = [one.text for part in study.parts for one in part.request.selectors if not one.kind]
    if named:
        raise UsageError(f"the study {study.name!r} names the run {named[0]!r}, which exists", "Name variants alone.")
    if (path := plan_path(study)).exists():
        raise UsageError(
            f"the study {study.name!r} is sealed already: {path}",
            "Leave --seal out to compare under that plan; another plan needs another name.",
        )


def _windows(runs: Iterable[PlannedRun]) -> list[str]:
    """Return the evaluation windows of runs, as each will record them."""
    from vgpt.evaluation.loss import Evaluator  # imports torch
    from vgpt.training.run import load_data

    wanted = dict.fromkeys(
        (run.config.train.data, run.config.model.block_size, run.config.train.eval_windows) for run in runs
    )
    found: dict[str, None] = {}
    for place, size, number in wanted:
        data = load_data(place)
        data.verify()
        found[Evaluator.of(data, size, number).name] = None
    return list(found)


def _write_once(path: Path, content: bytes) -> None:
    """Write a file that is then there whole or not at all, and replaces none.

    Raises:
        FileExistsError: one is there.
        OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        flush(draft)
        os.link(draft, path)  # unlike a rename, it fails where a file is
    finally:
        draft.unlink(missing_ok=True)
    flush(path.parent)
