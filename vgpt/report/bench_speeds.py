"""Speeds of a comparison's variants that were measured side by side: what is wanted, where it is kept, what it says.

A record lies in `RUNS/bench/`, under a name made of the variants, the shape, the device, torch and vgpt's own code. One
that holds further variants answers too; one of other code or of another machine does not.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vgpt.bench.result import DECODE, TRAIN, Bench, Case, Measured, load
from vgpt.bench.statistics import Ratio
from vgpt.model.config import GPT2Config
from vgpt.model.costs import count_parameters
from vgpt.report.architecture import architecture_of
from vgpt.report.comparison import Comparison
from vgpt.report.grouping import Row
from vgpt.report.numbers import FLOPS, PARAMS, stat
from vgpt.tracking.store import RunInfo
from vgpt.training.source_code import source_digest

FOLDER = "bench"
FLOPS_PALM = "flops/train_per_token_palm"
_SYSTEM = ("compile", "recompute", "tf32")
_EQUAL = ("batch_size", "grad_accum", "block_size", "device", *_SYSTEM)


@dataclass(frozen=True)
class Wish:
    """What would be measured for a comparison: its variants at the shape that its runs were trained at.

    Attributes:
        variants: by label of the row.
        batch_size, grad_accum, context: of a training step.
        device: as the runs' setting has it; `device_name` is the hardware they recorded.
        dtype: precision that they recorded.
        system: further settings of how models compute.
        threads: as the runs' setting has it; None for the automatic number.
    """

    variants: Mapping[str, GPT2Config]
    batch_size: int
    grad_accum: int
    context: int
    device: str
    device_name: str
    dtype: str
    system: Mapping[str, bool]
    threads: int | None = None

    @property
    def key(self) -> str:
        """Hash of all but the variants: figures of one key may be compared."""
        table = {
            "shape": [self.batch_size, self.grad_accum, self.context, self.dtype, self.device_name, dict(self.system)],
            "source": source_digest(),
            "torch": _torch_version(),
        }
        return _hash(table)

    def place(self, runs_dir: Path) -> Path:
        """Return where its record belongs."""
        variants = sorted(json.dumps(_settings(config), sort_keys=True) for config in self.variants.values())
        return runs_dir / FOLDER / f"{_hash([self.key, variants])}.json"


@dataclass(frozen=True)
class Speeds:
    """A record, read for the rows of a comparison; `labels` tells which of its variants a row is."""

    bench: Bench
    labels: Mapping[str, str]

    def case(self, phase: str) -> Case | None:
        """Return the case of a phase."""
        return self.bench.case(phase)

    def measured(self, phase: str, row: Row) -> Measured | None:
        """Return a row's figures in a phase."""
        case = self.bench.case(phase)
        return None if case is None else case.of(self.labels[row.label])

    def speedup(self, phase: str, row: Row, baseline: Row) -> Ratio | None:
        """Return how many times as fast a row is as another; None where others disturbed the measuring."""
        case = self.bench.case(phase)
        return None if case is None else case.speedup(self.labels[row.label], self.labels[baseline.label])

    def column(self, name: str, row: Row, baseline: Row) -> float | str | None:
        """Return a row's value of a column of speeds; differences only where an interval supports them."""
        phase = DECODE if name.startswith("decode") else TRAIN
        one, ratio = self.measured(phase, row), self.speedup(phase, row, baseline)
        if one is None:
            return None
        if name.endswith("_delta"):
            if row is baseline:
                return None
            if ratio is None:
                return "disturbed"
            if not ratio.shows:
                return None
            return 1 / ratio.value - 1 if phase == DECODE else ratio.value - 1
        figures = {
            "speed": one.tokens_per_second,
            "mfu": one.mfu(self.bench.machine),
            "memory": None if one.peak_bytes is None else float(one.peak_bytes),
            "decode": one.spread.median,
        }
        if name == "mfu_palm":
            exact, dense = stat(row, FLOPS), stat(row, FLOPS_PALM)
            return None if exact is None or dense is None else figures["mfu"] * dense.mean / exact.mean
        return figures[name]

    @property
    def disturbed(self) -> bool:
        """Whether a phase of it bears no claim."""
        return any(case.disturbed for case in self.bench.cases)


