"""One bench from variants to results: each case is prepared for all variants, measured in rounds, and put away."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vgpt.bench.disturbance import Watch
from vgpt.bench.machine import measured_again
from vgpt.bench.result import DECODE, TRAIN, Bench, Case, Machine, Measured
from vgpt.bench.rounds import Patience, Series, interleave
from vgpt.bench.work import Point, Work, prepare, weight_bytes
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_read_bytes, decode_flops, prefill_flops, train_flops
from vgpt.settings.train import SystemSettings
from vgpt.training.hardware.devices import Compute

_SHARE_OF_PEAK = {"cpu": 0.1, "cuda": 0.3}
_LEAST_PATIENCE = 10.0
_WARM_STEPS = 5


class Progress(Protocol):
    """Hears how far a bench is; what the command line shows of preparing data fits."""

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage."""

    def advance(self, amount: int) -> None:
        """So much more is done."""

    def finish(self) -> None:
        """The stage is over."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        variants: by label, the first one is what the others are compared with.
        points: the cases.
        rounds: measurements of each variant in each case.
        seconds: least length of a measurement.
        patience: seconds for rounds made again; None for as long as measuring itself should take.
    """

    variants: Mapping[str, GPT2Config]
    points: Sequence[Point]
    rounds: int
    seconds: float
    patience: float | None = None

    def expected(self, where: Machine, device: str) -> float:
        """Return the seconds that it should take on a quiet machine, from FLOPs and bytes alone."""
        steps = [_step(config, point, where, device) for point in self.points for config in self.variants.values()]
        # Before each measurement the subject warms up for a step.
        return sum((self.rounds + 1) * max(self.seconds, step) + (self.rounds + _WARM_STEPS) * step for step in steps)


def run_bench(
    plan: Plan, compute: Compute, system: SystemSettings, where: Machine, progress: Progress, *, threads: int
) -> Bench:
    """Measure everything.

    Args:
        plan: what.
        compute: on which device and in which precision.
        system: how the models compute.
        where: what is known of the machine.
        progress: hears how far it is.
        threads: threads that compute.
    """
    expected = plan.expected(where, compute.device.type)
    patience = Patience(max(_LEAST_PATIENCE, expected) if plan.patience is None else plan.patience)
    gpu = (compute.device.index or 0) if compute.device.type == "cuda" else None
    cases = [_case(plan, point, compute, system, Watch(threads, gpu), patience, progress) for point in plan.points]
    shape = {"dtype": compute.dtype_name, "device": str(compute.device), "rounds": plan.rounds, "seconds": plan.seconds}
    variants = {label: _settings(config) for label, config in plan.variants.items()}
    return Bench(measured_again(where, compute), {**shape, **_shared(list(variants.values()))}, tuple(cases), variants)


def _case(
    plan: Plan,
    point: Point,
    compute: Compute,
    system: SystemSettings,
    watch: Watch,
    patience: Patience,
    progress: Progress,
) -> Case:
    progress.start(f"{point.phase}, {point.batch} x {point.context}", plan.rounds, "rounds")
    try:
        works = {label: prepare(config, point, compute, system) for label, config in plan.variants.items()}
        peaks = {label: None if point.phase == DECODE else work.peak() for label, work in works.items()}
        subjects = {label: _measurement(work, work.fitting(plan.seconds)) for label, work in works.items()}
        for measure in subjects.values():
            watch.measure("warm-up", measure)
        series = interleave(subjects, plan.rounds, watch, patience, lambda: progress.advance(1))
    finally:
        progress.finish()
    variants = tuple(_measured(label, work, series, peaks[label]) for label, work in works.items())
    return Case(point.phase, point.batch, point.context, variants, series.repeated, series.reasons)


def _measurement(work: Work, times: int) -> Callable[[], float]:
    return lambda: work.seconds(times)


def _measured(label: str, work: Work, series: Series, peak: int | None) -> Measured:
    held, analytic = work.cache
    return Measured(
        label=label,
        seconds=tuple(series.figures[label]),
        tokens=work.tokens,
        flops=work.flops,
        bytes_read=work.bytes_read,
        peak_bytes=peak,
        cache_bytes=held,
        cache_analytic=analytic,
        note=work.note,
    )


def _step(config: GPT2Config, point: Point, where: Machine, device: str) -> float:
    """Return the seconds of a step at the usual share of the peak."""
    share = _SHARE_OF_PEAK.get(device, 0.1) * where.peak_flops
    if point.phase == TRAIN:
        return train_flops(config, point.context) * point.batch * point.accum / share
    read = prefill_flops(config, point.context) * point.batch / share
    if point.phase != DECODE:
        return read
    element = 2 if where.dtype in ("bfloat16", "float16") else 4
    moved = weight_bytes(config, element) + cache_read_bytes(config, point.context, element) * point.batch
    flops = decode_flops(config, point.context) * point.batch
    return max(moved / where.copy_bandwidth, flops / share) + read / max(1, point.context // 2)


def _settings(config: GPT2Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _shared(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what all variants have in common."""
    first = settings[0]
    return {name: value for name, value in first.items() if all(other[name] == value for other in settings)}
