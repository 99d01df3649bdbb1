"""How a report says whether a plan was sealed beforehand, and what of the study is on record and not shown."""

import math
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from vgpt.compare.comparison import Comparison
from vgpt.compare.sealed import Sealing
from vgpt.compare.unfinished import lost_runs
from vgpt.formatting import counted
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Metric


def sealing_lines(comparison: Comparison) -> list[Text]:
    """Return the line on the plan, and one per change and remark; nothing where nobody asked for a plan."""
    if comparison.sealing is None:
        return []
    first, *others = sealing_sentences(comparison.sealing)
    style = "green" if comparison.sealing.kept else "bold yellow" if comparison.sealing.changes else "dim"
    return [Text(first, style), *(Text(f"  {line}", "yellow") for line in others)]


def sealing_sentences(sealing: Sealing) -> list[str]:
    """Return the same as texts."""
    looks = "" if sealing.looks is None else f"; looked at {counted(sealing.looks, 'time')}"
    sentence = f"{sealing.sentence}{looks}"
    changes = [f"changed: {one}" for one in sealing.changes]
    return [f"{sentence[0].upper()}{sentence[1:]}", *changes, *(f"plan: {one}" for one in sealing.remarks)]


def unshown_json(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the runs of the same conditions that stand in no row, and the diverged ones of each, as plain data."""
    return [_told(run) for run in _unshown(comparison)]


def unshown_lines(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return head and lines of the table of the same."""
    head = ["attention", "seed", "run", "became", "val loss"]
    found = [_told(run) for run in _unshown(comparison)]
    return head, [[one["attention"], one["seed"], one["run_name"], one["status"], _text(one["loss"])] for one in found]


def _unshown(comparison: Comparison) -> Sequence[RunInfo]:
    lost = [run for row in comparison.rows for run in lost_runs(row)]
    return [*lost, *comparison.audit.unshown]


def _told(run: RunInfo) -> dict[str, Any]:
    loss = run.metrics.get(Metric.VAL_LOSS, math.nan)
    return {
        "attention": run.attention_label,
        "seed": run.seed,
        "run_name": run.run_name,
        "run_id": run.run_id,
        "status": run.status,
        "loss": loss if math.isfinite(loss) else None,
    }


def _text(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"
