"""How often what `vgpt compare --margin` says is false, and how often intervals and one-sided bounds cover the truth.

Made-up losses go through the code that makes the tables, as in `verdict_rates.py`. A cell has one truth: no difference;
a difference of the margin in every variant; or, of several variants, differences of plus and minus the margin and zero
in turn, where every kind of claim can be false.

    python benchmarks/margin_rates.py --out benchmarks/results/margin_rates.json
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from _rates import Cells, options_of
from verdict_rates import NOISES, comparisons, judged, on_drawn_texts, rows_of

from vgpt.compare.statistics.differences import LossDifference

MARGIN = 0.02
"""Nats: twice the spread of a run by its own luck."""
TRUTHS = {
    "no difference": (0.0,),
    "the margin": (MARGIN,),
    "plus and minus the margin, and none": (MARGIN, -MARGIN, 0.0),
}


def is_false(one: LossDifference, truth: float) -> bool:
    """Return whether anything that is said of a difference is not so."""
    said = one.answer
    assert said is not None
    return bool(
        (said.better and truth >= 0)
        or (said.worse and truth <= 0)
        or (said.no_worse and truth >= MARGIN)
        or (said.equal and abs(truth) >= MARGIN)
        or (said.beyond and truth < MARGIN)
    )


def rates(drawn: Iterable[tuple[np.ndarray, Any]], rows: list[Any], truth: tuple[float, ...]) -> dict[str, float]:
    """Return rates of comparisons: each counts what is so of any row, or covered in all rows.

    Args:
        drawn: losses without any difference, (variants + 1, seeds), and what finds them per window.
        rows: the baseline and the variants.
        truth: differences, repeated over the variants.
    """
    true = np.resize(np.array(truth), len(rows) - 1)
    counts: dict[str, int] = dict.fromkeys(
        ("false", "better_or_worse", "no_worse", "equal", "interval_covers", "upper_covers", "lower_covers"), 0
    )
    number = 0
    for losses, windows in drawn:
        found = judged(rows, losses + np.array([0.0, *true])[:, None], windows, margin=str(MARGIN))
        told = [(one, one.bounds, one.answer, t) for one, t in zip(found, true.tolist(), strict=True)]
        number += 1
        counts["false"] += any(is_false(one, t) for one, _, _, t in told)
        counts["better_or_worse"] += any(said and (said.better or said.worse) for _, _, said, _ in told)
        counts["no_worse"] += any(said and said.no_worse for _, _, said, _ in told)
        counts["equal"] += any(said and said.equal for _, _, said, _ in told)
        counts["interval_covers"] += all(b and b.low <= t <= b.high for _, b, _, t in told)
        counts["upper_covers"] += all(b and t <= b.at_most for _, b, _, t in told)
        counts["lower_covers"] += all(b and t >= b.at_least for _, b, _, t in told)
    return {name: count / number for name, count in counts.items()}


def plain(losses: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, None]]:
    """Yield losses without losses per window."""
    for one in losses:
        yield one, None


def main() -> None:
    """Simulate every cell and print or write the rates."""
    options, cells = options_of(__doc__, nulls=(4_000, "comparisons per cell")), Cells()
    for variants in (1, 6):
        truths = {name: truth for name, truth in TRUTHS.items() if len(truth) <= variants}
        for seeds in (3, 5, 8):
            rows = rows_of(variants, seeds)
            for name, truth in truths.items():
                shape = {"variants": variants, "seeds": seeds, "truth": name}
                for noise in ("normal", "t3"):
                    drawn = plain(comparisons(NOISES[noise], variants, seeds, options.nulls, 6))
                    cells.add({**shape, "noise": noise, "text_over_seeds": 0.0, **rates(drawn, rows, truth)})
                for ratio in (0.1, 1.0):
                    drawn = on_drawn_texts(rows, seeds, options.nulls // 2, ratio)
                    found = rates(drawn, rows, truth)
                    cells.add({**shape, "noise": "normal", "text_over_seeds": ratio, **found})
    what = "rates of false claims against a margin, coverage of intervals and bounds, by the code of the tables"
    number = {"seeds alone": options.nulls, "with evaluation noise": options.nulls // 2}
    cells.write(options.out, what, margin=MARGIN, comparisons_per_cell=number)


if __name__ == "__main__":
    main()
