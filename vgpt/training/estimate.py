"""What a run will take before it is begun: bytes per process, and hours."""

import time
from dataclasses import dataclass

import psutil
import torch

from vgpt.attention.config import AttentionConfig
from vgpt.model.config import GPT2Config
from vgpt.model.costs import count_parameters, forward_flops, train_flops
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.model.loss import LARGE, most_logits
from vgpt.settings.train import TrainConfig
from vgpt.training.hardware.devices import Compute
from vgpt.training.hardware.peak import peak_flops
from vgpt.training.optimizer import build_optimizer
from vgpt.training.step import TrainStep

PROBE_SECONDS = 10.0
_ASSUMED_MFU = 0.3
_PROBE_STEPS = 2
_WARM_UP = 1

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the widest moment of a step, as `estimate_memory` reckons them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it; allocator, kernels and the interpreter come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True)
class Duration:
    """How long a run will take in seconds, and what that rests on."""

    step: float
    total: float
    basis: str


def estimate_memory(config: TrainConfig, vocab_size: int, dtype: torch.dtype, device: torch.device = _CPU) -> Memory:
    """Reckon the memory of one process.

    With N parameters, B sequences of T tokens in a micro-step, width C, MLP width F, L layers, V ids, and e bytes per
    element of matrix products (2 under autocast, else 4):

    - weights 4 N, and 2 N more for their copies under autocast; gradients 4 N; AdamW's two moments 8 N. FSDP divides
      all of them by the number of processes, HSDP by that of a machine;
    - activations kept for the backward pass, per token and layer: the two inputs of the norms 8 C (float32), the
      inputs of the four products e (3 C + F), queries, keys and values e H (2 qk_dim + v_dim), the MLP before its
      activation e F; without fused kernels also the T attention weights of each head, 4 H T, and under autocast their
      copy, 2 H T; dropout masks 2 C. The ends of the model keep 4 C + e C once. `--recompute` keeps 4 C per layer and
      the rest of one layer;
    - logits: of all tokens at once e + 8 bytes each up to 2^22 of them, beyond that one chunk of 2^26 at most (2^31 on
      a large GPU), e + e each, with the gradients (4 + e) V C of the output layer.

    Variants that share keys or make further tensors differ somewhat in the term of queries, keys and values.
    """
    model = config.model
    N = count_parameters(GPT2Config(**dict(model), vocab_size=vocab_size)).total
    share = {"fsdp": config.workers.world_size, "hsdp": config.workers.nproc}.get(config.workers.parallel, 1)
    low = dtype is not torch.float32
    e, tokens, C = 2 if low else 4, config.train.batch_size * model.block_size, model.n_embd
    layers = [tokens * _kept(config, model.attn.at(layer), e) for layer in range(model.n_layer)]
    blocks = max(layers) + 4 * C * tokens * model.n_layer if config.system.recompute else sum(layers)
    count = tokens * vocab_size
    logits = (e + 8) * count if count <= LARGE else 2 * e * min(count, most_logits(device)) + (4 + e) * vocab_size * C
    return Memory(
        weights=(4 + 2 * low) * N // share,
        gradients=4 * N // share,
        optimizer=8 * N // share,
        activations=blocks + tokens * C * (4 + e),
        logits=logits,
    )


def _kept(config: TrainConfig, attn: AttentionConfig, e: int) -> int:
    """Bytes that one layer keeps per token."""
    model = config.model
    C, F, H = model.n_embd, model.hidden, model.n_head
    heads = H * (2 * attn.maps * attn.qk_dim(model.shape) + attn.v_dim(model.shape))
    weights = 0 if model.flash else H * model.block_size * (4 if e == 4 else 4 + e)
    return 8 * C + e * (3 * C + 2 * F + heads) + weights + (2 * C if model.dropout else 0)


def estimate_time(config: TrainConfig, vocab_size: int, compute: Compute) -> Duration:
    """Reckon the time of a run, evaluations included, from steps of the real size where those are cheap.

    A micro-step is measured on random tokens if a few of them are expected within `PROBE_SECONDS` and fit in memory;
    otherwise the time is that of the run's FLOPs at an assumed share of the device's peak. Several processes are taken
    to cost nothing beyond their share.
    """
    model = GPT2Config(**dict(config.model), vocab_size=vocab_size)
    peak = peak_flops(compute)
    flops = train_flops(model, model.block_size) * config.train.batch_size
    micro = flops / (_ASSUMED_MFU * peak.flops)
    basis = f"assumed: {_ASSUMED_MFU:.0%} of the {peak.source} peak of {peak.flops / 1e12:.3g} TFLOP/s"
    fits = estimate_memory(config, vocab_size, compute.dtype, compute.device).total < 0.8 * _free_memory(compute.device)
    if micro * (_WARM_UP + _PROBE_STEPS) < PROBE_SECONDS and fits:
        micro = _measure(config, model, compute)
        basis = "measured: micro-steps of one process" + ", uncompiled" * bool(config.system.compile)
    step = micro * config.train.grad_accum
    windows = config.train.eval_windows / config.workers.world_size
    evaluation = windows * forward_flops(model, model.block_size) * micro / flops
    evaluations = -(-config.steps // config.train.eval_interval)
    return Duration(step, step * config.steps + evaluation * evaluations, basis)


def _measure(config: TrainConfig, architecture: GPT2Config, compute: Compute) -> float:
    """Return the seconds of the fastest of a few updates of one micro-step, of fewer where time runs out."""
    model = GPT2Model(architecture)
    initialize(model, config.train.seed)
    model.to(compute.device).train()
    model.recompute = config.system.recompute
    train = config.train
    optimizer = build_optimizer(
        model, lr=train.lr, betas=(train.beta1, train.beta2), weight_decay=train.weight_decay, device=compute.device
    )
    step = TrainStep(model, optimizer, dtype=compute.dtype, grad_clip=train.grad_clip)
    shape = (train.batch_size, architecture.block_size)
    ids = torch.randint(architecture.vocab_size, shape, device=compute.device)
    seconds: list[float] = []
    while len(seconds) < _WARM_UP + _PROBE_STEPS and sum(seconds) + max(seconds, default=0.0) < PROBE_SECONDS:
        begun = time.perf_counter()
        float(step([(ids, ids)], 0.0).grad_norm)  # reading it waits for the device
        seconds.append(time.perf_counter() - begun)
    return min(seconds[_WARM_UP:] or seconds)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
