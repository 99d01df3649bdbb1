"""How often the trend and the predictions of a ladder cover the truth, and how wide they are.

Made-up losses go through the code that makes the tables: rows of recorded runs -> `row_statistics` -> one family over
all rungs -> `climb`. Nothing is trained. The truth is a line over the logarithm of compute, with deviations of rungs
from it whose standard deviation is given in standard errors of a difference. What is foretold is the next rung as it is
measured, with deviation and noise of its own.

    python benchmarks/ladder_rates.py --out benchmarks/results/ladder_rates.json
"""

import math

import numpy as np
from _rates import Cells, options_of
from verdict_rates import EQUAL, SD, rows_of

from vgpt.compare.ladder import Rung, RungDifference, VariantLadder, climb, rung_difference
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import RowStatistics, in_family, members, row_statistics

VARIANTS = 3
SLOPE = 0.01
"""True change of each variant's difference per tenfold compute, nats per token."""
GROWTH = 6.0
"""Compute of a rung over that of the one before."""


def rung(number: int) -> Rung:
    """Return a rung with 6 N D = 6e11 * GROWTH^number."""
    return Rung(f"r{number}", round(1e6 * GROWTH**number), 100_000)


def statistics_of(rows: list[Row], losses: np.ndarray) -> tuple[RowStatistics, ...]:
    """Return what the tables would say of these losses, (rows, seeds)."""
    for row, own in zip(rows, losses.tolist(), strict=True):
        for run, loss in zip(row.runs, own, strict=True):
            run.metrics["val/loss"] = loss
    return row_statistics(rows, EQUAL)


def ladder(
    generator: np.random.Generator, rows: list[Row], rungs: int, deviation: float, *, fall: float = 1.0, bend: float = 0
) -> list[tuple[VariantLadder, float]]:
    """Return each variant over made-up rungs, and what the next rung came to.

    Args:
        generator: of all noise.
        rows: the baseline and the variants.
        rungs: on record, beside the next one.
        deviation: standard deviation of a rung from the line, in standard errors of a difference.
        fall: noise of a rung's runs over that of the rung before.
        bend: curvature of the truth, in standard errors of a difference from the first rung to the last.
    """
    seeds = len(rows[0].runs)
    error = SD * math.sqrt(2 / seeds)
    found: list[tuple[RowStatistics, ...]] = []
    for number in range(rungs + 1):
        away = number / max(1, rungs - 1)
        effect = SLOPE * rung(number).x + bend * error * away**2 + generator.normal(0, deviation * error, VARIANTS)
        shared = 2.3 + generator.normal(0, 3 * SD, seeds)
        losses = shared + generator.normal(0, SD * fall**number, (VARIANTS + 1, seeds))
        losses[1:] += effect[:, None]
        found.append(statistics_of(rows, losses))
    total = sum(map(members, found[:-1]))
    judged = [in_family(one, total) for one in found[:-1]]
    told: list[tuple[VariantLadder, float]] = []
    for variant in range(1, VARIANTS + 1):
        differences = [rung_difference(rung(n), one[variant].difference) for n, one in enumerate(judged)]
        last: RungDifference = rung_difference(rung(rungs), found[-1][variant].difference)
        assert last.delta is not None
        told.append((climb(f"v{variant}", differences, rung(rungs)), last.delta))
    return told


def cell(number: int, rungs: int, seeds: int, deviation: float, **truth: float) -> dict[str, float]:
    """Return coverage and widths over `number` ladders."""
    rows, generator = rows_of(VARIANTS, seeds), np.random.default_rng(rungs * 100 + seeds)
    slopes, nexts, left_out, slope_widths, next_widths = [], [], [], [], []
    for _ in range(number):
        for one, came in ladder(generator, rows, rungs, deviation, **truth):
            assert one.trend is not None
            assert one.next is not None
            slopes.append(abs(one.trend.slope - SLOPE) <= one.trend.slope_half_width)
            nexts.append(one.next.low <= came <= one.next.high)
            left_out += [made.inside for made in one.predictions]
            slope_widths.append(one.trend.slope_half_width)
            next_widths.append(one.next.width / 2)
    error = SD * math.sqrt(2 / seeds)
    found = {
        "slope_coverage": float(np.mean(slopes)),
        "prediction_coverage": float(np.mean(nexts)),
        "slope_median_half_width": float(np.median(slope_widths)),
        "prediction_median_half_width_in_errors": float(np.median(next_widths)) / error,
    }
    if truth.get("bend"):
        del found["slope_coverage"]  # of a curve
    return found | ({"left_out_coverage": float(np.mean(left_out))} if left_out else {})


def main() -> None:
    """Simulate every cell and print or write the rates."""
    options, cells = options_of(__doc__, ladders=(600, "per cell, of three variants each")), Cells()
    wanted = [
        {"rungs": rungs, "seeds": seeds, "deviation": deviation}
        for seeds in (3, 5)
        for rungs in (2, 3, 4, 6)
        for deviation in (0.0, 1.0, 3.0)
    ]
    wanted += [{"rungs": rungs, "seeds": 3, "deviation": d, "fall": 0.5} for rungs in (3, 4) for d in (0.0, 1.0)]
    wanted += [{"rungs": rungs, "seeds": 3, "deviation": 0.0, "bend": 6.0} for rungs in (2, 3, 4)]
    for one in wanted:
        cells.add({**one, **cell(options.ladders, **one)})
    what = "coverage of 95% intervals of a ladder's trend and of its predictions, through the code of the tables"
    cells.write(options.out, what, ladders_per_cell=options.ladders, variants=VARIANTS)


if __name__ == "__main__":
    main()
