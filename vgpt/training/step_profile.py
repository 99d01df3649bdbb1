"""A trace of a few steps by torch's profiler: which operations they consist of, and where the device waits.

Open the file in https://ui.perfetto.dev or chrome://tracing. What falls between the traced steps, an evaluation or a
checkpoint, is in it too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from vgpt.settings.train import PROFILED

TRACE = "trace.json.gz"
_ROWS = 12


class StepProfile:
    """Traces the steps `PROFILED` of this process, counted from 1.

    Args:
        directory: of the run; the trace goes there.
        device: that computes.
        notify: hears where the trace is, and which operations cost most.
    """

    def __init__(self, directory: Path, device: torch.device, notify: Callable[[str], None]) -> None:
        self._path, self._device, self._notify = directory / TRACE, device, notify
        self._step = 0
        self._profiler: profile | None = None
        self._ended = False

    def takes(self) -> bool:
        """Count a step; return whether it is to be traced."""
        self._step += 1
        return PROFILED[0] <= self._step <= PROFILED[1]

    @property
    def begun(self) -> bool:
        """Whether a step before the one that was counted last has been traced."""
        return self._profiler is not None

    def trace(self, step: Callable[[], Any]) -> None:
        """Trace a step; after the last one write the file."""
        if self._profiler is None:
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profiler = profile(activities=activities, acc_events=True)
            self._profiler.start()
        with record_function(f"step {self._step} of the process"):
            step()
        if self._step == PROFILED[1]:
            self._end(self._profiler)

    def close(self) -> None:
        """End a trace that a run's end cuts short; say so where it left no step to trace."""
        if self._ended:
            return
        if self._profiler is not None:
            self._end(self._profiler)
        else:
            self._notify(
                f"nothing was profiled: the process ended after {self._step} steps, before its {PROFILED[0]}th"
            )

    def _end(self, profiler: profile) -> None:
        self._ended = True
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        profiler.stop()
        try:
            profiler.export_chrome_trace(str(self._path))
        except OSError as error:
            self._notify(f"the trace could NOT be written: {error}")
            return
        last = min(self._step, PROFILED[1])
        self._notify(f"steps {PROFILED[0]} to {last} of the process traced: {self._path}\n{self._costliest(profiler)}")

    def _costliest(self, profiler: profile) -> str:
        """Return the operations that took most time of the device, as a table."""
        on_gpu = self._device.type == "cuda"
        times = {
            event.key: ((event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3, event.count)
            for event in profiler.key_averages()
            # On a GPU its kernels alone: those who started them have the same time to their name.
            if not event.is_user_annotation and (event.device_type.name != "CPU") is on_gpu
        }
        total = sum(time for time, _ in times.values()) or 1.0
        lines = [
            f"{'ms':>9}  {'share':>5}  {'calls':>6}  operation, by its own time on the {'GPU' if on_gpu else 'CPU'}"
        ]
        for name, (time, calls) in sorted(times.items(), key=lambda item: -item[1][0])[:_ROWS]:
            lines.append(f"{time:9.2f}  {time / total:5.1%}  {calls:6}  {name[:70]}")
        return "\n".join(lines)
