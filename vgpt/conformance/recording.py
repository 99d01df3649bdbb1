"""What a CUDA graph does, on any device: record the operations of one call, and repeat them on the same memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import PAGE, Cache
from vgpt.attention.place import Place
from vgpt.errors import VgptError
from vgpt.model.steps import cuda_recorder

_WAITING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.item.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
)


class Recording(TorchDispatchMode):
    """Records the tensor operations inside its block; what Python decides there is decided once and for all."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what was asked for, and note it.

        Raises:
            VgptError: Python asks for a number, for which a GPU would have to be waited for.
        """
        if func in _WAITING:
            raise VgptError("a step that is to be recorded reads a number from the device")
        made = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, made))
        return made

    def repeat(self) -> None:
        """Do it all again; what was written into memory from before the recording is written there again."""
        # The first ones are kept by the calls, so that no two of them ever had the same identity.
        now: dict[int, Tensor] = {}

        def current(tensor: Tensor) -> Tensor:
            return now.get(id(tensor), tensor)

        for func, args, kwargs, made in self._calls:
            arguments, options = tree_map_only(Tensor, current, (args, kwargs))
            again = func(*arguments, **options)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, Tensor):
                    now[id(old)] = new


def record(run: Callable[[], None]) -> Callable[[], object]:
    """Run something, and return what runs the same operations again."""
    recording = Recording()
    with recording:
        run()
    return recording.repeat


class RecordedLayer:
    """The step of one layer, recorded once for each layout of its cache and repeated for all other tokens.

    Args:
        module: the layer.
        cache: its cache.
        limit: most tokens.
        like: inputs of the type, device and width of those to come, (B, T, C).
    """

    def __init__(self, module: CausalSelfAttention, cache: Cache, limit: int, like: Tensor) -> None:
        self._module, self._cache, self._limit = module, cache, limit
        self._x, self._y = (torch.zeros_like(like[:, :1]) for _ in range(2))
        self._position = torch.zeros(1, dtype=torch.int64, device=like.device)
        self._record = cuda_recorder(like.device) if like.is_cuda else record
        self._recordings: dict[int, Callable[[], object]] = {}

    def step(self, x: Tensor) -> Tensor:
        """Map the next token (B, 1, C) to (B, 1, C)."""
        at = self._cache.length
        layout = self._cache.settle(-(-(at + 1) // PAGE) * PAGE)
        self._x.copy_(x)
        self._position.fill_(at)
        if layout in self._recordings:
            self._recordings[layout]()
        else:
            self._recordings[layout] = self._record(self._run)
        self._cache.advance()
        return self._y.clone()

    def _run(self) -> None:
        self._y.copy_(self._module.step_at(self._x, self._cache, Place(self._position, self._limit)))
