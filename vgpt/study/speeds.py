"""Which speeds of a comparison are to be measured side by side, and where a record of them is kept.

A record lies in `RUNS/bench/`, under a name made of the variants, the shape, the device, torch and vgpt's own code. One
that holds further variants answers too; one of other code or of another machine does not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vgpt.bench.result import DECODE, TRAIN, Bench, load
from vgpt.compare.architecture import architecture_of
from vgpt.compare.comparison import Comparison, Speeds
from vgpt.compare.metrics import PARAMS
from vgpt.files.digests import json_digest
from vgpt.formatting import flag_of
from vgpt.model.config import GPT2Config
from vgpt.model.costs import count_parameters
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Tag
from vgpt.training.records.source_code import source_digest

FOLDER = "bench"
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
        attention_backend: what they were computed by.
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
    attention_backend: str = "table"

    @property
    def key(self) -> str:
        """Hash of all but the variants: figures of one key may be compared."""
        table = {
            "shape": [self.batch_size, self.grad_accum, self.context, self.dtype, self.device_name, dict(self.system)],
            "source": source_digest(),
            "torch": _torch_version(),
        }
        if self.attention_backend != "table":
            table["attention_backend"] = self.attention_backend
        return _hash(table)

    def place(self, runs_dir: Path) -> Path:
        """Return where its record belongs."""
        variants = sorted(json.dumps(_settings(config), sort_keys=True) for config in self.variants.values())
        return runs_dir / FOLDER / f"{_hash([self.key, variants])}.json"


def wish_of(comparison: Comparison) -> tuple[Wish | None, str]:
    """Return what to measure for a comparison; where nothing fair can be, None and the reason in words."""
    rows = comparison.rows
    runs = [run for row in rows for run in row.runs]
    if len(rows) < 2:
        return None, "there is nothing to compare"
    for name in _EQUAL:
        if len({run.params.get(name, "") for run in runs}) > 1:
            return None, f"the runs differ in {flag_of(name)}"
    for name in (Tag.DEVICE, Tag.DTYPE):
        if len({run.tags.get(name, "") for run in runs}) > 1:
            return None, f"the runs differ in {name.removeprefix('vgpt.')}"
    if len({run.attention_backend for run in runs}) > 1:
        return None, "the runs differ in attention_backend"
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
        device_name=first.tags.get(Tag.DEVICE, ""),
        dtype=first.tags.get(Tag.DTYPE, ""),
        system={name: first.params.get(name) == "true" for name in _SYSTEM},
        threads=int(threads) if (threads := first.params.get("threads", "")).isdecimal() else None,
        attention_backend=first.attention_backend,
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
    return json_digest(table)[:16]


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
