"""One process's hold on the model: whole and alone, whole and kept equal (DDP), or a share of it (FSDP2, HSDP).

All three compute the same losses and hand out the same state: whole tensors under the model's own names, so that what
one of them saved any of them continues.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vgpt.errors import CheckpointError, UsageError
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.loss import cross_entropy, token_losses
from vgpt.settings.train import TrainConfig
from vgpt.training.parallel.distributed import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Losses(nn.Module):
    """The model with its loss as one forward pass: what DDP and FSDP wrap, so that their hooks see all of it."""

    def __init__(self, model: GPT2Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor, *, each: bool = False) -> Tensor:
        """Return the mean loss in nats, or with `each` that of every token, (B, T), without gradient."""
        return token_losses(self.model, ids, targets) if each else cross_entropy(self.model, ids, targets)


class Replica:
    """The model of a process that works alone."""

    def __init__(self, model: GPT2Model) -> None:
        self.model = model
        self.losses: nn.Module = Losses(model)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of (B, T) ids in nats."""
        return self.losses(ids, targets)

    def token_losses(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every token, (B, T), without gradient."""
        return self.losses(ids, targets, each=True)

    def micro_step(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of a micro-step: gradients are exchanged in the last one only."""
        return nullcontext()

    def weights(self) -> dict[str, Tensor]:
        """Return the whole weights by name; all processes must call it, and the main one gets them."""
        return {name: tensor.detach().contiguous() for name, tensor in self.model.state_dict().items()}

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Return the optimizer's whole state as `<parameter>/<slot>` tensors; called as `weights`."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            for slot, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}/{slot}"] = value.detach().contiguous()
        return tensors

    def load_optimizer(self, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
        """Give the optimizer its saved state back, by parameter name.

        Raises:
            CheckpointError: of another model.
        """
        by_name = dict(self.model.named_parameters())
        fused = any(group.get("fused") for group in optimizer.param_groups)
        for key, value in tensors.items():
            name, _, slot = key.rpartition("/")
            if name not in by_name:
                raise CheckpointError(f"saved optimizer state of {name!r}, which the model does not have")
            parameter = by_name[name]
            if slot == "step":
                # AdamW counts steps in a CPU tensor, unless the fused kernel reads the count on the device.
                optimizer.state[parameter][slot] = value.to(parameter.device if fused else "cpu")
            else:
                optimizer.state[parameter][slot] = self._share(value.to(parameter.device), parameter)

    def _share(self, value: Tensor, parameter: Tensor) -> Tensor:
        """Return what this process keeps of a whole tensor that belongs to a parameter."""
        return value


class DDPReplica(Replica):
    """A whole model per process, kept equal by averaging gradients (Li et al. 2020, arXiv 2006.15704)."""

    def __init__(self, model: GPT2Model, device: torch.device) -> None:
        super().__init__(model)
        self._ddp = nn.parallel.DistributedDataParallel(
            self.losses, device_ids=[device.index] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of this process's ids."""
        return self._ddp(ids, targets)

    def micro_step(self, last: bool) -> AbstractContextManager[Any]:
        """Hold the exchange of gradients back until the last micro-step."""
        return nullcontext() if last else self._ddp.no_sync()


class FSDPReplica(Replica):
    """A share of every tensor per process (FSDP2: Zhao et al. 2023, arXiv 2304.11277); blocks are gathered in turn.

    Shares are in float32, and so is the sum of gradients. In bfloat16 a block travels as it is multiplied with: half
    the bytes. Its norms, too, then compute with weights rounded to it. Embeddings and the last norm travel whole: what
    they add to the residual stream stays in float32, as in a process alone.

    Args:
        model: on its device, weights equal in all processes.
        dtype: type of matrix products.
        mesh: with two dimensions, machines and processes of each (HSDP): every machine holds the whole model, shared
            out among its processes, and only gradients travel between machines. By default all processes share one.
    """

    def __init__(
        self, model: GPT2Model, dtype: torch.dtype = torch.float32, *, mesh: "DeviceMesh | None" = None
    ) -> None:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        super().__init__(model)
        travels = dtype if dtype is torch.bfloat16 else None
        # Autocast chooses the types of everything else, as it does in a process alone.
        policy = MixedPrecisionPolicy(param_dtype=travels, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in model.h:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(self.losses, mesh=mesh)

    def micro_step(self, last: bool) -> AbstractContextManager[Any]:
        """Hold the exchange of gradients back until the last micro-step."""
        self.losses.set_requires_gradient_sync(last)  # type: ignore[operator]  # fully_shard adds it
        return nullcontext()

    def weights(self) -> dict[str, Tensor]:
        """Gather the weights on the main process."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = dict(get_model_state_dict(self.model, options=options))
        return state

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Gather the optimizer's state on the main process."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        gathered: dict[str, Any] = dict(get_optimizer_state_dict(self.model, optimizer, options=options))
        state: dict[str, dict[str, Tensor]] = gathered.get("state", {})
        return {f"{name}/{slot}": value for name, slots in state.items() for slot, value in slots.items()}

    def _share(self, value: Tensor, parameter: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(parameter, DTensor):
            return value
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def build_replica(
    model: GPT2Model, config: TrainConfig, world: World, device: torch.device, dtype: torch.dtype
) -> Replica:
    """Return this process's hold on a model that is on its device, with weights equal in all processes.

    Args:
        model: see there.
        config: of the run.
        world: this process among others.
        device: where the model is.
        dtype: type of matrix products.

    Raises:
        UsageError: machines cannot be told apart as `--parallel hsdp` wants them.
    """
    if world.alone:
        return Replica(model)
    if config.workers.parallel == "ddp":
        return DDPReplica(model, device)
    mesh = machines(world, device) if config.workers.parallel == "hsdp" else None
    return FSDPReplica(model, dtype, mesh=mesh)


def machines(world: World, device: torch.device) -> "DeviceMesh":
    """Return the processes as machines by processes of each.

    Raises:
        UsageError: there is one machine, or they do not run equally many processes.
    """
    from torch.distributed.device_mesh import init_device_mesh

    (highest,) = world.agree(world.local_rank, device=device)
    here = int(highest) + 1
    if here == world.size:
        raise UsageError(
            "--parallel hsdp copies the model between machines, and all processes are on one", "Use --parallel fsdp."
        )
    # Processes are numbered machine by machine, which is what the mesh assumes.
    (other,) = world.agree(world.rank % here != world.local_rank, device=device)
    if world.size % here or other:
        raise UsageError(
            f"--parallel hsdp needs equally many processes on each machine; one has {here} of {world.size}",
            "Start as many on each, or use --parallel fsdp.",
        )
    return init_device_mesh(device.type, (world.size // here, here), mesh_dim_names=("machine", "process"))
