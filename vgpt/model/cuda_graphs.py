"""Recording work on a GPU as a CUDA graph, and what has to be put right where that fails."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

R = TypeVar("R")


class NotRecordedError(Exception):
    """What was to be recorded did run, but could not be recorded; says why."""


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream for what precedes a recording: one, for libraries keep scratch memory for each stream."""
    return torch.cuda.Stream(device)


def run_aside(run: Callable[[], R], device: torch.device) -> R:
    """Return what `run` returns, on the side stream: what is made lazily must not belong to the usual one."""
    side, here = side_stream(device), torch.cuda.current_stream(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        result = run()
    here.wait_stream(side)
    return result


def record(
    run: Callable[[], object], device: torch.device, *, pool: Any = None, stream: torch.cuda.Stream | None = None
) -> torch.cuda.CUDAGraph:
    """Record what `run` would do; nothing is computed meanwhile.

    Args:
        run: has run before, so that libraries have chosen kernels and compilers compiled.
        device: where.
        pool: memory to share with other graphs, none of which may run beside this one.
        stream: where to record; a new one by default.

    Raises:
        NotRecordedError: it waits for the device, or memory is short.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        # Another thread may pin memory or copy meanwhile, which only a recording of this thread allows.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            run()
    except RuntimeError as error:
        # A recording that was broken off leaves the device's random numbers as if it went on.
        generator = torch.cuda.default_generators[device.index or 0]
        generator.graphsafe_set_state(generator.clone_state())
        raise NotRecordedError(f"it could not be recorded ({str(error).strip().splitlines()[0]})") from error
    return graph
