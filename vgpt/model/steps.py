"""One token after the other through the caches; on CUDA as a graph, which is recorded once and replayed.

A decoding step of a small model is hundreds of short kernels: starting each from Python takes longer than all of them
take to run. A graph starts them by one call. It is recorded for memory of a given layout: caches grow by whole rooms
of rows, and each room has a graph of its own. The first step in a room runs as it is, which loads what kernels need.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vgpt.attention.cache import PAGE, Cache
from vgpt.attention.place import Place
from vgpt.model.cuda_graphs import NotRecordedError, run_aside, side_stream
from vgpt.model.cuda_graphs import record as record_graph
from vgpt.model.gpt2 import GPT2Model

SMALLEST_ROOM = 256
"""Rows that a graph reads at least; at batch 1 that is a hundredth of what the weights of a small model are."""

Recorder = Callable[[Callable[[], None]], Callable[[], object]]
"""Runs something, and returns what repeats it on the same memory."""


class Steps:
    """Caches of some sequences, and the logits of whatever comes next.

    Args:
        model: a model that is not trained while this is in use.
        head: maps what comes after the last norm to logits.
        batch: sequences.
        max_tokens: most tokens of each.
        dtype: type of the caches.
        recorder: records steps; None takes every step by `GPT2Model.hidden`.

    Attributes:
        caches: one per layer; they may be reset and rewound between steps.
        note: why steps are not recorded although they should be, in plain words; empty otherwise.
    """

    def __init__(
        self,
        model: GPT2Model,
        head: Callable[[Tensor], Tensor],
        batch: int,
        max_tokens: int,
        *,
        dtype: torch.dtype,
        recorder: Recorder | None = None,
    ) -> None:
        self._model, self._head, self._recorder = model, head, recorder
        self.note = ""
        without = dict.fromkeys(block.attn.config.kind for block in model.blocks if not block.attn.steps)
        if recorder is not None and without:
            layers = ", ".join(without)
            self._give_up(f"attention of this kind has no step of fixed shapes: {layers}")
        self.batch, self.dtype = batch, dtype
        # Whole pages: kernels want rows aligned, and the next text of a similar length finds the same memory.
        self.capacity = max_tokens if self._recorder is None else whole_pages(max_tokens)
        self.caches: list[Cache] = model.make_caches(batch, self.capacity, dtype=dtype)
        self._recordings: dict[tuple[int, ...], Callable[[], object]] = {}
        if self._recorder is None:
            return
        weight = model.wte.weight
        self._ids = torch.zeros(batch, 1, dtype=torch.int64, device=weight.device)
        self._position = torch.zeros(1, dtype=torch.int64, device=weight.device)
        self._logits = torch.zeros(batch, model.config.vocab_size, device=weight.device)
        self._on_device = 0  # what the position on the device is
        self._room, self._layout = 0, tuple[int, ...]()
        self._last = model.config.block_size if model.wpe is not None else self.capacity

    @property
    def recorded(self) -> bool:
        """Whether steps are recorded and replayed."""
        return self._recorder is not None

    def next_logits(self, ids: Tensor) -> Tensor:
        """Return the logits (B, V), float32, of the token after `ids` (B, T), which continue what the caches hold.

        The next call may write into the same memory.
        """
        with torch.inference_mode(), torch.autocast(ids.device.type, enabled=False):
            if self._recorder is None or ids.shape[1] > 1 or self.caches[0].length >= self._last:
                return self._head(self._model.hidden(ids, self.caches)[:, -1]).float()
            return self._step(ids)

    def reset(self) -> None:
        """Forget all tokens."""
        for each in self.caches:
            each.reset()

    def _step(self, ids: Tensor) -> Tensor:
        at = self.caches[0].length
        if at >= self._room:
            self._room = min(self.capacity, room_for(at + 1))
            self._layout = tuple(each.settle(self._room) for each in self.caches)
        for each in self.caches:
            each.advance()
        self._ids.copy_(ids)
        if at != self._on_device:
            self._position.fill_(at)
        self._on_device = at + 1
        replay = self._recordings.get(self._layout)
        if replay is None:
            self._record()
        else:
            replay()
        return self._logits

    def _record(self) -> None:
        """Do one step and record it."""
        assert self._recorder is not None
        try:
            self._recordings[self._layout] = self._recorder(self._run)
        except NotRecordedError as error:
            self._give_up(str(error))

    def _run(self) -> None:
        hidden = self._model.step_at(self._ids, self.caches, Place(self._position, self.capacity))
        self._logits.copy_(self._head(hidden[:, -1]))
        self._position.add_(1)

    def _give_up(self, why: str) -> None:
        self._recorder = None
        self.note = f"decoding starts its kernels one by one, which is slower than a CUDA graph: {why}"


def room_for(tokens: int) -> int:
    """Return the rows of the smallest room for so many tokens: 256, 384, 512, 768, 1024, 1536 and so on.

    Reading a few rows that nobody needs costs less than recording a graph for every page.
    """
    room = SMALLEST_ROOM
    while room < tokens:
        if room + room // 2 >= tokens:
            return room + room // 2
        room *= 2
    return room


def whole_pages(tokens: int) -> int:
    """Return the tokens of as many whole pages as hold `tokens`."""
    return -(-tokens // PAGE) * PAGE


def run_again(run: Callable[[], None]) -> Callable[[], object]:
    """Run something; to repeat it is to call it, as on devices without graphs."""
    run()
    return run


def cuda_recorder(device: torch.device) -> Recorder:
    """Return what records CUDA graphs that share their memory; none of them may run beside another."""
    pool = torch.cuda.graph_pool_handle()

    def record(run: Callable[[], None]) -> Callable[[], object]:
        run_aside(run, device)
        return record_graph(run, device, pool=pool, stream=side_stream(device)).replay

    return record
