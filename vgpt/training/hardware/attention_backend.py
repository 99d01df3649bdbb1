"""Which backend computes a run's causal attention on a CPU: the table's, or the faster by a short measurement here.

The table (vgpt.attention.kernels.backends) was measured on AMD processors with avx512_bf16, and what it picks was
within 12% of the best on an Intel Xeon with AMX. On these it is taken without measuring, so that the bits of a seed
depend on no clock. On other processors the two backends take turns for half a second, and the other one is taken only
where it is faster by a clear margin in every round. What was found is kept, by processor, shape and version of torch,
in the user's cache folder, and with the run: continued anywhere, it computes as it began.

Shapes are those of the trunk, not of the variant, so that all runs of a comparison come to the same.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from vgpt.attention.kernels.backends import BACKENDS, TABLE, Backend, attend, table_backend, use_backend
from vgpt.errors import UsageError
from vgpt.files.digests import json_digest
from vgpt.files.writing import replace_json
from vgpt.package import VERSION
from vgpt.settings.model import ModelSettings
from vgpt.settings.train import SystemSettings
from vgpt.training.hardware.devices import Compute, cpu_flags, cpu_name

MARGIN = 1.15
"""How many times as fast the other backend must be, in every round, to be taken in the place of the table's."""
ROUNDS = 5
FLAG = "--attention-backend"
LONGEST = 2048
"""Tokens up to which it is measured; beyond, the memory of the weights speaks against `blockwise` on any machine."""
_SECONDS = 0.5
_MOST_REPEATS = 3
_PAIRS, _MOST_SEQUENCES = 2**21, 16
"""Queries times keys of one pass, where the heads of all threads do not take more; and sequences at most."""
_MEASURED_ON, _UNKNOWN = {"avx512_bf16", "amx_bf16"}, "unknown"

Notify = Callable[[str], None]
Rounds = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Shape:
    """What a measurement is of, and all that its outcome may depend on; `usual` is the table's backend."""

    processor: str
    dtype: str
    heads: int
    width: int
    tokens: int
    threads: int
    usual: Backend
    torch: str = str(torch.__version__)
    vgpt: str = VERSION
    device: str = "cpu"


def choose(model: ModelSettings, system: SystemSettings, compute: Compute, notify: Notify) -> Backend:
    """Return "table", or the backend other than the table's that a run computes with; say what was measured.

    Raises:
        UsageError: a backend was asked for that cannot compute here.
    """
    asked, dtype, tokens = system.attention_backend, compute.dtype, model.block_size
    free = compute.device.type == "cpu" and model.flash and not system.compile
    if asked == "blockwise" and not free:
        raise UsageError(
            "--attention-backend blockwise computes on a CPU, and neither with --compile nor with --no-flash",
            "Use --attention-backend auto.",
        )
    usual = table_backend(compute.device, dtype, tokens)
    if asked in ("sdpa", "blockwise"):
        return TABLE if asked == usual or not free else asked
    if not is_measured(system, compute):
        return TABLE
    if not free or tokens > LONGEST:
        if asked == "measure":
            notify("attention backend: only one suits this device and these settings; nothing is measured")
        return TABLE
    return _measured(_shape(model, compute, usual), dtype, notify)


def is_measured(system: SystemSettings, compute: Compute) -> bool:
    """Return whether a measurement decides: where it is asked for, and by itself on kinds of processors without one."""
    if system.attention_backend == "auto":
        return compute.device.type == "cpu" and _MEASURED_ON.isdisjoint(cpu_flags() or {_UNKNOWN})
    return system.attention_backend == "measure"


def clearly_faster(rounds: Rounds) -> bool:
    """Tell whether the second was faster than the first by the margin in every round of (first, second) seconds."""
    return bool(rounds) and all(first >= MARGIN * second for first, second in rounds)


def _measured(shape: Shape, dtype: torch.dtype, notify: Notify) -> Backend:
    usual = shape.usual
    other: Backend = "blockwise" if usual == "sdpa" else "sdpa"
    path = cache_folder() / f"{json_digest(asdict(shape))[:16]}.json"
    chosen, said = _read(path, shape, notify), "measured before"
    if chosen is None:
        rounds = time_rounds(shape, dtype, usual, other)
        ratios = [first / second for first, second in rounds]
        chosen = other if clearly_faster(rounds) else TABLE
        said = f"{other} measured {min(ratios):.2f} to {max(ratios):.2f} times as fast as {usual}"
        _keep(path, {"shape": asdict(shape), "backend": chosen, "ratios": ratios}, notify)
    notify(
        f"attention backend: {usual + ', of the table' if chosen == TABLE else chosen} ({said} on {shape.processor})"
    )
    return chosen


def time_rounds(shape: Shape, dtype: torch.dtype, first: Backend, second: Backend) -> list[tuple[float, float]]:
    """Return median seconds of forward and backward passes by either backend, taking turns, for every round."""
    generator = torch.Generator().manual_seed(0)
    # Long sequences have work enough in few heads; each thread should have one.
    square = shape.tokens**2
    heads = min(shape.heads, max(shape.threads, _PAIRS // square))
    batch = max(1, min(_MOST_SEQUENCES, _PAIRS // (square * heads)))
    parts = (
        torch.randn(batch, heads, shape.tokens, shape.width, generator=generator).to(dtype).requires_grad_()
        for _ in range(3)
    )
    q, k, v = parts

    def seconds(backend: Backend) -> float:
        with use_backend(backend):
            begun = time.perf_counter()
            _pass(q, k, v)
            return time.perf_counter() - begun

    both = (first, second)
    for backend in both:  # threads wake, memory is taken
        seconds(backend)
    longest = max(seconds(backend) for backend in both)
    repeats = max(1, min(_MOST_REPEATS, int(_SECONDS / (2 * ROUNDS * longest))))
    rounds: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        order = both if number % 2 == 0 else both[::-1]
        taken = {backend: median(seconds(backend) for _ in range(repeats)) for backend in order}
        rounds.append((taken[first], taken[second]))
    return rounds


def _pass(q: Tensor, k: Tensor, v: Tensor) -> None:
    for part in (q, k, v):
        part.grad = None
    attend(q, k, v).sum().backward()


def _shape(model: ModelSettings, compute: Compute, usual: Backend) -> Shape:
    # Lengths between two powers of two share a measurement, that of the longer.
    tokens = 1 << max(4, (model.block_size - 1).bit_length())
    width = model.n_embd // model.n_head
    return Shape(cpu_name(), compute.dtype_name, model.n_head, width, tokens, torch.get_num_threads(), usual)


def cache_folder() -> Path:
    """Return the folder that keeps measurements: `$XDG_CACHE_HOME/vgpt/attention`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vgpt" / "attention"


def _read(path: Path, shape: Shape, notify: Notify) -> Backend | None:
    try:
        table = json.loads(path.read_bytes())
        if table["shape"] == asdict(shape) and table["backend"] in BACKENDS:
            return table["backend"]
        fault = "it is of something else"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        fault = f"{type(error).__name__}"
    notify(f"{path} cannot be used ({fault}): measured again")
    return None


def _keep(path: Path, table: dict[str, object], notify: Notify) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_json(path, table)
    except OSError as error:
        notify(f"the choice of attention backend is not kept for other runs: {error.strerror or error}")
