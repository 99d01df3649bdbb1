"""What ladders have foretold: a journal beside the runs, in which nothing is ever changed.

A prediction is written before the rung that it is of is trained, with the date and the runs that it rests on. Once that
rung is on record it is scored, whatever the score.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vgpt.compare.ladder import Ladder, Prediction, VariantLadder
from vgpt.files.text import table_of
from vgpt.tracking.run_info import RunInfo

FILE = "predictions.jsonl"
"""Name of the journal in the directory of all runs."""
SAME_COMPUTE = 0.005
"""Decades by which two amounts of compute may differ and still be those of one rung: 1%."""
VERSION = 1


@dataclass(frozen=True)
class Recorded:
    """A line of the journal.

    Attributes:
        ladder: name of the ladder.
        baseline, variant: the words that were compared.
        conditions: of each rung that the prediction rests on, both variants among them.
        runs: ids of the runs that it rests on.
        prediction: itself, with its date.
    """

    ladder: str
    baseline: str
    variant: str
    conditions: tuple[str, ...]
    runs: tuple[str, ...]
    prediction: Prediction


def record_predictions(
    runs_dir: Path, ladder: Ladder, evidence: Mapping[str, Sequence[RunInfo]], now: float | None = None
) -> list[Recorded]:
    """Write down what is to be expected of the rung ahead, where the same was not written before; return what was new.

    Args:
        runs_dir: directory of all runs.
        ladder: with its predictions.
        evidence: variant -> the runs that its prediction rests on, those of the baseline among them.
        now: seconds since 1970; None for the present.

    Raises:
        OSError: the journal cannot be written.
    """
    known = {(one.variant, one.runs, round(one.prediction.x, 6)) for one in read_predictions(runs_dir)}
    new: list[Recorded] = []
    for variant in ladder.variants:
        if variant.next is None:
            continue
        runs = tuple(sorted(run.id or run.run_id or run.run_name for run in evidence[variant.variant]))
        if (variant.variant, runs, round(variant.next.x, 6)) in known:
            continue
        used = [one.conditions for one in variant.rungs if one.point is not None]
        made = replace(variant.next, made=time.time() if now is None else now)
        new.append(Recorded(ladder.name, ladder.baseline, variant.variant, tuple(used), runs, made))
    if new:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with (runs_dir / FILE).open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(_line(one), sort_keys=True)}\n" for one in new)
            file.flush()
            os.fsync(file.fileno())
    return new


def read_predictions(runs_dir: Path) -> list[Recorded]:
    """Return the journal, oldest first; a line that cannot be read, as the last one after a crash, is passed over."""
    try:
        lines = (runs_dir / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [one for line in lines if (one := _read(line)) is not None]


def dated(ladder: str, baseline: str, variant: VariantLadder, known: Iterable[Recorded]) -> Prediction | None:
    """Return what is expected of the next rung, with the date at which it was first written down, where it was."""
    coming = variant.next
    if coming is None:
        return None
    dates = [
        one.prediction.made
        for one in known
        if (one.ladder, one.baseline, one.variant) == (ladder, baseline, variant.variant)
        and (one.prediction.x, one.prediction.value) == (coming.x, coming.value)
    ]
    return replace(coming, made=dates[0]) if dates else coming


def scored(
    ladder: str, baseline: str, variant: VariantLadder, known: Iterable[Recorded], began: Mapping[str, float]
) -> list[Prediction]:
    """Return the recorded predictions of rungs that have been run since, with what they came to.

    Of each rung the last one counts that was made before the first of its runs began: one made later is none. It must
    rest on rungs of the same conditions, and of the same settings of both variants, as these.

    Args:
        ladder: its name.
        baseline: the word of the baseline.
        variant: with its differences.
        known: the journal.
        began: name of each rung -> when the first of its runs began, seconds since 1970.
    """
    found: list[Prediction] = []
    conditions = {one.conditions for one in variant.rungs}
    own = [
        one
        for one in known
        if (one.ladder, one.baseline, one.variant) == (ladder, baseline, variant.variant)
        and conditions.issuperset(one.conditions)
    ]
    for at in variant.rungs:
        if at.point is None or at.delta is None:
            continue
        before = [
            one.prediction
            for one in own
            if abs(one.prediction.x - at.rung.x) < SAME_COMPUTE
            and one.prediction.made is not None
            and one.prediction.made <= began[at.rung.name]
        ]
        if before:
            last = max(before, key=lambda one: one.made or 0.0)
            found.append(replace(last, rung=at.rung.name, observed=at.delta))
    return found


def _line(one: Recorded) -> dict[str, Any]:
    made = one.prediction
    return {
        "version": VERSION,
        "ladder": one.ladder,
        "baseline": one.baseline,
        "variant": one.variant,
        "conditions": list(one.conditions),
        "runs": list(one.runs),
        "rung": made.rung,
        "log10_compute": made.x,
        "value": made.value,
        "interval95": [made.low, made.high],
        "rests_on": list(made.rests_on),
        "df": made.df,
        "made": made.made,
    }


def _read(line: str) -> Recorded | None:
    try:
        table = table_of(json.loads(line))
        low, high = table["interval95"]
        made = Prediction(
            rung=str(table["rung"]),
            x=float(table["log10_compute"]),
            value=float(table["value"]),
            low=float(low),
            high=float(high),
            rests_on=tuple(map(str, table["rests_on"])),
            df=int(table["df"]),
            made=float(table["made"]),
        )
        ladder, baseline, variant = (str(table[name]) for name in ("ladder", "baseline", "variant"))
        conditions, runs = (tuple(map(str, table[name])) for name in ("conditions", "runs"))
        return Recorded(ladder, baseline, variant, conditions, runs, made)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
