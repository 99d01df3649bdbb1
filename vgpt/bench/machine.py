"""What the machine can do, and what is measured on it: bandwidth of a copy, peak of memory."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vgpt.bench.result import Machine
from vgpt.package import VERSION
from vgpt.training.hardware.devices import Compute
from vgpt.training.hardware.peak import Peak, peak_again, peak_flops
from vgpt.training.records.source_code import source_digest

_COPIED = 256 * 2**20
_COPY_SECONDS = 0.3


def machine(compute: Compute) -> Machine:
    """Describe where a bench runs; takes about a second of measuring."""
    peak = peak_flops(compute)
    return Machine(
        device=compute.device_name,
        dtype=compute.dtype_name,
        peak_flops=peak.flops,
        peak_source=peak.source,
        copy_bandwidth=copy_bandwidth(compute.device),
        torch=torch.__version__,
        vgpt=VERSION,
        source=source_digest(),
        made=time.time(),
    )


def measured_again(before: Machine, compute: Compute) -> Machine:
    """Return the machine with the larger of its peaks before a bench and after it: it was perhaps busy before."""
    peak = peak_again(compute, Peak(before.peak_flops, before.peak_source))
    return replace(before, peak_flops=peak.flops, peak_source=peak.source)


@cache
def copy_bandwidth(device: torch.device) -> float:
    """Return the best rate of copying 256 MiB, far more than processors cache, in bytes read and written a second."""
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    best, end = 0.0, time.perf_counter() + _COPY_SECONDS
    rounds = 0
    while rounds < 4 or time.perf_counter() < end:
        wait_for(device)
        begun = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        best = max(best, 2 * _COPIED / (time.perf_counter() - begun))
        rounds += 1
    return best


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_bytes(device: torch.device, held: int, work: Callable[[], object]) -> int | None:
    """Return the most bytes of tensors while `work` runs: those `held` before it, and what it allocates at most.

    By torch's own account: the allocator's on CUDA, the profiler's of every allocation on a CPU. Scratch memory that
    libraries keep beside it is not in it; on other devices nothing keeps account.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return held + torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    # Kineto may print as it starts and stops; stdout and stderr belong to results and talk.
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        work()
    recorded = profiler.profiler.kineto_results if profiler.profiler is not None else None
    if recorded is None:
        return None
    events: list[Any] = recorded.events()  # torch's stubs do not know what its events of memory have
    moves = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    held_now = most = 0
    for _, amount in sorted(moves, key=lambda move: move[0]):
        held_now += amount
        most = max(most, held_now)
    return held + most


def bytes_of(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Return the bytes of a model's parameters and buffers, their gradients, and its optimizer's state."""
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    for parameter in model.parameters():
        if parameter.grad is not None:
            tensors[id(parameter.grad)] = parameter.grad
    for state in optimizer.state.values() if optimizer is not None else ():
        tensors |= {id(value): value for value in state.values() if isinstance(value, torch.Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Send what C code prints nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number, _ in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
