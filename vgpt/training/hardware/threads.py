"""Gives torch the number of threads that `vgpt.threads` reckons."""

import torch

from vgpt.threads import thread_count
from vgpt.training.hardware.waiting import watch_waits


def use_threads(asked: int | None) -> None:
    """Have this process compute with the threads asked for; None for as many as it may keep busy.

    What OMP_NUM_THREADS or MKL_NUM_THREADS say stands where nothing is asked for.
    """
    # Before the first call torch's default is its own reckoning: physical cores, and what its process is bound to.
    count = thread_count(torch.get_num_threads(), asked)
    if count is not None and count != torch.get_num_threads():
        torch.set_num_threads(count)
    watch_waits(torch.get_num_threads())
