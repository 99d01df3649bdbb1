"""The breakdowns of a comparison as plain data for programs."""

import math
from dataclasses import asdict
from typing import Any

from vgpt.compare.breakdowns.collect import KindBreakdown, RowBreakdown, RowPart
from vgpt.compare.comparison import Comparison


def breakdowns_json(comparison: Comparison) -> dict[str, Any] | None:
    """Return the breakdowns by kind; None where no run has any.

    Each row has its `parts`: loss in nats per token, its standard error over windows, the share of the tokens, and the
    difference to the baseline with a 95% interval of this number alone.
    """
    found = {kind: _kind(one) for kind, one in comparison.breakdowns.items()}
    return found or None


def _kind(one: KindBreakdown) -> dict[str, Any]:
    return {
        "windows": one.windows,
        "text": one.text,
        "trained_on": one.block_size or None,
        "dtypes": list(one.dtypes),
        "rows": {label: _row(row) for label, row in one.rows.items()},
    }


def _row(one: RowBreakdown) -> dict[str, Any]:
    return {
        "runs": one.runs,
        "parts": [_part(part) for part in one.parts],
        "share_of_gap": None if one.gap is None else {"share": one.gap.share, "half_width": one.gap.half_width},
        "bits_per_byte": one.bits_per_byte if math.isfinite(one.bits_per_byte) else None,
        "not_recorded": list(one.missing),
        "before_the_last_step": list(one.earlier),
    }


def _part(part: RowPart) -> dict[str, Any]:
    table = {name: value for name, value in asdict(part).items() if name not in ("difference", "lowest", "highest")}
    one = part.difference
    table["loss_se"] = part.loss_se if math.isfinite(part.loss_se) else None
    return table | {"difference": None if one is None else {**asdict(one), "ci95": _interval(one.low, one.high)}}


def _interval(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]
