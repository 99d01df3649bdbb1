"""How often plans that add seeds until all is decided end with a false claim, and how many seeds they take.

Made-up losses go through the code that makes the tables, once per look: rows of recorded runs -> `row_statistics` ->
`at_look`. The plan ends at the first look at which all rows are decided. Nothing is trained.

    python benchmarks/sequential_rates.py --out benchmarks/results/sequential_rates.json
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from _rates import Cells, options_of
from verdict_rates import EQUAL, NOISES, SD, rows_of

from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import LEAST_SEEDS, RowStatistics, row_statistics
from vgpt.compare.statistics.seeds import ALPHA
from vgpt.compare.statistics.sequential import SeedRule, at_look, levels_of, smallest_p, spent

PAIR_SD = SD * math.sqrt(2)
"""Standard deviation of a difference within a pair; true differences and margins are in units of it."""


@dataclass(frozen=True)
class Ended:
    """How a plan ended: seeds, statistics of the look, and whether an interval missed the truth at any look of it."""

    seeds: int
    statistics: tuple[RowStatistics, ...]
    missed: bool


def follow_plan(
    losses: np.ndarray, rule: SeedRule, truth: Sequence[float], margin: str | None, *, to_the_end: bool = False
) -> Ended:
    """Add seeds until all rows are decided; with `to_the_end`, to the limit, as the worst of all rules would."""
    missed, found, seeds = False, (), LEAST_SEEDS
    for seeds in range(LEAST_SEEDS, rule.most + 1):
        rows = [_with(row, own[:seeds]) for row, own in zip(rows_of(len(losses) - 1, seeds), losses, strict=True)]
        labels = {row.label for row in rows[1:]}
        found = at_look(row_statistics(rows, EQUAL, margin=margin), rule, len(labels), labels)
        ones = [one.difference for one in found[1:] if one.difference is not None]
        missed |= any(abs(one.delta - true) > (one.half_width or 0) for one, true in zip(ones, truth, strict=True))
        if not to_the_end and all(one.answer is not None and one.answer.decided for one in ones):
            break
    return Ended(seeds, found, missed)


def _with(row: Row, losses: np.ndarray) -> Row:
    runs = [replace(run, metrics={"val/loss": float(loss)}) for run, loss in zip(row.runs, losses, strict=True)]
    return replace(row, runs=tuple(runs))


def false_claims(found: Sequence[RowStatistics], truth: Sequence[float], nats: float | None) -> bool:
    """Return whether anything is claimed of a row that is not so; a difference of the margin counts as beyond it."""
    for one, true in zip(found[1:], truth, strict=True):
        said = one.difference and one.difference.answer
        if not said:
            continue
        if (said.better and true >= 0) or (said.worse and true <= 0):
            return True
        if nats is not None and (
            (said.no_worse and true >= nats) or (said.equal and abs(true) >= nats) or (said.beyond and true < nats)
        ):
            return True
    return False


def cell(
    noise: str, truth: Sequence[float], margin: float | None, most: int, number: int, **how: bool
) -> dict[str, Any]:
    """Return rates of plans with these true differences, in standard deviations within a pair."""
    generator, rule = np.random.default_rng(1), SeedRule(most, len(truth))
    true = [one * PAIR_SD for one in truth]
    nats = None if margin is None else margin * PAIR_SD
    seeds, wrong, missed, decided = list[int](), 0, 0, 0
    for _ in range(number):
        losses = 2.3 + generator.normal(0, 3 * SD, most) + NOISES[noise](generator, len(truth) + 1, most)
        losses[1:] += np.array(true)[:, None]
        ended = follow_plan(losses, rule, true, None if nats is None else repr(nats), **how)
        seeds.append(ended.seeds)
        missed += ended.missed
        wrong += false_claims(ended.statistics, true, nats)
        answers = [one.difference.answer for one in ended.statistics[1:] if one.difference]
        decided += all(one is not None and one.decided for one in answers)
    return {
        "plans": number,
        "noise": noise,
        "true_differences": list(truth),
        "margin": margin,
        "max_seeds": most,
        **how,
        "wrong": wrong / number,
        "missed_at_any_look": missed / number,
        "decided": decided / number,
        "mean_seeds": float(np.mean(seeds)),
    }


def by_confidence_sequence(most: int, prior: float) -> np.ndarray:
    """Return the level of each look of a t-confidence sequence: Gaussian mixture of effects, `prior` its precision.

    Source: Wang and Ramdas 2023, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown
    variance": the ratio sqrt(c / (n + c)) ((n - 1 + t^2) / (n - 1 + t^2 c / (n + c)))^(n / 2) reaches 1 / ALPHA.
    """
    from scipy.special import stdtr

    t, found = np.logspace(-1, 4, 200_001), []
    for n in range(LEAST_SEEDS, most + 1):
        log = 0.5 * np.log(prior / (n + prior))
        log = log + n / 2 * np.log((n - 1 + t**2) / (n - 1 + t**2 * prior / (n + prior)))
        at = int(np.searchsorted(log, math.log(1 / ALPHA)))
        found.append(2 * stdtr(n - 1, -t[at]) if at < len(t) else 0.0)
    return np.array(found)


def procedures(most: int, effects: Sequence[float]) -> list[dict[str, Any]]:
    """Return error, and mean seeds and power at several differences, of the ways to spend a level; of one row."""
    from scipy.special import ndtr, ndtri, stdtr

    share = np.arange(LEAST_SEEDS, most + 1) / most
    spendings = {
        "level (n / most)^1.5, as built": spent(ALPHA, most),
        "level (n / most)": ALPHA * share,
        "level (n / most)^2": ALPHA * share**2,
        "level (n / most)^3": ALPHA * share**3,
        "O'Brien-Fleming-like": 2 - 2 * ndtr(-ndtri(ALPHA / 2) / np.sqrt(share)),
        "Pocock-like": ALPHA * np.log(1 + (math.e - 1) * share),
    }
    p = smallest_p(1, most)
    levels = {name: np.array(levels_of(p, spending)) for name, spending in spendings.items()}
    for prior in (0.01, 0.03, 0.1, 0.15):
        levels[f"t-confidence sequence, precision {prior}"] = by_confidence_sequence(most, prior)
    generator, seeds = np.random.default_rng(2), np.arange(LEAST_SEEDS, most + 1)
    noise = generator.standard_normal((40_000, most))
    table: list[dict[str, Any]] = []
    for name, own in levels.items():
        result: dict[str, Any] = {"procedure": name, "levels_of_looks": [round(float(one), 5) for one in own]}
        for effect in effects:
            looks = [noise[:, :n] + effect for n in seeds]
            t = np.stack([x.mean(1) / x.std(1, ddof=1) * math.sqrt(x.shape[1]) for x in looks], axis=1)
            shown = 2 * stdtr(seeds - 1, -np.abs(t)) <= own
            ends = np.where(shown.any(1), seeds[shown.argmax(1)], most)
            key = f"at {effect:g} sd"
            result[key] = {"mean_seeds": round(float(ends.mean()), 2), "shown": round(float(shown.any(1).mean()), 4)}
        table.append(result)
    return table


def main() -> None:
    """Simulate every cell and print or write the rates."""
    options, cells = options_of(__doc__, plans=(2_000, "plans per cell")), Cells()
    number = options.plans

    def note(*arguments: Any, **how: bool) -> None:
        cells.add(cell(*arguments, **how))

    for rows in (1, 3):
        for noise in NOISES:
            note(noise, [0.0] * rows, None, 12, number if noise == "normal" else number // 2, to_the_end=True)
        note("normal", [0.0] * rows, None, 14, number, to_the_end=True)  # twelve looks
        note("normal", [0.0] * rows, None, 12, number // 2)
        note("normal", [1.0] * rows, 1.0, 12, number)
    for most in (5, 8):
        note("normal", [0.0], None, most, number)
        note("normal", [1.0], 1.0, most, number)
    for margin in (1.0, 2.0):
        for true in (-1.0, 0.0, 0.5, 1.5, 3.0, 6.0):
            note("normal", [true], margin, 12, number // 4)
    for true in (0.5, 1.0, 2.0, 4.0):
        note("normal", [true], None, 12, number // 4)
    note("normal", [0.0, 0.0, 3.0], 2.0, 12, number // 4)
    cells.write(
        options.out,
        "plans that add seeds from 3 on until all rows are decided: false claims, and seeds that they take",
        units="standard deviations of a difference within a pair",
        procedures=procedures(12, (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)),
    )


if __name__ == "__main__":
    main()
