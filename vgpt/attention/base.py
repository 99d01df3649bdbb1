"""The module side of an attention variant: what the model asks of it, and nothing more.

Legend for shapes everywhere in vgpt: B batch, T tokens, S keys, C width (n_embd), H query heads, G key/value heads,
D head width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from vgpt.attention.cache import Cache
from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.kernels import flex
from vgpt.attention.kernels.rope import apply_rotary, rotary_tables
from vgpt.attention.place import Place
from vgpt.attention.roles import Role, usual_role
from vgpt.errors import VgptError

ConfigT = TypeVar("ConfigT", bound=AttentionConfig)
"""The settings class of a module: `class Mine(CausalSelfAttention[MineConfig])`."""


class CausalSelfAttention(nn.Module, ABC, Generic[ConfigT]):
    """One attention layer.

    Constructors only create parameters; the model fills them, each from a random stream of its own, so that swapping
    the variant leaves every other tensor as it was. How each starts, and whether it decays, follows from its role:
    `parameter_roles` says what name and dimensions do not, and `init_parameters` fills what starts like nothing usual.
    The projection back to the residual stream is called `c_proj`: its weights start smaller.

    Args:
        config: the variant's settings.
        shape: the backbone.
        layer: index of the block, for variants whose pattern depends on it.
    """

    def __init__(self, config: ConfigT, shape: Shape, layer: int = 0) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.layer = layer
        self._prepared: BlockMask | None = None

    @abstractmethod
    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C); with a cache, positions start at `cache.length`, which grows by T."""

    @abstractmethod
    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> Cache:
        """Allocate what this layer remembers of `batch` sequences of up to `max_tokens`."""

    def parameter_roles(self) -> Mapping[str, Role]:
        """Return the role of each parameter, by its name in this layer, whose name and dimensions tell another one."""
        return {}

    def init_parameters(self, generator: torch.Generator) -> None:
        """Fill the parameters of role `OWN`, and no others, in place.

        The others are filled before. Called without gradients on float32 parameters on the CPU, whatever the model's
        type and device, with a generator that depends on the seed and the layer's name in the model alone: whoever
        draws from it, and from nothing else, leaves all other layers as they are.
        """

    def rotated(self, start: int, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return queries or keys (B, T, heads, D) rotated by their positions, from `start` on, where `--pos` is rope.

        With any other `--pos` they come back as they are.
        """
        if self.shape.pos != "rope":
            return parts
        _, tokens, _, width = parts[0].shape
        tables = rotary_tables(start, tokens, width, self.shape.rope_base, parts[0].device)
        return tuple(apply_rotary(part, *tables) for part in parts)

    def block_mask(self, tokens: int, device: torch.device) -> BlockMask | None:
        """Return the mask with which FlexAttention computes a whole sequence on a device that has it; None = not by it.

        Made and kept by `vgpt.attention.kernels.flex.kept`, so that asking again costs nothing.
        """
        return None

    def prepare(self, tokens: int, device: torch.device) -> None:
        """Have the mask for whole sequences at hand; called before compiled code, where making it would be traced."""
        self._prepared = self.block_mask(tokens, device) if flex.has_kernel(device) else None

    def mask_for(self, q: Tensor, k: Tensor, v: Tensor) -> BlockMask | None:
        """Return the mask with which FlexAttention is to compute a whole sequence, or None where it is not to."""
        if not flex.can_flex(q, k, v):
            return None
        ready, tokens = self._prepared, q.shape[2]
        if ready is not None and ready.seq_lengths[0] == tokens and ready.kv_indices.device == q.device:
            return ready
        return self.block_mask(tokens, q.device)

    @property
    def steps(self) -> bool:
        """Whether `step_at` may be called.

        Only where the class itself defines it: a subclass that changes what tokens see, and inherits a step that knows
        nothing of it, would decode something else. One that changes nothing of that kind says so in a line:
        `step_at = GroupedAttention.step_at`.
        """
        return "step_at" in vars(type(self))

    def step_at(self, x: Tensor, cache: Cache, place: Place) -> Tensor:
        """Map the newest token of each sequence, (B, 1, C) to (B, 1, C), as `forward` with a cache; optional.

        For CUDA graphs, which record the operations of one call and repeat them for later tokens. So nothing here may
        depend on `cache.length` or wait for the device: the token's position is known to `place` only, memory is
        written in place, and all of it is read. `cache.settle` has made room before; the caller counts the token with
        `cache.advance`. Runs without gradients.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step of fixed shapes")

    def pack(self) -> None:
        """Lay out weights as decoding steps want them; called once on a copy that is not trained any more.

        Linear layers are laid out by the caller; this is for variants that multiply with parts of a weight themselves.
        """

    def mask(
        self, q0: int, nq: int, k0: int, nk: int, device: torch.device | str | None = None, *, head: int = 0
    ) -> Tensor:
        """Return (nq, nk) booleans: may query `q0 + i` see key `k0 + j`; from the settings' one definition."""
        q = torch.arange(q0, q0 + nq, device=device)[:, None]
        k = torch.arange(k0, k0 + nk, device=device)[None, :]
        return self.config.visible(q, k, self.layer, head)


def layers_of(model: nn.Module) -> list[tuple[str, CausalSelfAttention]]:
    """Return the attention layers in a model, or the layer itself, with their names in it."""
    return [(name, one) for name, one in model.named_modules() if isinstance(one, CausalSelfAttention)]


def roles_of(model: nn.Module) -> dict[str, Role]:
    """Return the role of every parameter of a model or layer by its name, in the order of `named_parameters`.

    Raises:
        VgptError: a layer speaks of a parameter that it does not have.
    """
    roles = {name: usual_role(name, parameter.ndim) for name, parameter in model.named_parameters()}
    for prefix, layer in layers_of(model):
        for name, role in layer.parameter_roles().items():
            full = f"{prefix}.{name}" if prefix else name
            if full not in roles:
                raise VgptError(
                    f"{type(layer).__name__}.parameter_roles() names {name!r}, which is none of its parameters",
                    f"Its parameters: {', '.join(name for name, _ in layer.named_parameters())}.",
                )
            roles[full] = Role(role)
    return roles
