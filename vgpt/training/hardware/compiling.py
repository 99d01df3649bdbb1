"""Whether a run whose `compile` nobody set goes through torch.compile: on CUDA, where the model is large enough.

The rule looks at the trunk and the machine alone, never at the variant, the batch or the number of processes: all runs
of a comparison come to the same, and so does a run that is continued by other processes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from vgpt.attention.plugin_record import plugin_record
from vgpt.settings.loader import Loaded
from vgpt.settings.model import ModelSettings
from vgpt.settings.train import SystemSettings, TrainConfig

FEWEST_PARAMETERS = 30_000_000
"""Of the blocks, 12 L C^2. With 16,384 tokens a micro-step of so many takes 3e12 FLOPs; below that the host, which
starts kernels, is what is waited for, and a CUDA graph (vgpt.training.graphed_step) replays them without the minute
that compiling takes (42 s more in a run of 60 steps on an H100: benchmarks/results/gpu/runs.json)."""

_OLDEST = (7, 0)
"""Compute capability of the oldest GPUs that Triton, which compiles for them, knows."""

C = TypeVar("C", bound=TrainConfig)


@dataclass(frozen=True)
class Target:
    """What code would be compiled for: the device's kind, the precision, and on CUDA what Triton asks of it."""

    kind: str
    dtype: str = "bfloat16"
    capability: tuple[int, int] = (9, 0)
    triton: bool = True
    rocm: bool = False


def pays(parameters: int, plugins: Sequence[str], target: Callable[[], Target]) -> tuple[bool, str]:
    """Return whether a model is compiled where nobody said so, and why.

    Args:
        parameters: of the blocks, as `block_parameters` counts them.
        plugins: variants that plug-ins bring.
        target: says what code would be for; asked last, for torch takes a second to import.
    """
    millions = f"{parameters / 1e6:.3g}M parameters in its blocks"
    if parameters < FEWEST_PARAMETERS:
        return False, f"a model with {millions} takes longer to compile than it gains"
    if plugins:
        return False, f"nobody knows whether the plug-in of {plugins[0]} can be compiled; --compile tries it"
    found = target()
    if found.kind != "cuda" or found.rocm:
        return False, f"no gain was measured on {'ROCm' if found.rocm else found.kind.upper()}"
    if found.dtype == "float16":
        return False, "compiled float16 with its loss scaling was not measured"
    if not found.triton or found.capability < _OLDEST:
        return False, "Triton, which compiles for CUDA, is not to be had for this device"
    return True, f"a CUDA device, and a model with {millions}"


def block_parameters(model: ModelSettings) -> int:
    """Return the parameters of the trunk's blocks with standard attention and unmatched MLPs, biases left out."""
    return 12 * model.n_layer * model.n_embd**2


def by_default(model: ModelSettings, system: SystemSettings) -> tuple[bool, str]:
    """Return whether a model is compiled here where nobody said so, and why; see `pays`."""
    plugins = [one["kind"] for one in plugin_record(model.attn, model.n_layer)]
    return pays(block_parameters(model), plugins, lambda: _target(system))


def settle(config: C) -> tuple[C, str]:
    """Return settings with `compile` as it comes to here, and why; as they are, and nothing, where it was set.

    A run that was begun under the name that is asked for goes on as it was begun.
    """
    if config.system.compile is not None:
        return config, ""
    compile, why = by_default(config.model, config.system)
    if config.run.run_name is not None and (begun := _begun(config.directory / "settings.json")) is not None:
        compile, why = begun, "as the run was begun"
    return config.model_copy(update={"system": config.system.model_copy(update={"compile": compile})}), why


def settle_loaded(loaded: Loaded[C]) -> Loaded[C]:
    """Return loaded settings with `compile` as `settle` has it, the reason in its origin."""
    settings, why = settle(loaded.settings)
    origins: dict[str, str] = {"compile": f"default: {why}"} if why else {}
    return replace(loaded, settings=settings, origins={**loaded.origins, **origins})


def _begun(path: Path) -> bool | None:
    try:
        return bool(TrainConfig.model_validate_json(path.read_bytes()).system.compile)
    except (OSError, ValueError):
        return None  # not begun, or damaged, which those who read it next will say


def _target(system: SystemSettings) -> Target:
    if system.device in ("cpu", "mps"):
        return Target(system.device)
    import torch

    from vgpt.errors import UsageError
    from vgpt.training.hardware.devices import chosen

    try:
        name, dtype = chosen(system)
    except UsageError:  # said by those who take the device
        return Target(system.device.partition(":")[0], triton=False)
    device = torch.device(name)
    if device.type != "cuda":
        return Target(device.type, dtype)
    rocm: Any = torch.version.hip
    triton = find_spec("triton") is not None
    return Target("cuda", dtype, torch.cuda.get_device_capability(device), triton, bool(rocm))