def wish_of(comparison: Comparison) -> tuple[Wish | None, str]:
    """Return what to measure for a comparison; where nothing fair can be, None and the reason in words."""
    rows = comparison.rows
    runs = [run for row in rows for run in row.runs]
    if len(rows) < 2:
        return None, "there is nothing to compare"
    for name in _EQUAL:
        if len({run.params.get(name, "") for run in runs}) > 1:
            return None, f"the runs differ in --{name.replace('_', '-')}"
    for name in ("vgpt.device", "vgpt.dtype"):
        if len({run.tags.get(name, "") for run in runs}) > 1:
            return None, f"the runs differ in {name.removeprefix('vgpt.')}"
    first = runs[0]
    if any(first.params.get(name, "1") not in ("1", "none") for name in ("nproc", "nnodes")):
        return None, "the runs were trained by several processes"
    models = {row.label: _model(row.runs[0]) for row in rows}
    known = {label: model for label, model in models.items() if model is not None}
    if missing := [label for label in models if label not in known]:
        return None, f"the record of {missing[0]} is incomplete"
    if not all(first.params.get(name, "").isdecimal() for name in ("batch_size", "grad_accum")):
        return None, "the runs' batch is not recorded"
    return Wish(
        variants=known,
        batch_size=int(first.params["batch_size"]),
        grad_accum=int(first.params["grad_accum"]),
        context=next(iter(known.values())).block_size,
        device=first.params.get("device", "auto"),
        device_name=first.tags.get("vgpt.device", ""),
        dtype=first.tags.get("vgpt.dtype", ""),
        system={name: first.params.get(name) == "true" for name in _SYSTEM},
        threads=int(threads) if (threads := first.params.get("threads", "")).isdecimal() else None,
    ), ""


def find_speeds(wish: Wish, runs_dir: Path) -> Speeds | None:
    """Return the newest record that holds all variants of a wish; one that was left alone before a disturbed one."""
    found: list[Speeds] = []
    for path in sorted((runs_dir / FOLDER).glob("*.json")):
        bench = load(path)
        if bench is None or bench.shape.get("key") != wish.key:
            continue
        labels = {row: _named(bench, config) for row, config in wish.variants.items()}
        known = {row: label for row, label in labels.items() if label is not None}
        if len(known) == len(labels) and bench.case(TRAIN) is not None and bench.case(DECODE) is not None:
            found.append(Speeds(bench, known))
    return max(found, key=lambda one: (not one.disturbed, one.bench.machine.made), default=None)


def with_speeds(comparison: Comparison, runs_dir: Path, *, by_speed: bool = False) -> Comparison:
    """Return a comparison with the speeds on record for it, if there are any; rows sorted by them where asked."""
    wish, _ = wish_of(comparison)
    speeds = None if wish is None else find_speeds(wish, runs_dir)
    if speeds is None:
        return comparison
    found = replace(comparison, speeds=speeds)
    case = speeds.case(TRAIN)
    if not by_speed or case is None or case.disturbed:
        return found
    pairs = list(zip(found.rows, found.statistics, strict=True))
    rest = sorted(pairs[1:], key=lambda pair: -case.of(speeds.labels[pair[0].label]).tokens_per_second)
    rows, statistics = zip(pairs[0], *rest, strict=True)
    return replace(found, rows=tuple(rows), statistics=tuple(statistics))


def _model(run: RunInfo) -> GPT2Config | None:
    """Return a run's model, matching written out, with the vocabulary that its number of parameters tells."""
    config, total = architecture_of(run), run.metrics.get(PARAMS, 0.0)
    if config is None:
        return None
    bare = GPT2Config.model_validate({**config.concrete(), "vocab_size": 1})
    one, two = (count_parameters(bare.model_copy(update={"vocab_size": size})).total for size in (1, 2))
    size = 1 + (total - one) / (two - one)
    return None if size < 1 or size != int(size) else bare.model_copy(update={"vocab_size": int(size)})


def _named(bench: Bench, config: GPT2Config) -> str | None:
    wanted = _settings(config)
    return next((label for label, settings in bench.variants.items() if settings == wanted), None)


def _settings(config: GPT2Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _hash(table: Any) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def speeds_json(comparison: Comparison) -> dict[str, Any] | None:
    """Return the speeds of a comparison as plain data, by row; None without a record."""
    speeds = comparison.speeds
    if speeds is None:
        return None
    machine = speeds.bench.machine
    return {
        "machine": vars(machine),
        "rows": {row.label: _row_json(speeds, row, comparison.rows) for row in comparison.rows},
        "disturbed": {case.phase: list(case.disturbed) for case in speeds.bench.cases},
    }


def _row_json(speeds: Speeds, row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for phase in (TRAIN, DECODE):
        one, ratio = speeds.measured(phase, row), speeds.speedup(phase, row, rows[0])
        if one is not None:
            table[phase] = {
                "seconds": one.spread.median,
                "quartiles": [one.spread.low, one.spread.high],
                "tokens_per_second": one.tokens_per_second,
                "mfu": one.mfu(speeds.bench.machine),
                "mbu": one.mbu(speeds.bench.machine),
                "peak_bytes": one.peak_bytes,
                "speedup": None if ratio is None else vars(ratio),
            }
    return table
