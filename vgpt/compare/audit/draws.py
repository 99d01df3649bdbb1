"""Other draws of the same seeds: trained again until one pleased, or one run that stands for several seeds."""

import math
from collections.abc import Callable, Sequence

from vgpt.compare.audit.runs import UnequalCondition, listed
from vgpt.compare.audit.unshown import identity
from vgpt.compare.rows import Row
from vgpt.tracking.run_info import FINISHED, RunInfo, newest_first
from vgpt.tracking.schema import Metric, Tag

_LOSS = Metric.VAL_LOSS
_FACTS = (
    "source",
    "replaced",
    "torch",
    "numpy",
    "device",
    "cpu_capability",
    "threads",
    "allocator",
    "kernels",
    "dtype",
)
"""Tags that say by which code and machine a run was computed: under the same ones it must come to the same loss."""
_TELLING = 3
"""Losses that two seeds must share for it to be no chance."""


def trained_again(rows: Sequence[Row], recorded: Sequence[RunInfo]) -> tuple[list[UnequalCondition], list[str]]:
    """Find runs of the same settings and seed that came to other results: of several draws one is shown.

    Under the same code and machine they must come to the same loss; where they do not, or where one diverged, the one
    shown may have been picked. Those of other code or machines are named.
    """
    values: dict[str, str] = {}
    notes: list[str] = []
    draws: dict[tuple[str, str], list[RunInfo]] = {}
    for run in recorded:
        draws.setdefault(_draw(run), []).append(run)
    for row in rows:
        found: list[str] = []
        for run in row.runs:
            alike = draws.get(_draw(run), []) if run.settings_hash else []
            others = [one for one in alike if identity(one) != identity(run)]
            ended = [one for one in others if one.status in (FINISHED, "diverged") and not _equal(one, run)]
            same = [one for one in ended if _same_facts(one, run)]
            if same:
                found.append(f"seed {run.seed} {_times(1 + len(same))}: {_results([run, *same])}")
            if elsewhere := [one for one in ended if one not in same]:
                notes.append(
                    f"{row.title}, seed {run.seed}: trained before by other code or on another machine, with "
                    f"{_results(elsewhere)}; the newest is shown"
                )
            stopped = sum(one.status not in (FINISHED, "diverged") for one in others)
            if stopped:
                notes.append(f"{row.title}, seed {run.seed}: {stopped} more of the same settings did not finish")
        if found:
            values[row.label] = listed(found)
    if not values:
        return [], notes
    shown = {row.label: values.get(row.label, "once") for row in rows}
    return [UnequalCondition("seeds", "trained", shown, tuple(values))], notes


def copied_runs(rows: Sequence[Row]) -> list[UnequalCondition]:
    """Find runs that stand for several seeds: another seed draws other batches, and comes to another loss.

    The hash of all batches tells two runs of one seed apart from those of two, whatever their tags call the seed; so
    does a loss that two seeds of one variant share to the last bit, along with that of training.
    """
    values: dict[str, str] = {}
    for row in rows:
        found: list[str] = []
        for number, run in enumerate(row.runs):
            for other in row.runs[:number]:
                shared = [name for name, read in _OF_A_SEED.items() if read(run) and read(run) == read(other)]
                if other.seed != run.seed and shared:
                    found.append(f"seeds {other.seed} and {run.seed} have the same {', '.join(shared)}")
        if found:
            values[row.label] = listed(found)
    if not values:
        return []
    shown = {row.label: values.get(row.label, "each seed once") for row in rows}
    return [UnequalCondition("seeds", "copies", shown, tuple(values))]


def _results_of(run: RunInfo) -> tuple[float, ...]:
    """Return the losses at the end, at the best and in training: what no two seeds share in all digits."""
    names = (Metric.VAL_LOSS, Metric.VAL_BEST_LOSS, Metric.TRAIN_LOSS, Metric.VAL_LOSS_SE)
    found = tuple(run.metrics[name] for name in names if name in run.metrics)
    return found if len(found) >= _TELLING and all(map(math.isfinite, found)) else ()


_OF_A_SEED: dict[str, Callable[[RunInfo], object]] = {
    "batches": lambda run: run.tags.get(Tag.BATCHES),
    "first weights": lambda run: None if run.tags.get(Tag.INIT_DIGEST) else run.tags.get(Tag.START),
    "losses": _results_of,
}
"""What follows from a seed: kind -> how it is read."""


def _draw(run: RunInfo) -> tuple[str, str]:
    """Return what separate trainings of the same settings, seed and conditions have in common."""
    return run.settings_hash, run.conditions


def _same_facts(one: RunInfo, run: RunInfo) -> bool:
    return all(one.tags.get(f"vgpt.{name}") == run.tags.get(f"vgpt.{name}") for name in _FACTS)


def _equal(one: RunInfo, run: RunInfo) -> bool:
    return one.status == run.status and one.metrics.get(_LOSS) == run.metrics.get(_LOSS)


def _results(runs: Sequence[RunInfo]) -> str:
    shown = [
        f"val loss {one.metrics.get(_LOSS, math.nan):.4f}" if one.status == FINISHED else one.status
        for one in newest_first(runs)
    ]
    return listed(shown)


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"
