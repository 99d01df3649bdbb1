"""How often the intervals of compute-equivalents hold the true budget, on made-up curves; nothing is trained.

Losses of a power law with a floor and noise of seeds go through the code of the tables: runs as records, rows,
`inquire` and its answer. The noise of a seed is its own at every budget, or in part that of the seed at all budgets and
variants.

    python benchmarks/equivalent_rates.py --out benchmarks/results/equivalent_rates.json
"""

import math
from typing import Any

import numpy as np
from _rates import Cells, options_of

from vgpt.compare.audit.conditions import Audit
from vgpt.compare.equivalents import FACTORS, BudgetRow, Equivalents, inquire
from vgpt.compare.rows import Row, make_row
from vgpt.tracking.record import WindowLosses
from vgpt.tracking.run_info import RunInfo

EQUAL = Audit((), {}, (), {})
CURVES = {"demo": (2.30, 1.49, 0.55), "long training": (1.69, 0.70, 0.28)}
"""Floor, height above it at the common budget, and exponent: a steep start, and late training."""
SD = {"demo": 0.01, "long training": 0.003}
"""Spread of a run's loss by its own luck, nats."""
SHARED = 3.0
"""Spread of what a seed does to all its runs alike, in those, where the noise is shared."""


def run_of(attn: str, seed: int) -> RunInfo:
    """Return a finished run without anything but its seed."""
    tags = {"vgpt.attn": attn, "vgpt.seed": str(seed)}
    return RunInfo(f"{attn}-{seed}", f"{attn}-{seed}", "vgpt", "finished", 0, {}, {}, tags)


def rows_of(names: list[str], seeds: int, first: int = 0) -> list[Row]:
    """Return a row of each name, whose losses are put in later."""
    return [make_row([run_of(name, first + s) for s in range(seeds)]) for name in names]


def put(row: Row, losses: np.ndarray) -> None:
    """Give the runs of a row their losses."""
    for run, loss in zip(row.runs, losses.tolist(), strict=True):
        run.metrics["val/loss"] = loss


class Study:
    """Rows of the baseline's budgets and of variants, drawn again and again.

    Args:
        curve: of `CURVES`.
        truths: what each variant is worth.
        seeds: runs of each row.
        shared: whether a seed shifts all its runs alike.
        apart: whether variants have other seeds than the baseline.
        text: variance of a difference by the text of the evaluation over that by the seeds.
    """

    def __init__(
        self, curve: str, truths: tuple[float, ...], seeds: int, *, shared: bool, apart: bool = False, text: float = 0.0
    ) -> None:
        self.curve, self.truths, self.seeds, self.shared, self.apart, self.text = (
            curve,
            truths,
            seeds,
            shared,
            apart,
            text,
        )
        budgets = rows_of([f"b{factor}" for factor in FACTORS], seeds)
        self.budgets = [BudgetRow(factor, row) for factor, row in zip(FACTORS, budgets, strict=True)]
        self.variants = rows_of([f"v{i}" for i in range(len(truths))], seeds, 1000 if apart else 0)
        self.rows = [next(row for factor, row in zip(FACTORS, budgets, strict=True) if factor == 1), *self.variants]

    def loss(self, budget: float) -> float:
        """Return the true mean loss."""
        floor, height, exponent = CURVES[self.curve]
        return floor + height * budget**-exponent

    def draw(self, generator: np.random.Generator) -> Equivalents:
        """Return what the tables would say of one study."""
        sd = SD[self.curve]
        table: dict[str, WindowLosses] = {}
        shifts = [generator.normal(0, SHARED * sd * self.shared, self.seeds) for _ in range(2)]
        rows = [(one.factor, one.row, 0) for one in self.budgets if one.row is not None]
        rows += [(truth, row, int(self.apart)) for truth, row in zip(self.truths, self.variants, strict=True)]
        effects = {id(row): generator.normal(0, 1.0, 40) for _, row, _ in rows[len(self.budgets) :]}
        common = generator.normal(0, 1.0, 40)  # of the baseline, at all its budgets
        for truth, row, side in rows:
            losses = self.loss(truth) + shifts[side] + generator.normal(0, sd, self.seeds)
            if self.text:
                scale = sd * math.sqrt(self.text * 40 / self.seeds)
                by_window = scale * np.repeat(effects.get(id(row), common), 3)
                losses = losses + by_window.mean()
                for run, loss in zip(row.runs, losses, strict=True):
                    own = by_window - by_window.mean() + generator.normal(0, 0.3 * sd, 120)
                    table[run.run_id] = WindowLosses(1, "120x8:a", tuple((loss + own).tolist()), (), _DOCUMENTS)
            put(row, losses)
        windows = (lambda run: table[run.run_id]) if self.text else None
        question = inquire("tokens", self.rows, EQUAL, self.budgets, windows=windows, force=True)
        return question.answer(len(question.members))

    def rates(self, number: int, start: int = 1) -> dict[str, Any]:
        """Return how often all intervals hold the truth, how often there is none, and bias and width."""
        generator, covered, told, unbounded = np.random.default_rng(start), 0, 0, 0
        errors: list[float] = []
        widths: list[float] = []
        bent = 0
        for _ in range(number):
            found = self.draw(generator)
            if any(one.ratio is None for one in found.rows):
                continue
            told += 1
            bent += found.bend_p is not None and found.bend_p < 0.05
            covered += all(_holds(one.low, one.high, t) for one, t in zip(found.rows, self.truths, strict=True))
            unbounded += any(None in (one.low, one.high) for one in found.rows)
            errors += [math.log((one.ratio or t) / t) for one, t in zip(found.rows, self.truths, strict=True)]
            widths += [math.log(one.high / one.low) for one in found.rows if one.low and one.high]
        return {
            "curve": self.curve,
            "worth": list(self.truths),
            "seeds": self.seeds,
            "noise": "shared by a seed's runs" if self.shared else "of each run alone",
            "other_seeds": self.apart,
            "text_over_seeds": self.text,
            "joint_coverage": covered / told if told else None,
            "told": told / number,
            "unbounded": unbounded / number,
            "bias": math.expm1(float(np.mean(errors))) if errors else None,
            "sd": float(np.std(errors)) if errors else None,
            "median_width": float(np.median(widths)) if widths else None,
            "bend_shown": bent / told if told else None,
        }


_DOCUMENTS = tuple(np.repeat(np.arange(40), 3).tolist())


def _holds(low: float | None, high: float | None, truth: float) -> bool:
    return (low is None or low <= truth) and (high is None or high >= truth)


def main() -> None:
    """Simulate every cell and print or write the rates."""
    options, cells = options_of(__doc__, studies=(2_000, "per cell")), Cells()

    def add(study: Study) -> None:
        cells.add(study.rates(options.studies, start=len(cells.list)))

    for curve in CURVES:
        for seeds in (3, 5):
            for shared in (False, True):
                for truth in (0.9, 1.17):
                    add(Study(curve, (truth,), seeds, shared=shared))
    for seeds in (3, 5):
        add(Study("demo", (0.9,), seeds, shared=False, apart=True))
        add(Study("demo", (0.9, 1.1, 1.17), seeds, shared=True))
        add(Study("demo", (0.9,), seeds, shared=True, text=1.0))
    what = "joint coverage of the 95% intervals of compute-equivalents, through the code of the tables"
    cells.write(options.out, what, studies_per_cell=options.studies)


if __name__ == "__main__":
    main()
