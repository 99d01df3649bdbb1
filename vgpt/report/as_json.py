"""A comparison as plain data for programs: every number raw, nothing rounded."""

import math
from typing import Any

from vgpt.report.architecture import cache_bytes_at, confounds_of
from vgpt.report.comparison import Comparison
from vgpt.report.grouping import Row, seed_of
from vgpt.report.numbers import cache_disagrees, change, stat


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the whole comparison; a value that is no finite number is null.

    `rows[0]` is the baseline. A metric holds `mean` and `sd` over seeds, `n`, and `delta`, the difference of means to
    the baseline.
    """
    rows = comparison.rows
    return {
        "baseline": rows[0].label if rows else None,
        "kv_at": comparison.kv_at,
        "conditions": {
            "equal": comparison.audit.equal,
            "checked": list(comparison.audit.checked),
            "shared": comparison.audit.shared,
            "differences": [
                {"aspect": entry.aspect, "name": entry.name, "values": entry.values}
                for entry in comparison.audit.differences
            ],
        },
        "rows": [_row(comparison, row) for row in rows],
        "missing": [{"attention": run.label, "seed": run.seed, "command": run.command} for run in comparison.missing],
        "remarks": list(comparison.remarks),
    }


def _row(comparison: Comparison, row: Row) -> dict[str, Any]:
    names = sorted({name for run in row.runs for name in run.metrics})
    return {
        "label": row.label,
        "attention": row.attn,
        "settings": row.settings,
        "n": len(row.runs),
        "wanted": row.wanted,
        "unequal_conditions": list(comparison.audit.flagged.get(row.label, ())),
        "confounds": confounds_of(row),
        "kv_bytes_at_kv_at": cache_bytes_at(row.runs[0], comparison.kv_at),
        "kv_measured_equals_analytic": not cache_disagrees(row),
        "metrics": {name: _metric(comparison, row, name) for name in names},
        "runs": [
            {
                "run_name": run.run_name,
                "run_id": run.run_id,
                "seed": seed_of(run),
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
