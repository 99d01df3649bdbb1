"""A comparison as plain data for programs: every number raw, nothing rounded."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vgpt.compare.architecture import cache_bytes_at
from vgpt.compare.audit.budgets import budget_of, confounds
from vgpt.compare.comparison import Comparison
from vgpt.compare.ladder import Ladder
from vgpt.compare.metrics import cache_disagrees, change, stat
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import LossDifference, RowStatistics
from vgpt.compare.statistics.seeds import ALPHA
from vgpt.compare.unfinished import lost_runs
from vgpt.report.breakdowns.data import breakdowns_json
from vgpt.report.curve_tables import snapshot_json
from vgpt.report.equal_effort import sweep_json
from vgpt.report.equivalents import equivalents_json
from vgpt.report.json_schema import SCHEMA
from vgpt.report.ladder_data import ladder_json
from vgpt.report.sealing import unshown_json
from vgpt.report.sequential import sequential_json
from vgpt.report.speed_tables import speed_json, speeds_json
from vgpt.report.staircase import staircase_json
from vgpt.report.study_tables import power_json, signs_json
from vgpt.report.suites.data import suites_json
from vgpt.study.ladders.answers import answer_ladder
from vgpt.study.requirements import Judgment, judgments
from vgpt.study.study import Answered, Study


def study_as_json(study: Study, answers: Sequence[Answered], ladder: Ladder | None = None) -> dict[str, Any]:
    """Return what `vgpt compare --json` prints, in the form of `vgpt.report.json_schema`.

    Args:
        study: what was asked.
        answers: the answers to it.
        ladder: what the rungs of a ladder together say, where that was computed already.
    """
    head, required = {"schema": SCHEMA}, {"requirements": [_requirement(one) for one in judgments(study, answers)]}
    if not study.divided:
        return {**head, **as_json(answers[0].comparison), **required}
    parts = [{"values": dict(one.part.values), **as_json(one.comparison)} for one in answers]
    ladder = ladder or answer_ladder(study, answers)
    rungs = {} if ladder is None else {"ladder": ladder_json(ladder)}
    return {**head, "study": study.name or None, "parts": parts, "signs": signs_json(answers), **rungs, **required}


def _requirement(one: Judgment) -> dict[str, Any]:
    return {
        "text": one.requirement.text,
        "part": one.part,
        "row": one.label or None,
        "relation": one.requirement.relation,
        "nats": one.nats,
        "outcome": one.outcome,
        "reason": one.reason,
    }


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the whole comparison; a value that is no finite number is null.

    `rows[0]` is the baseline. A metric holds `mean` and `sd` over seeds, `n`, and `delta`, the difference to the
    baseline over shared seeds. `statistics` are those of val/loss: intervals, p-values and the verdict, which rest on
    the noise of seeds and of evaluation. `failed` are runs that were tried and gave no loss.
    """
    rows = comparison.rows
    return {
        "baseline": rows[0].label if rows else None,
        "level": 1 - ALPHA,
        "margin": _margin(comparison),
        "kv_at": comparison.kv_at,
        "conditions": {
            "equal": comparison.audit.equal,
            "seeds_equal": len({row.seeds for row in rows}) <= 1,
            "checked": list(comparison.audit.checked),
            "shared": comparison.audit.shared,
            "tuned": list(comparison.audit.tuned),
            "not_recorded": list(comparison.audit.unrecorded),
            "notes": list(comparison.audit.notes),
            "differences": [
                {"aspect": entry.aspect, "name": entry.name, "values": entry.values}
                for entry in comparison.audit.differences
            ],
        },
        "sequential": sequential_json(comparison),
        "forced": comparison.force,
        "match": asdict(comparison.match) if comparison.match else None,
        "milestone": {"axis": point.axis, "amount": point.amount} if (point := comparison.snapshot_point) else None,
        "sweep": sweep_json(comparison.sweep) if comparison.sweep else None,
        "power": power_json(comparison),
        "equivalents": equivalents_json(comparison),
        "speeds": speeds_json(comparison),
        "staircase": staircase_json(comparison),
        "breakdowns": breakdowns_json(comparison),
        "suites": suites_json(comparison),
        "rows": [_row(comparison, row, found) for row, found in zip(rows, comparison.statistics, strict=True)],
        "missing": [{"attention": run.label, "seed": run.seed, "command": run.command} for run in comparison.missing],
        "remarks": list(comparison.remarks),
        "plan": comparison.sealing.as_json() if comparison.sealing else None,
        "not_shown": unshown_json(comparison),
    }


