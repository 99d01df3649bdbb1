"""What a bench found: plain records that are written as JSON and read back, free of torch."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vgpt.bench.statistics import Ratio, Spread, paired_ratio
from vgpt.files.writing import replace_bytes

FORMAT = 1
TRAIN, PREFILL, DECODE = "train", "prefill", "decode"
PHASES = (TRAIN, PREFILL, DECODE)


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    Attributes:
        device: the hardware's name, with the number of threads on a CPU.
        dtype: precision of matrix products.
        peak_flops: FLOP/s that MFU is a share of; `peak_source` says whether it was published or measured.
        copy_bandwidth: bytes per second, read and written, of a large copy: what MBU is a share of.
        torch: its version.
        vgpt: its version.
        source: digest of the code that was measured.
        made: when, in seconds since 1970.
    """

    device: str
    dtype: str
    peak_flops: float
    peak_source: str
    copy_bandwidth: float
    torch: str
    vgpt: str
    source: str
    made: float


@dataclass(frozen=True)
class Measured:
    """One variant in one case.

    Attributes:
        label: the variant.
        seconds: of one step, round by round: an optimizer step, reading all prompts, one more token of each sequence.
        tokens: tokens of one step.
        flops: FLOPs of one step, exact pairs.
        bytes_read: bytes of weights and caches that a decoding step reads; 0 in other phases.
        peak_bytes: most bytes of tensors at once, weights among them; None where it could not be told.
        cache_bytes: bytes in use in the caches at the end of the context; 0 in training.
        cache_analytic: the same as the variant's settings have it.
        note: what a reader should know of how it was computed; empty for nothing.
    """

    label: str
    seconds: tuple[float, ...]
    tokens: int
    flops: float
    bytes_read: int = 0
    peak_bytes: int | None = None
    cache_bytes: int = 0
    cache_analytic: int = 0
    note: str = ""

    @property
    def spread(self) -> Spread:
        """The seconds of a step."""
        return Spread.of(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """By the median step."""
        return self.tokens / self.spread.median

    def mfu(self, machine: Machine) -> float:
        """Share of the peak's FLOPs, by the median step."""
        return self.flops / self.spread.median / machine.peak_flops

    def mbu(self, machine: Machine) -> float | None:
        """Share of the copy bandwidth at which a decoding step reads weights and caches; None in other phases."""
        return self.bytes_read / self.spread.median / machine.copy_bandwidth if self.bytes_read else None


@dataclass(frozen=True)
class Case:
    """One phase at one batch and context, of all variants; the first one is what the others are compared with.

    Attributes:
        phase: `train`, `prefill` or `decode`.
        batch: sequences.
        context: tokens of each: in training and prefill all are read at once; decoding ends with so many.
        variants: in the order asked for.
        repeated: rounds that were made again because something disturbed them.
        disturbed: what disturbed the rounds that count, in words; empty where claims can be made.
    """

    phase: str
    batch: int
    context: int
    variants: tuple[Measured, ...]
    repeated: int = 0
    disturbed: tuple[str, ...] = ()

    def speedup(self, label: str, baseline: str | None = None) -> Ratio | None:
        """Return how many times as fast a variant is as another, the first by default; None where it was disturbed."""
        if self.disturbed:
            return None
        ours, theirs = self.of(label), self.of(baseline or self.variants[0].label)
        return paired_ratio(theirs.seconds, ours.seconds)

    def of(self, label: str) -> Measured:
        """Return one variant's figures."""
        return next(one for one in self.variants if one.label == label)


@dataclass(frozen=True)
class Bench:
    """All of it.

    Attributes:
        machine: where.
        shape: the settings that all variants share.
        cases: in the order of measuring.
        variants: settings of each variant by label.
    """

    machine: Machine
    shape: dict[str, Any]
    cases: tuple[Case, ...]
    variants: dict[str, Any] = field(default_factory=dict[str, Any])

    def case(self, phase: str) -> Case | None:
        """Return the first case of a phase."""
        return next((case for case in self.cases if case.phase == phase), None)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data: what was measured round by round, and what follows from it."""
        table = {"format": FORMAT, **asdict(self)}
        for case, written in zip(self.cases, table["cases"], strict=True):
            for one, line in zip(case.variants, written["variants"], strict=True):
                line["follows"] = self._follows(case, one)
        return table

    def _follows(self, case: Case, one: Measured) -> dict[str, Any]:
        ratio = case.speedup(one.label)
        return {
            "tokens_per_second": one.tokens_per_second,
            "seconds_median": one.spread.median,
            "seconds_quartiles": [one.spread.low, one.spread.high],
            "mfu": one.mfu(self.machine),
            "mbu": one.mbu(self.machine),
            "speedup": None if ratio is None else asdict(ratio),
        }


def save(bench: Bench, path: Path) -> None:
    """Write a record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, f"{json.dumps(bench.as_json(), indent=1, allow_nan=False)}\n".encode())


def load(path: Path) -> Bench | None:
    """Read a record; None where it is none, or of another format."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["format"] != FORMAT:
            return None
        return Bench(Machine(**table["machine"]), table["shape"], tuple(map(_case, table["cases"])), table["variants"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _case(table: dict[str, Any]) -> Case:
    variants = [_measured(line) for line in table["variants"]]
    lengths = {len(one.seconds) for one in variants}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError("rounds are paired")
    return Case(**{**table, "variants": tuple(variants), "disturbed": tuple(table["disturbed"])})


def _measured(line: dict[str, Any]) -> Measured:
    seconds = _positive(line["seconds"])
    return Measured(**{**{key: value for key, value in line.items() if key != "follows"}, "seconds": seconds})


def _positive(figures: Sequence[Any]) -> tuple[float, ...]:
    if not all(isinstance(x, float) and math.isfinite(x) and x > 0 for x in figures):
        raise ValueError("seconds are positive")
    return tuple(figures)
