"""The variables by which launchers (torchrun, Slurm and others) tell a process which of many it is."""

from collections.abc import Mapping

from vgpt.errors import UsageError

TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
_NAMES = {*TORCH, *SLURM, "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_NAMES |= {"SLURM_NPROCS", "SLURM_NODEID", "SLURM_GTIDS", "SLURM_TASK_PID"}
_PREFIXES = ("ROLE_", "TORCHELASTIC_", "SLURM_STEP", "SLURM_SRUN_", "PMI_", "PMIX_", "OMPI_COMM_WORLD_")


def launcher_of(environment: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Return the variables that say rank, size and rank on the machine, of the launcher that set both of the first."""
    return next((names for names in (TORCH, SLURM) if names[0] in environment and names[1] in environment), None)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a process that no launcher has started: it is one of nobody's many."""
    return {name: value for name, value in environment.items() if name not in _NAMES and not name.startswith(_PREFIXES)}


def refuse_two_counts(environment: Mapping[str, str], asked: str) -> None:
    """Refuse to start processes in a process that a launcher has started as one of its own.

    Args:
        environment: of this process.
        asked: the flag that asks for processes, as typed; empty where none does.

    Raises:
        UsageError: a launcher and a flag both say how many processes there are.
    """
    names = launcher_of(environment)
    if names is None or not asked:
        return
    said = ", ".join(f"{name}={environment[name]}" for name in names[:2])
    free = " ".join(f"-u {name}" for name in names[:2])
    raise UsageError(
        f"{asked} starts processes, but {said} in the environment say that a launcher has started this one",
        f"Leave out {asked} where the launcher starts them; else start it free of them: env {free} vgpt train ...",
    )


def refuse_missing_srun(environment: Mapping[str, str]) -> None:
    """Refuse to wait, in a batch script, for the tasks that only srun would have started.

    Raises:
        UsageError: Slurm counts several tasks, and this process is not of a step of srun's.
    """
    tasks = environment.get("SLURM_NTASKS", "1")
    started = any(name.startswith("SLURM_STEP") for name in environment) or launcher_of(environment) == TORCH
    if started or environment.get("SLURM_PROCID") != "0" or tasks == "1":
        return
    raise UsageError(
        f"SLURM_NTASKS={tasks}, but srun has not started this process: the other tasks would never come",
        "In the batch script write `srun vgpt train ...`; to train in this process alone: "
        "env -u SLURM_PROCID -u SLURM_NTASKS vgpt train ...",
    )


def lonely_note(environment: Mapping[str, str]) -> str:
    """Return a remark where Slurm holds several tasks ready and this process uses one; else an empty text."""
    tasks = environment.get("SLURM_NTASKS", "1")
    if tasks == "1" or launcher_of(environment) is not None:
        return ""
    return f"SLURM_NTASKS={tasks}, and srun has not started this process: it trains alone (srun starts all of them)"
