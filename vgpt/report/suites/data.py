"""Standard suites of a comparison as plain data for programs."""

import math
from dataclasses import asdict
from typing import Any

from vgpt.compare.comparison import Comparison
from vgpt.compare.suites.collect import RowFigure, RowSuite, SuiteTask


def suites_json(comparison: Comparison) -> dict[str, Any] | None:
    """Return the suites by task; None where no run has any.

    Each row has its `figures`: the mean over its runs, its standard error over documents, and the difference to the
    baseline with a 95% interval of this number alone.
    """
    return {name: _task(one) for name, one in comparison.suites.items()} or None


def _task(one: SuiteTask) -> dict[str, Any]:
    asked = one.asked
    return {
        "kind": asked.kind,
        "version": asked.version,
        "fewshot": asked.fewshot,
        "documents": asked.documents,
        "of": asked.of,
        "digest": asked.digest,
        "higher_is_better": dict(asked.higher_is_better),
        "rows": {label: _row(row) for label, row in one.rows.items()},
    }


def _row(one: RowSuite) -> dict[str, Any]:
    figures = {name: _figure(figure) for name, figure in one.figures.items()}
    return {
        "runs": one.runs,
        "figures": figures,
        "not_recorded": list(one.missing),
        "before_the_last_step": list(one.earlier),
    }


def _figure(figure: RowFigure) -> dict[str, Any]:
    one = figure.difference
    low, high = (None, None) if one is None else (one.low, one.high)
    return {
        "value": figure.value if math.isfinite(figure.value) else None,
        "se": figure.se if math.isfinite(figure.se) else None,
        "difference": None
        if one is None
        else {
            **asdict(one),
            "over": one.over.replace("windows", "documents"),
            "clusters": None,
            "ci95": None if low is None or high is None else [low, high],
        },
    }
