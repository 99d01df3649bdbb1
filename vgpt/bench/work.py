"""What is measured of a variant: a training step, reading prompts, one more token through the cache."""

import time
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from vgpt.bench.machine import bytes_of, peak_bytes, wait_for
from vgpt.bench.result import DECODE, PREFILL, TRAIN
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes, cache_read_bytes, count_parameters, decode_flops, prefill_flops, train_flops
from vgpt.model.decoding import Decoder
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.settings.train import SystemSettings
from vgpt.training.graphed_step import EAGER, GraphedStep, build_step
from vgpt.training.hardware.devices import Compute
from vgpt.training.optimizer import build_optimizer
from vgpt.training.step import TrainStep

_SEED = 1337
_LONGEST_STRETCH = 64
"""Decoding steps after one reading of the context, at most."""


@dataclass(frozen=True)
class Point:
    """What one case is about: a phase at a batch and a context; `accum` micro-batches make a training step."""

    phase: str
    batch: int
    context: int
    accum: int = 1


class Work(ABC):
    """One variant in one case, ready to be measured.

    Attributes:
        tokens: of one step.
        flops: of one step.
        bytes_read: by one step of decoding.
        cache: bytes of the caches, as measured and as the settings have it.
        note: what a reader should know of how it computed; empty for nothing.
    """

    tokens: int
    flops: float
    bytes_read: int = 0
    cache: tuple[int, int] = (0, 0)
    note: str = ""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @abstractmethod
    def step(self, times: int) -> float:
        """Do so many steps, after what prepares for them; return the seconds that the steps took."""

    @abstractmethod
    def peak(self) -> int | None:
        """Return the most bytes of tensors in a step."""

    def seconds(self, times: int) -> float:
        """Return the seconds of one step, from so many."""
        return self.step(times) / times

    def fitting(self, seconds: float) -> int:
        """Warm up, and return how many steps take so long."""
        self.step(1)
        taken = self.step(2) / 2
        return max(1, round(seconds / max(taken, 1e-7)))


class Training(Work):
    """Optimizer steps on random tokens; the rate is 0, so that all steps do the same work on the same weights."""

    def __init__(self, config: GPT2Config, point: Point, compute: Compute, system: SystemSettings) -> None:
        super().__init__(compute.device)
        model = build(config, compute.device).train()
        self.model = model
        model.recompute = system.recompute
        model.compile_blocks(bool(system.compile))
        self.optimizer = build_optimizer(model, lr=1e-3, device=compute.device)
        self.batches = [_tokens(config, point, compute.device, extra=1) for _ in range(point.accum)]
        self.tokens = point.batch * point.accum * point.context
        self.flops = float(train_flops(config, point.context) * point.batch * point.accum)
        self.plain = TrainStep(model, self.optimizer, dtype=compute.dtype)
        # As `vgpt train` takes it: perhaps recorded after a few updates and replayed.
        self.update = build_step(
            model,
            self.optimizer,
            self.plain.replica,
            dtype=compute.dtype,
            grad_clip=self.plain.grad_clip,
            flops=self.flops / point.accum,
            alone=True,
            notify=warnings.warn,
        )
        if isinstance(self.update, GraphedStep):
            for _ in range(EAGER + 1):
                self._update()

    def step(self, times: int) -> float:
        """Update once unmeasured, for another variant was measured before; then measure."""
        self._update()
        wait_for(self.device)
        begun = time.perf_counter()
        for _ in range(times):
            self._update()
        wait_for(self.device)
        return time.perf_counter() - begun

    def peak(self) -> int | None:
        """Weights, gradients, optimizer and activations of a step."""
        batches = self._micro_batches()
        self.plain(batches, 0.0)  # a replay takes its memory once and for all: what it needs shows outside of it
        return peak_bytes(self.device, bytes_of(self.model, self.optimizer), lambda: self.plain(batches, 0.0))

    def _update(self) -> None:
        self.update(self._micro_batches(), 0.0)

    def _micro_batches(self) -> list[tuple[Tensor, Tensor]]:
        return [(ids[:, :-1], ids[:, 1:]) for ids in self.batches]


