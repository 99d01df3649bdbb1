"""How often verdicts and intervals of `vgpt compare` are wrong, and how often they show what is there.

Made-up losses go through the code that makes the tables: rows of recorded runs -> `row_statistics`, and for tuned
learning rates a study part -> `StudyPart.answer`. Nothing is trained.

    python benchmarks/verdict_rates.py --out benchmarks/results/verdict_rates.json
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from _rates import Cells, options_of

from vgpt.compare.audit.conditions import Audit
from vgpt.compare.rows import Row, make_row
from vgpt.compare.statistics.differences import LossDifference, row_statistics
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.study import StudyPart, make_study
from vgpt.tracking.record import WindowLosses
from vgpt.tracking.run_info import RunInfo

SD = 0.01
"""Spread of a run's loss by its own luck; seeds shift all variants alike by three times as much."""
EQUAL = Audit((), {}, (), {})
SHOWN = ("better", "worse")
Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def normal(generator: np.random.Generator, rows: int, seeds: int) -> np.ndarray:
    """Equal normal noise in all rows, (rows, seeds)."""
    return generator.normal(0, SD, (rows, seeds))


def heavy(generator: np.random.Generator, rows: int, seeds: int) -> np.ndarray:
    """Student's t with 3 degrees of freedom, of the same variance."""
    return generator.standard_t(3, (rows, seeds)) * SD / math.sqrt(3)


def bad_runs(generator: np.random.Generator, rows: int, seeds: int) -> np.ndarray:
    """One run in twenty is worse by ten standard deviations."""
    return normal(generator, rows, seeds) + 10 * SD * (generator.random((rows, seeds)) < 0.05)


def noisy_row(generator: np.random.Generator, rows: int, seeds: int) -> np.ndarray:
    """The runs of one variant are three times as noisy."""
    return normal(generator, rows, seeds) * np.where(np.arange(rows) == rows - 1, 3, 1)[:, None]


def noisy_baseline(generator: np.random.Generator, rows: int, seeds: int) -> np.ndarray:
    """The runs of the baseline are three times as noisy."""
    return normal(generator, rows, seeds) * np.where(np.arange(rows) == 0, 3, 1)[:, None]


NOISES: dict[str, Draw] = {
    "normal": normal,
    "t3": heavy,
    "5% bad runs": bad_runs,
    "one variant 3x noisier": noisy_row,
    "baseline 3x noisier": noisy_baseline,
}


def run_of(attn: str, seed: int, metrics: dict[str, float] | None = None) -> RunInfo:
    """Return a finished run without anything but its seed."""
    tags = {"vgpt.attn": attn, "vgpt.seed": str(seed)}
    return RunInfo(f"{attn}-{seed}", f"{attn}-{seed}", "vgpt", "finished", 0, {}, metrics or {}, tags)


def rows_of(variants: int, seeds: int) -> list[Row]:
    """Return a baseline and variants, whose losses are put in later."""
    return [make_row([run_of(f"v{v}", s) for s in range(seeds)]) for v in range(variants + 1)]


def judged(rows: list[Row], losses: np.ndarray, windows: Any = None, margin: str | None = None) -> list[LossDifference]:
    """Return what the tables would say of these losses, (rows, seeds)."""
    for row, own in zip(rows, losses.tolist(), strict=True):
        for run, loss in zip(row.runs, own, strict=True):
            run.metrics["val/loss"] = loss
    found = [one.difference for one in row_statistics(rows, EQUAL, windows=windows, margin=margin)[1:]]
    return [one for one in found if one is not None]


def comparisons(draw: Draw, variants: int, seeds: int, number: int, start: int) -> Iterator[np.ndarray]:
    """Yield losses without any true difference, (variants + 1, seeds)."""
    generator = np.random.default_rng(start)
    for _ in range(number):
        yield 2.3 + generator.normal(0, 3 * SD, seeds) + draw(generator, variants + 1, seeds)


def errors(draw: Draw, variants: int, seeds: int, number: int) -> dict[str, float]:
    """Return the rate of comparisons with a wrong verdict, of joint coverage, and whether verdicts contradict."""
    rows, wrong, covered, contradictions = rows_of(variants, seeds), 0, 0, 0
    for losses in comparisons(draw, variants, seeds, number, 1):
        found = judged(rows, losses)
        wrong += any(one.verdict in SHOWN for one in found)
        covered += all(abs(one.delta) <= (one.half_width or 0) for one in found)
        for one in found:
            by_p, by_interval = one.judged is not None and one.judged.p < 0.05, abs(one.delta) > (one.half_width or 0)
            contradictions += not (by_p == by_interval == (one.verdict in SHOWN))
    return {"wrong": wrong / number, "joint_coverage": covered / number, "contradictions": contradictions}


def power(draw: Draw, variants: int, seeds: int, number: int, effect: float) -> float:
    """Return how often a difference of `effect` standard deviations of a difference of one pair is shown."""
    rows, shown = rows_of(variants, seeds), 0
    for losses in comparisons(draw, variants, seeds, number, 2):
        losses[1] += effect * SD * math.sqrt(2)
        shown += judged(rows, losses)[0].verdict == "worse"
    return shown / number


