"""A planted cut of the training budget, recovered: the variant is the baseline itself, trained on fewer tokens.

The baseline is trained at the budgets of `--equivalent`, and once more at `--cut` of its budget, as a variant that
nothing else sets apart. What that is worth must come out as the cut. Runs that exist are found: the script resumes.

    python benchmarks/planted_cut.py --runs-dir runs-cut --out benchmarks/results/planted_cut.json
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from typing import Any

from _hardware import add_out, hardware, write

from vgpt.compare.audit.conditions import audit
from vgpt.compare.choose import compare
from vgpt.compare.equivalents import SCHEDULE, BudgetRow, inquire
from vgpt.compare.request import Request
from vgpt.compare.rows import make_row
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.answers import recorded_runs
from vgpt.study.budgets import budget_requests
from vgpt.study.study import make_study
from vgpt.study.train_missing import train_missing
from vgpt.tracking.histories import WindowReader
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Tag


def requests(options: argparse.Namespace) -> tuple[dict[float, Request], Request]:
    """Return what asks for the baseline at every budget, and for the cut of it."""
    typed: dict[str, str | bool] = {
        "seeds": str(options.seeds),
        "tracker": "journal",
        "threads": "1",
        "runs_dir": options.runs_dir,
        "equivalent": "tokens",
    }
    if options.max_steps:
        typed |= {"max_steps": str(options.max_steps), "warmup_steps": str(options.max_steps // 10)}
    sources = Sources(load_preset(options.preset), command_line=typed)
    (part,) = make_study(["mha"], sources).parts
    config = part.request.settings
    steps, warmup = config.steps, config.train.warmup_steps
    number = round(steps * options.cut)
    cut = {**typed, "max_steps": str(number), "warmup_steps": str(round(warmup * number / steps))}
    cut["seed"] = str(config.train.seed + options.other_seeds)
    (shorter,) = make_study(["mha"], replace(sources, command_line=cut)).parts
    return dict(budget_requests(part.request, ["mha"], sources)), shorter.request


def answer(
    budgets: dict[float, Request], cut: Request, runs: list[RunInfo], windows: WindowReader
) -> dict[str, Any] | None:
    """Return what the cut is worth; None while runs are missing."""
    answers = {factor: compare(request, runs).rows for factor, request in budgets.items()}
    found = [BudgetRow(factor, rows[0] if rows else None) for factor, rows in answers.items()]
    shorter = compare(cut, runs)
    baseline = next(one.row for one in found if one.factor == 1)
    if baseline is None or not shorter.rows or shorter.missing:
        return None
    rows = [baseline, replace(make_row(shorter.rows[0].runs), label="the cut")]
    audited = audit(rows, tuned=SCHEDULE, recorded=runs)
    unequal = [one.name for one in audited.differences if one.name != "batches"]
    question = inquire("tokens", rows, replace(audited, flagged={}), found, windows=windows, recorded=runs)
    answered = question.answer(len(question.members))
    (one,) = answered.rows
    losses = {f"{b.factor:g}": [run.metrics["val/loss"] for run in b.row.runs] for b in found if b.row is not None}
    return {
        "ratio": one.ratio,
        "ci95": [one.low, one.high],
        "seeds": one.seeds,
        "method": one.method,
        "why": one.why,
        "misfit": answered.misfit,
        "bend_p": answered.bend_p,
        "unequal_conditions": unequal,
        "source": sorted({run.tags.get(Tag.SOURCE, "") for row in rows for run in row.runs}),
        "losses": {**losses, "the cut": [run.metrics["val/loss"] for run in rows[1].runs]},
        "steps": {f"{factor:g}": request.settings.steps for factor, request in budgets.items()},
    }


def main() -> None:
    """Train what is missing, and print or write what the cut is worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo", help="of the runs")
    parser.add_argument("--max-steps", type=int, help="steps at the common budget; the preset's own by default")
    parser.add_argument("--cut", type=float, default=0.9, help="share of the budget that the variant is trained on")
    parser.add_argument("--seeds", type=int, default=5, help="runs at each budget")
    parser.add_argument("--other-seeds", type=int, default=0, help="how far the variant's first seed lies from theirs")
    parser.add_argument("--runs-dir", default="runs-cut", help="directory of the runs")
    add_out(parser)
    options = parser.parse_args()
    budgets, cut = requests(options)
    windows = WindowReader(mlflow=False, tracking_uri=None)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    runs = recorded_runs(cut, say)
    missing = [one for request in (*budgets.values(), cut) for one in compare(request, runs).missing]
    if missing and train_missing(missing, say):
        sys.exit("runs failed: see above")
    found = answer(budgets, cut, recorded_runs(cut, say), windows)
    if found is None:
        sys.exit("runs are missing")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    write(
        options.out,
        {
            "what": "a planted cut of the training budget, and what the cut runs are found to be worth",
            "preset": options.preset,
            "cut": options.cut,
            "commit": commit.stdout.strip(),
            "hardware": hardware("torch", "numpy", "scipy"),
            **found,
        },
    )


if __name__ == "__main__":
    main()
