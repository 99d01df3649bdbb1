"""A comparison as plain data for programs: every number raw, nothing rounded."""

import math
from dataclasses import asdict
from typing import Any

from vgpt.compare.architecture import cache_bytes_at
from vgpt.compare.audit.budgets import budget_of, confounds
from vgpt.compare.comparison import Comparison
from vgpt.compare.metrics import cache_disagrees, change, stat
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import RowStatistics
from vgpt.compare.unfinished import lost_runs
from vgpt.report.curve_tables import snapshot_json
from vgpt.report.equal_effort import sweep_json
from vgpt.report.sealing import unshown_json
from vgpt.report.speed_tables import speed_json, speeds_json
from vgpt.report.staircase import staircase_json
from vgpt.report.study_tables import power_json


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the whole comparison; a value that is no finite number is null.

    `rows[0]` is the baseline. A metric holds `mean` and `sd` over seeds, `n`, and `delta`, the difference to the
    baseline over shared seeds. `statistics` are those of val/loss: intervals, p-values and the verdict, which rest on
    the noise of seeds and of evaluation. `failed` are runs that were tried and gave no loss.
    """
    rows = comparison.rows
    return {
        "baseline": rows[0].label if rows else None,
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
        "forced": comparison.force,
        "match": asdict(comparison.match) if comparison.match else None,
        "milestone": {"axis": point.axis, "amount": point.amount} if (point := comparison.snapshot_point) else None,
        "sweep": sweep_json(comparison.sweep) if comparison.sweep else None,
        "power": power_json(comparison),
        "speeds": speeds_json(comparison),
        "staircase": staircase_json(comparison),
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
        "unequal_conditions": list(comparison.audit.flagged.get(row.label, ())),
        "confounds": confounds(row, comparison.rows[0]),
        "kv_bytes_at_kv_at": cache_bytes_at(row.runs[0], comparison.kv_at),
        "kv_measured_equals_analytic": not cache_disagrees(row),
        "metrics": {name: _metric(comparison, row, name) for name in names},
        "statistics": _statistics(statistics),
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


def _statistics(found: RowStatistics) -> dict[str, Any]:
    """Return the statistics of the validation loss: the interval of its mean, and the difference to the baseline."""
    interval, one = found.interval, found.difference
    table: dict[str, Any] = {
        "ci95": [interval.low, interval.high] if interval else None,
        "loss_se": found.loss_se,
        "loss_se_clusters": found.clusters,
        "difference": None,
    }
    if one is not None:
        test, half, judged = one.test, one.half_width, one.judged
        table["difference"] = {
            "delta": one.delta,
            "ci95": [one.delta - half, one.delta + half] if half is not None else None,
            "ci95_is_joint": judged is not None,
            "method": one.method,
            "n": one.seeds,
            "df": judged.noise.df if judged else test.df if test else None,
            "p_t": test.p if test else None,
            "p_permutation": one.p_permutation,
            "p_adjusted": judged.p if judged else None,
            "family_rows": judged.rows if judged else None,
            "seed_se": math.sqrt(judged.noise.seeds) if judged else None,
            "detectable": judged.detectable if judged else None,
            "verdict": one.verdict,
            "evaluation_noise": asdict(one.noise) if one.noise else None,
        }
    return table


def _budget(comparison: Comparison, row: Row) -> dict[str, Any] | None:
    """Return the row's budget against that of what was matched, as shares minus 1."""
    found = budget_of(row.runs[0], comparison.match) if comparison.match else None
    return asdict(found) if found else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