def _row(comparison: Comparison, row: Row, statistics: RowStatistics) -> dict[str, Any]:
    names = sorted({name for run in row.runs for name in run.metrics})
    return {
        "label": row.label,
        "attention": row.attn,
        "settings": row.settings,
        "n": len(row.runs),
        "wanted": row.wanted,
        "failed": [
            {"run_name": run.run_name, "run_id": run.run_id, "seed": run.seed, "status": run.status}
            for run in lost_runs(row)
        ],
        "reasons": _reasons(comparison, row, statistics),
        "unequal_conditions": list(comparison.audit.flagged.get(row.label, ())),
        "confounds": confounds(row, comparison.rows[0]),
        "kv_bytes_at_kv_at": cache_bytes_at(row.runs[0], comparison.kv_at),
        "kv_measured_equals_analytic": not cache_disagrees(row),
        "metrics": {name: _metric(comparison, row, name) for name in names},
        "statistics": _statistics(comparison, statistics),
        "speed": speed_json(row, comparison.rows),
        "budget": _budget(comparison, row),
        "unequal_point": comparison.unequal_points.get(row.label),
        "take_snapshots": [snapshot_json(one) for one in comparison.snapshots.get(row.label, ())] or None,
        "runs": [
            {
                "run_name": run.run_name,
                "run_id": run.run_id,
                "seed": run.seed,
                "start_time": run.start_time,
                "metrics": {name: _finite(value) for name, value in run.metrics.items()},
                "params": run.params,
                "tags": run.tags,
            }
            for run in row.runs
        ],
    }


def _metric(comparison: Comparison, row: Row, name: str) -> dict[str, Any]:
    found = stat(row, name)
    if found is None:
        return {"mean": None, "sd": None, "n": 0, "delta": None}
    return {"mean": found.mean, "sd": found.sd, "n": found.n, "delta": change(row, comparison.rows[0], name)}


def _margin(comparison: Comparison) -> dict[str, Any] | None:
    known = comparison.known_margin
    return {"text": comparison.margin, "nats": known and known.nats} if comparison.margin is not None else None


def _reasons(comparison: Comparison, row: Row, found: RowStatistics) -> list[str]:
    """Return what stands against a verdict, or against trusting it, in words."""
    one = found.difference
    refusal = [one.verdict] if one is not None and one.judged is None else []
    unequal = [f"unequal: {name}" for name in comparison.audit.flagged.get(row.label, ())]
    point = comparison.unequal_points.get(row.label)
    return [*refusal, *filter(None, [found.lost, point]), *unequal]


def _statistics(comparison: Comparison, found: RowStatistics) -> dict[str, Any]:
    """Return the statistics of the validation loss: the interval of its mean, and the difference to the baseline."""
    interval, one = found.interval, found.difference
    return {
        "ci95": [interval.low, interval.high] if interval else None,
        "loss_se": found.loss_se,
        "loss_se_clusters": found.clusters,
        "difference": _difference(one, _margin(comparison)) if one is not None else None,
    }


def _difference(one: LossDifference, margin: dict[str, Any] | None) -> dict[str, Any]:
    test, bounds, judged, said = one.test, one.bounds, one.judged, one.answer
    return {
        "delta": one.delta,
        "ci95": [bounds.low, bounds.high] if bounds else None,
        "ci95_is_joint": judged is not None,
        "loses_at_most": bounds.at_most if bounds else None,
        "loses_at_least": bounds.at_least if bounds else None,
        "method": one.method,
        "n": one.seeds,
        "df": judged.noise.df if judged else test.df if test else None,
        "p_t": test.p if test else None,
        "p_permutation": one.p_permutation,
        "p_adjusted": judged.p if judged else None,
        "family_rows": judged.rows if judged else None,
        "seed_se": math.sqrt(judged.noise.seeds) if judged else None,
        "detectable": judged.detectable if judged else None,
        "margin": margin,
        "verdict": one.verdict,
        "shows": {
            "better": said.better,
            "worse": said.worse,
            "no_worse": said.no_worse,
            "equal_within": said.equal,
            "worse_by_more": said.beyond,
        }
        if said
        else None,
        "decided": said.decided if said else None,
        "evaluation_noise": asdict(one.noise) if one.noise else None,
    }


def _budget(comparison: Comparison, row: Row) -> dict[str, Any] | None:
    """Return the row's budget against that of what was matched, as shares minus 1."""
    found = budget_of(row.runs[0], comparison.match) if comparison.match else None
    return asdict(found) if found else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
