"""How long missing runs would take, from how long the same training took before on this machine."""

from collections.abc import Iterable, Mapping
from statistics import median

from vgpt.compare.audit.conditions import ASPECTS
from vgpt.compare.request import PlannedRun
from vgpt.formatting import UNKNOWN, format_time
from vgpt.settings.fields import format_value, leaves
from vgpt.settings.train import TrainConfig
from vgpt.tracking.listing import list_run
from vgpt.tracking.run_info import RunInfo, finished
from vgpt.tracking.schema import Metric

_SPEED = ("batch", "trunk", "precision", "device")
_WORKERS = ("nproc", "nnodes", "parallel")

Key = tuple[str, ...]


class ThroughputEstimate:
    """Seconds per training token, by variant and by everything else that decides how fast a run is.

    A run that ended since the plan was made counts more than those on record: it was timed with its start and its
    evaluations, and under the load that the machine has now. A variant that was never trained under the same conditions
    is taken to be as fast as with other positions, and one that was not trained with these either, as the others.

    Args:
        runs: all runs on record; those of other machines, whose speed says nothing of this one, are passed over.
    """

    def __init__(self, runs: Iterable[RunInfo]) -> None:
        self._recorded: dict[Key, dict[str, list[float]]] = {}
        self._timed: dict[Key, dict[str, list[float]]] = {}
        for run in finished(runs):
            seconds, tokens = run.metrics.get(Metric.TRAIN_SECONDS, 0.0), run.metrics.get(Metric.TRAIN_TOKENS, 0.0)
            if run.directory is not None and seconds > 0 and tokens > 0:
                _add(self._recorded, _keys(run.params), run.attention_label, seconds / tokens)

    def note(self, planned: PlannedRun, seconds: float, tokens: int) -> None:
        """Take the time of a run that has just been trained: `tokens` of it in `seconds`."""
        if tokens > 0:
            _add(self._timed, _keys_of(planned), planned.label, seconds / tokens)

    def seconds(self, planned: PlannedRun) -> float | None:
        """Return how long the rest of a run should take; None where nothing like it was trained here yet."""
        keys, label = _keys_of(planned), planned.label
        known = [table[key] for key in keys for table in (self._timed, self._recorded) if key in table]
        if own := next((found[label] for found in known if label in found), None):
            return median(own) * tokens_left(planned)
        others = [median(paces) for paces in known[0].values()] if known else []
        return median(others) * tokens_left(planned) if others else None


def total(expected: Iterable[float | None]) -> float | None:
    """Return how long several runs should take, one after another; None where that of any is unknown."""
    parts = list(expected)
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def told(expected: Iterable[float | None]) -> str:
    """Return the same in words, also where the time of some of the runs only is known."""
    parts = list(expected)
    known = [part for part in parts if part is not None]
    if not known or len(known) == len(parts):
        return format_time(sum(known) if known else None)
    return f"{format_time(sum(known))} for {len(known)} of them, that of the others {UNKNOWN}"


def tokens_left(planned: PlannedRun) -> int:
    """Return the training tokens that a run, perhaps half-trained, still lacks."""
    return max(0, planned.config.steps - steps_done(planned)) * planned.config.tokens_per_step


def steps_done(planned: PlannedRun) -> int:
    """Return the steps on record of a run that was begun on this machine."""
    found = list_run(planned.config.directory)
    return found.step if found is not None else 0


def _keys_of(planned: PlannedRun) -> tuple[Key, Key]:
    return _keys({name: format_value(value) for name, value in planned.config.flat().items()})


def _keys(params: Mapping[str, str]) -> tuple[Key, Key]:
    """Return what decides how fast a run is, with its positions and without them."""
    known = leaves(TrainConfig)
    names = [*(name for aspect in _SPEED for name in ASPECTS[aspect]), *_WORKERS]
    found = {name: params.get(name, format_value(known[name].default)) for name in (*names, *ASPECTS["positions"])}
    # A plan that leaves it open is one without; a finished run has recorded what it came to.
    found["compile"] = format_value(found["compile"] == format_value(True))
    values = tuple(found.values())
    return values, values[: len(names)]


def _add(table: dict[Key, dict[str, list[float]]], keys: Iterable[Key], label: str, pace: float) -> None:
    for key in keys:
        table.setdefault(key, {}).setdefault(label, []).append(pace)