def with_evaluation_noise(variants: int, seeds: int, number: int, ratio: float) -> dict[str, float]:
    """Return the same rates where the text of the evaluation is drawn too: 40 documents of 3 windows.

    Args:
        variants: rows beside the baseline.
        seeds: runs of each.
        number: comparisons.
        ratio: variance of a difference by the text over that by the seeds.
    """
    rows, wrong, covered = rows_of(variants, seeds), 0, 0
    for losses, windows in on_drawn_texts(rows, seeds, number, ratio):
        found = judged(rows, losses, windows)
        wrong += any(one.verdict in SHOWN for one in found)
        covered += all(abs(one.delta) <= (one.half_width or 0) for one in found)
    return {"wrong": wrong / number, "joint_coverage": covered / number}


def on_drawn_texts(rows: list[Row], seeds: int, number: int, ratio: float) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield losses without any true difference and what finds them per window; see `with_evaluation_noise`."""
    generator = np.random.default_rng(3)
    documents = tuple(np.repeat(np.arange(40), 3).tolist())
    for losses in comparisons(normal, len(rows) - 1, seeds, number, 4):
        text = generator.normal(0, SD * math.sqrt(ratio * 40 / seeds), (len(rows), 40))[:, np.array(documents)]
        table: dict[str, WindowLosses] = {}
        for row, own, by_window in zip(rows, losses, text, strict=True):
            for run, loss in zip(row.runs, own, strict=True):
                interaction = generator.normal(0, 0.3 * SD, 120)
                table[run.run_id] = WindowLosses(
                    1, "120x8:a", tuple((loss + by_window + interaction - interaction.mean()).tolist()), (), documents
                )
        yield losses + text.mean(1)[:, None], lambda run, table=table: table[run.run_id]


def sweep(number: int) -> dict[str, float]:
    """Return bias and wrong verdicts of a comparison at tuned learning rates, where no rate is better than another."""
    typed = {"sweep_lr": "3", "seeds": "3"}
    (part,) = make_study(["mha", "mqa"], Sources(load_preset("demo"), command_line=typed)).parts
    runs = [_recorded(wanted.config, wanted.label) for wanted in _all_runs(part)]
    generator = np.random.default_rng(5)
    deltas, chosen, wrong, better = [], [], 0, 0
    for _ in range(number):
        shifts = dict[str, float]()
        for run in runs:
            shift = shifts.setdefault(run.tags["vgpt.seed"], generator.normal(0, 3 * SD))
            run.metrics["val/loss"] = 2.3 + shift + generator.normal(0, SD)
        comparison = part.answer(runs)
        one = comparison.statistics[1].difference
        assert one is not None
        deltas.append(one.delta)
        wrong += one.verdict in SHOWN
        better += one.verdict == "better"
        if comparison.sweep is not None:
            chosen.append(comparison.sweep.variants[1].chosen != comparison.sweep.common)
    return {
        "nulls": number,
        "bias_in_sd_of_a_run": float(np.mean(deltas)) / SD,
        "its_standard_error": float(np.std(deltas)) / SD / math.sqrt(number),
        "wrong": wrong / number,
        "better": better / number,
        "chose_another_rate": float(np.mean(chosen)),
    }


def _all_runs(part: StudyPart) -> list[Any]:
    """Return every run of both stages."""
    from vgpt.compare.choose import compare

    requests = [*part.tuning.values(), *part.rates.values()]
    return [wanted for request in requests for wanted in compare(request, []).missing]


def _recorded(config: Any, label: str) -> RunInfo:
    import json

    kind = config.model.attn.kind
    tags = {
        "vgpt.attn": kind,
        "vgpt.attn_settings": json.dumps(config.model.attn.model_dump(mode="json")),
        "vgpt.seed": str(config.train.seed),
        "vgpt.settings_hash": config.settings_hash,
    }
    name = f"{label}-{config.train.lr:g}-{config.train.seed}"
    return replace(run_of(kind, config.train.seed, {}), run_id=name, run_name=name, tags=tags)


def main() -> None:
    """Simulate every cell and print or write the rates."""
    options = options_of(__doc__, nulls=(2_000, "comparisons per cell"), sweeps=(400, "tuned comparisons"))
    cells, number = Cells(), options.nulls
    for variants in (1, 6):
        for seeds in (3, 5, 8):
            for name, draw in NOISES.items():
                cell = {"variants": variants, "seeds": seeds, "noise": name, **errors(draw, variants, seeds, number)}
                if name in ("normal", "one variant 3x noisier"):
                    cell["power_at_2_sd"] = power(draw, variants, seeds, number // 2, 2.0)
                cells.add(cell)
    text: list[dict[str, Any]] = []
    for variants, seeds, ratio in ((1, 3, 0.1), (1, 3, 1.0), (1, 8, 1.0), (6, 3, 0.1), (6, 3, 1.0), (6, 8, 1.0)):
        rates = with_evaluation_noise(variants, seeds, number if variants == 1 else number // 2, ratio)
        text.append({"variants": variants, "seeds": seeds, "text_over_seeds": ratio, **rates})
        print(text[-1], flush=True)
    tuned = sweep(options.sweeps)
    print(tuned, flush=True)
    what = "rates of wrong verdicts, joint coverage of the intervals and power, through the code of the tables"
    cells.write(options.out, what, nulls_per_cell=number, evaluation_noise=text, sweep_lr=tuned)


if __name__ == "__main__":
    main()
