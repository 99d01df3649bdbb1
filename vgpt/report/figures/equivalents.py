"""The baseline's loss over its budget, with each variant's loss and where the two cross."""

from typing import Any

import numpy as np

from vgpt.compare.comparison import Comparison
from vgpt.compare.metrics import LOSS, stat
from vgpt.compare.statistics.crossing import BudgetCurve
from vgpt.report.equivalents import budget_points, equivalent_lines
from vgpt.report.figures.style import GRAY, Figure, add_legend, line_styles, new_figure


def draw_equivalents(comparison: Comparison) -> Figure | None:
    """Draw the curve through the baseline's budgets; None where it was not asked for, or two budgets are missing."""
    found = comparison.equivalents
    points = budget_points(found) if found is not None else []
    if found is None or len(points) < 3:
        return None
    title = "Baseline's loss over its training budget, and what variants are worth"
    figure, (panel,) = new_figure(title, 1)
    styles = line_styles(comparison.rows)
    baseline = styles[comparison.rows[0].label]
    factors, losses = (np.array([point[i] for point in points]) for i in (0, 1))
    spread = [sd or 0.0 for *_, sd in points]
    handles: dict[str, Any] = {}
    handles[baseline.name] = panel.errorbar(
        factors, losses, spread, color=baseline.color, marker=baseline.marker, markersize=4, linestyle="none", capsize=2
    )
    _draw_fit(panel, factors, losses, baseline.color)
    for row in comparison.rows[1:]:
        loss, one, style = stat(row, LOSS), found.of(row.label), styles[row.label]
        if loss is None or one is None:
            continue
        end = one.ratio if one.ratio is not None else factors[-1]
        (handles[style.name],) = panel.plot(
            [factors[0], end], [loss.mean] * 2, color=style.color, linestyle=style.dash, linewidth=1.4
        )
        if one.ratio is None:
            continue
        panel.plot([one.ratio], [loss.mean], color=style.color, marker=style.marker, markersize=5)
        low, high = one.low or factors[0], one.high or factors[-1]
        if one.low is not None or one.high is not None:
            panel.plot([low, high], [loss.mean] * 2, color=style.color, linewidth=4, alpha=0.3)
    panel.axvline(1.0, color=GRAY, linewidth=0.8, linestyle=":")
    panel.set_xscale("log")
    panel.set_xticks(factors, [f"{factor:.3g}x" for factor in factors])
    panel.minorticks_off()
    panel.set_xlabel(f"training tokens of {comparison.rows[0].title}, times those of the comparison", parse_math=False)
    panel.set_ylabel("validation loss (nats per token)")
    add_legend(figure, handles, "bars: sd over seeds; line: a variant's mean loss; wide: 95% interval of the crossing")
    told = equivalent_lines(comparison) or ["no variant's loss could be placed on it with an interval"]
    return Figure("equivalents", title, f"{'; '.join(told)}.", figure)


def _draw_fit(panel: Any, factors: np.ndarray, losses: np.ndarray, color: str) -> None:
    """Draw the curve that mean losses are read from."""
    curve = BudgetCurve(tuple(factors.tolist()), np.log(losses)[None])
    grid = np.linspace(curve.places[0], curve.places[-1], 60)
    panel.plot(np.exp(grid), [float(np.exp(curve.fitted(x)[0])) for x in grid], color=color, linewidth=1.2)