class Prefill(Work):
    """Reading prompts up to the choice of the first token."""

    def __init__(self, config: GPT2Config, point: Point, compute: Compute) -> None:
        super().__init__(compute.device)
        self.config, self.point = config, point
        self.decoder = Decoder(build(config, compute.device), compute.dtype)
        self.ids = _tokens(config, point, compute.device)
        self.tokens = point.batch * point.context
        self.flops = float(prefill_flops(config, point.context) * point.batch)
        element = compute.dtype.itemsize
        caches = self.decoder.make_caches(point.batch, point.context)
        self.decoder.next_logits(self.ids, caches)
        analytic = cache_bytes(config, point.context, element) * point.batch
        self.cache = (sum(cache.nbytes for cache in caches), analytic)
        self.weights = weight_bytes(config, element)
        self.all_weights = count_parameters(config).total * element

    def step(self, times: int) -> float:
        """Read the prompts so many times, once more before that."""
        self._read()
        wait_for(self.device)
        begun = time.perf_counter()
        for _ in range(times):
            self._read()
        wait_for(self.device)
        return time.perf_counter() - begun

    def peak(self) -> int | None:
        """Weights, caches and activations while prompts are read."""
        self._read()
        return peak_bytes(self.device, self.all_weights, self._read)

    def _read(self) -> Tensor:
        caches = self.decoder.make_caches(self.point.batch, self.point.context)
        return self.decoder.next_logits(self.ids, caches).argmax(-1)


class Decoding(Prefill):
    """One more token of each sequence, in the last part of the context."""

    def __init__(self, config: GPT2Config, point: Point, compute: Compute) -> None:
        super().__init__(config, point, compute)
        element = compute.dtype.itemsize
        self.stretch = max(1, min(_LONGEST_STRETCH, point.context // 2))
        self.tokens = point.batch
        # The steps of a stretch end at the context; its middle stands for them.
        middle = point.context - self.stretch // 2
        self.flops = float(decode_flops(config, middle) * point.batch)
        self.bytes_read = self.weights + cache_read_bytes(config, middle, element) * point.batch
        self.steps = self.decoder.steps(point.batch, point.context)

    def step(self, times: int) -> float:
        """Read the front of the context unmeasured, then measure steps, as often as it takes."""
        taken = 0.0
        while times > 0:
            stretch = min(times, self.stretch)
            self.steps.reset()
            # The last stretch may be short; it ends where the others do, behind tokens that are not measured.
            chosen = self.steps.next_logits(self.ids[:, : self.point.context - stretch]).argmax(-1, True)
            wait_for(self.device)
            begun = time.perf_counter()
            for _ in range(stretch):
                chosen = self.steps.next_logits(chosen).argmax(-1, True)
            wait_for(self.device)
            taken += time.perf_counter() - begun
            times -= stretch
        self.note = self.steps.note
        return taken


def prepare(config: GPT2Config, point: Point, compute: Compute, system: SystemSettings) -> Work:
    """Return a variant's work in a case."""
    if point.phase == TRAIN:
        return Training(config, point, compute, system)
    kinds: dict[str, type[Prefill]] = {PREFILL: Prefill, DECODE: Decoding}
    return kinds[point.phase](config, point, compute)


def build(config: GPT2Config, device: torch.device) -> GPT2Model:
    """Return a model with its first weights."""
    model = GPT2Model(config)
    initialize(model, _SEED)
    return model.to(device)


def weight_bytes(config: GPT2Config, element: int) -> int:
    """Return the bytes of weights that a decoding step reads: all but tables of which it looks up a row."""
    count = count_parameters(config)
    looked_up = count.position_embedding + (0 if config.tie_weights else count.token_embedding)
    return (count.total - looked_up) * element


def _tokens(config: GPT2Config, point: Point, device: torch.device, *, extra: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    shape = (point.batch, point.context + extra)
    return torch.randint(config.vocab_size, shape, generator=generator).to(device)
