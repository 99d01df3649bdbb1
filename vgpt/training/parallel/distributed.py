"""The processes of a run: who they are, how they meet, and what they agree on."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
from torch import distributed as dist

from vgpt.errors import UsageError, VgptError
from vgpt.launchers import launcher_of
from vgpt.settings.train import TrainConfig

WATCHDOG = "Watchdog caught collective operation timeout"
"""What NCCL's watchdog writes before it ends a process whose neighbors no longer answer."""
_BROKEN = ("onnection", "Timed out", "gloo", "ncclRemoteError", "communicator was aborted", WATCHDOG)


@dataclass(frozen=True)
class World:
    """One process among those that share a run.

    Attributes:
        rank: number of the process, from 0.
        size: how many there are.
        local_rank: number of the process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that talks, records and saves."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is only this process."""
        return self.size == 1

    def agree(self, *values: float, device: torch.device) -> list[float]:
        """Return the largest of each value over all processes: one small collective."""
        if self.alone:
            return list(values)
        # On the CPU the exchange costs no synchronization with an accelerator's queue.
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.tolist()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over all processes."""
        if not self.alone:
            dist.all_reduce(value)
            value /= self.size
        return value

    def interleaved(self, share: torch.Tensor) -> torch.Tensor:
        """Return the rows of all processes' equally long tensors: the first of each rank, the second, ..."""
        if self.alone:
            return share
        parts = [torch.empty_like(share) for _ in range(self.size)]
        dist.all_gather(parts, share)
        return torch.stack(parts, 1).flatten(0, 1)

    def wait(self) -> None:
        """Return when all processes have come here."""
        if not self.alone:
            dist.barrier()


ALONE = World()


def world_of_environment(environment: Mapping[str, str] = os.environ) -> World | None:
    """Return which process this is where a launcher started it (torchrun, PyTorchJob, srun), otherwise None.

    Raises:
        UsageError: the launcher's variables are no numbers, or count no such process.
    """
    names = launcher_of(environment)
    if names is None:
        return None
    try:
        rank, size, local = (int(environment.get(name, "0")) for name in names)
    except ValueError as error:
        raise UsageError(f"{', '.join(names)} in the environment must be numbers: {error}") from error
    if not 0 <= rank < size or local < 0:
        raise UsageError(
            f"{names[0]}={rank} and {names[1]}={size} in the environment count no process: 0 to {size - 1}"
        )
    return World(rank, size, local)


def as_worker(config: TrainConfig, world: World) -> TrainConfig:
    """Return the settings of a run whose processes a launcher has started: their number is the launcher's.

    Raises:
        UsageError: they do not divide the tokens of a step.
    """
    workers = config.workers.model_copy(update={"nproc": world.size, "nnodes": 1, "node_rank": 0})
    config = config.model_copy(update={"workers": workers})
    try:
        train = config.train.model_copy(update={"grad_accum": config.micro_steps()})
    except ValueError as error:
        raise UsageError(str(error), "Choose --tokens-per-step or --batch-size for this number of processes.") from None
    return config.model_copy(update={"train": train})


def join(world: World, device: torch.device, timeout: int) -> None:
    """Meet the other processes.

    Raises:
        VgptError: they did not all come.
    """
    if world.alone:
        return
    address = rendezvous(os.environ)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{address}" if address else "env://",
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout),
            # Else NCCL guesses by rank which GPU a process means, and a barrier may hang on the wrong one.
            device_id=device if device.type == "cuda" else None,
        )
    except (RuntimeError, ValueError) as error:
        raise VgptError(
            f"process {world.rank} of {world.size} did not meet the others: {str(error).splitlines()[0]}",
            f"Check that all {world.size} were started (by torchrun, or with Slurm by `srun vgpt train ...`), and that "
            "MASTER_ADDR and MASTER_PORT can be reached from each.",
        ) from error


def connection_broke(error: Exception) -> bool:
    """Return whether a process failed because another one no longer answers, in the words of gloo and NCCL.

    NCCL's errors of a process's own, such as memory or a GPU that two processes share, are not among them.
    """
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _BROKEN)


def leave() -> None:
    """Leave the group, if this process is in one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rendezvous(environment: Mapping[str, str]) -> str | None:
    """Return `host:port` where srun's processes meet; None where the launcher said it itself (MASTER_ADDR)."""
    if "MASTER_ADDR" in environment or "SLURM_PROCID" not in environment:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    job = environment.get("SLURM_JOB_ID", "0")
    port = 20_000 + (int(job) if job.isdecimal() else 0) % 20_000
    return f"{first_host(nodes)}:{environment.get('MASTER_PORT', port)}"


def interface_to(endpoint: str) -> str | None:
    """Return the name of this machine's network interface on the way to `host:port`; None where there is no way."""
    host, _, port = endpoint.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # of datagrams: nothing is sent
            here = probe.getsockname()[0]
    except (OSError, UnicodeError):
        return None
    found = psutil.net_if_addrs().items()
    return next((name for name, places in found if any(place.address == here for place in places)), None)


def first_host(nodes: str) -> str:
    """Return the first host of Slurm's list: `gpu[003-007,9],login1` gives gpu003.

    Raises:
        UsageError: the list is empty.
    """
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes.strip())
    if match is None:
        raise UsageError("SLURM_PROCID is set without SLURM_JOB_NODELIST", "Set MASTER_ADDR and MASTER_PORT.")
    name, number, rest = match.groups()
    return name + (number or "") + (rest or "")
