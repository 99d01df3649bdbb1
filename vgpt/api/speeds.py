"""The end of `vgpt compare --run-missing`: speeds of the compared variants, measured side by side."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vgpt.data.progress import Progress
from vgpt.errors import VgptError
from vgpt.settings.compare import CompareConfig
from vgpt.study.study import Answered

if TYPE_CHECKING:
    from vgpt.study.speeds import Wish

ROUNDS, SECONDS = 10, 0.2
Notify = Callable[[str], None]


def measure_speeds(answers: Sequence[Answered], notify: Notify, warn: Notify, progress: Progress) -> None:
    """Measure the variants of each comparison at their runs' shape, where no undisturbed record does so already.

    What cannot be measured here is a remark, for the runs themselves are done.
    """
    from vgpt.study.speeds import find_speeds, wish_of

    for answer in answers:
        wish, reason = wish_of(answer.comparison)
        if wish is None:
            if len(answer.comparison.rows) > 1:
                warn(f"speeds are not measured side by side: {reason}")
            continue
        runs_dir = answer.part.request.settings.run.runs_dir
        found = find_speeds(wish, runs_dir)
        if found is None or found.disturbed:
            _measure(wish, answer.part.request.settings, notify, warn, progress)


def attach_speeds(answers: Sequence[Answered]) -> list[Answered]:
    """Return answers with the speeds on record for them."""
    from vgpt.study.speeds import with_speeds

    found: list[Answered] = []
    for answer in answers:
        settings = answer.part.request.settings
        by_speed = settings.compare.sort == "speed"
        comparison = with_speeds(answer.comparison, settings.run.runs_dir, by_speed=by_speed)
        found.append(replace(answer, comparison=comparison))
    return found


def _measure(wish: "Wish", settings: CompareConfig, notify: Notify, warn: Notify, progress: Progress) -> None:
    import torch

    from vgpt.attention.kernels.backends import use_backend
    from vgpt.bench.machine import machine
    from vgpt.bench.result import save
    from vgpt.bench.run import Plan, run_bench
    from vgpt.bench.work import Point
    from vgpt.formatting import format_duration
    from vgpt.settings.train import SystemSettings
    from vgpt.training.hardware.devices import resolve

    place = wish.place(settings.run.runs_dir)
    asked = {"device": wish.device, "dtype": wish.dtype, "threads": wish.threads, **wish.system}
    try:
        system = SystemSettings.model_validate(asked)
        compute = resolve(system)
        if compute.device_name != wish.device_name:
            warn(
                f"speeds are not measured side by side: the runs were trained on {wish.device_name or 'another device'}"
                f", this is {compute.device_name}"
            )
            return
        points = [Point("train", wish.batch_size, wish.context, wish.grad_accum), Point("decode", 1, wish.context)]
        plan = Plan(wish.variants, points, ROUNDS, SECONDS)
        where = machine(compute)
        expected = format_duration(plan.expected(where, compute.device.type))
        notify(f"measuring speeds side by side (--no-bench leaves it out): about {expected} on a quiet machine")
        with use_backend(wish.attention_backend):
            bench = run_bench(plan, compute, system, where, progress, threads=torch.get_num_threads())
        save(replace(bench, shape={**bench.shape, "key": wish.key}), place)
    except KeyboardInterrupt:
        warn("measuring speeds was stopped; the runs are trained, and the same command measures again")
    except (VgptError, OSError, RuntimeError, ValueError) as error:  # memory that is not there is a RuntimeError
        warn(f"speeds were not measured side by side: {error}")
