"""Causal linear attention by the kernels of vgpt.attention.linear.kernels, as an operation that torch.compile knows.

A compiler sees one opaque operation forward and one backward. Between them stay queries, keys, values and the
denominators, one float32 number per token and head; states are summed up anew.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vgpt.attention.linear.features import Elu1, FeatureMap, Relu
from vgpt.attention.linear.square import like_heads
from vgpt.attention.linear.sweep import DENOMINATOR_EPS

MAPS: dict[type[FeatureMap], str] = {Elu1: "elu1", Relu: "relu", FeatureMap: "identity"}
"""Feature maps that the kernels know, by their very class: a subclass may compute something else."""

_HAS_TRITON = find_spec("triton") is not None
_DEVICE = "cuda"
_MOST_WIDTH = 128
_PROGRAMS = 16
"""Programs per multiprocessor that a sequence is cut for, where it is long enough: several times what runs at once."""
_MOST_CHUNKS = 32


def fits(q: Tensor, k: Tensor, v: Tensor, feature_map: FeatureMap) -> bool:
    """Say whether the kernels take these tensors: half precision on an NVIDIA GPU that multiplies bfloat16 and TF32."""
    return (
        _HAS_TRITON
        and q.device.type == _DEVICE
        and torch.version.cuda is not None
        and q.dtype in (torch.bfloat16, torch.float16)
        and q.dtype == k.dtype == v.dtype
        and q.shape == k.shape
        and q.shape[:3] == v.shape[:3]
        and type(feature_map) in MAPS
        and max(q.shape[-1], v.shape[-1]) <= _MOST_WIDTH
        and _multiplies_tf32(q.device.index)
    )


def _multiplies_tf32(device: int) -> bool:
    """Say whether a GPU has the units for bfloat16 and TF32: from Ampere on."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


# What torch.compiler.assume_constant_result sets, which would import the compiler: a GPU does not change.
_multiplies_tf32._dynamo_marked_constant = True  # type: ignore[attr-defined]


def fused(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, feature_map: FeatureMap, normalize: bool) -> Tensor:
    """Compute `vgpt.attention.linear.chunked.chunked_linear_attention`, without states before or after.

    Gradients cannot be differentiated again: torch raises an error.
    """
    return _forward(q, k, v, slopes, MAPS[type(feature_map)], normalize)[0]


@torch.library.custom_op("vgpt::linear_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, feature_map: str, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Return outputs (B, H, T, v), laid out as (B, T, H, v), and denominators (B, H, T), without `normalize` none."""
    from vgpt.attention.linear import kernels

    y, divisors = like_heads(v, v.dtype), _rows(q, normalize)
    with torch.cuda.device_of(q):
        run = _Run(q, v, slopes, feature_map, normalize)
        memory = run.memory()
        run.sum_keys(k, v, memory)
        run(kernels.attend, run.segments, (q, k, v), (run.slopes, memory, y, divisors), DENOMINATOR_EPS)
    return y, divisors


@_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, feature_map: str, normalize: bool
) -> tuple[Tensor, Tensor]:
    return like_heads(v, v.dtype), _rows(q, normalize)


@torch.library.custom_op("vgpt::linear_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    divisors: Tensor,
    slopes: Tensor | None,
    feature_map: str,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, laid out as (B, T, H, width)."""
    from vgpt.attention.linear import kernels

    d_q, d_k, d_v = (like_heads(x, x.dtype) for x in (q, k, v))
    with torch.cuda.device_of(q):
        run = _Run(q, v, slopes, feature_map, normalize)
        memory, deltas = run.memory(), torch.empty_like(divisors)
        rows = (run.slopes, divisors, deltas, memory)
        run.sum_keys(k, v, memory)
        run(kernels.query_gradients, run.segments, (q, k, v, grad), (*rows, d_q))
        if run.segments > 1:
            run(kernels.query_sums, run.segments - 1, (q, grad), rows)
            run.accumulate(memory, backward=True)
        run(kernels.key_gradients, run.segments, (q, k, v, grad), (*rows, d_k, d_v))
    return d_q, d_k, d_v


@_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    divisors: Tensor,
    slopes: Tensor | None,
    feature_map: str,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return like_heads(q, q.dtype), like_heads(k, k.dtype), like_heads(v, v.dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, slopes, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, output[1], slopes)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    return *_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


def _rows(q: Tensor, needed: bool) -> Tensor:
    """Return memory for a float32 number per token and head."""
    return q.new_empty(q.shape[:3] if needed else (0,), dtype=torch.float32)


@dataclass(frozen=True)
class Plan:
    """How kernels cut their work; none of it changes results beyond rounding.

    Attributes:
        chunk: tokens C of a chunk, a power of two from 16 on.
        warps: of 32 threads, per program.
        stages: of the pipeline that loads ahead.
        chunks: chunks of a segment.
    """

    chunk: int
    warps: int
    stages: int
    chunks: int


def plan(heads: int, T: int, width: int, wide: bool, major: int, processors: int) -> Plan:
    """Choose chunks whose numbers fit the registers, and segments that keep the whole GPU busy.

    Longer segments put less of the state into memory; shorter ones make more programs.

    Args:
        heads: sequences times heads.
        T: tokens.
        width: the larger of D and v.
        wide: whether operands take four bytes and not two.
        major: the GPU's generation. Hopper's and data-center Blackwell's products take 64 rows and read their operands
            from shared memory; elsewhere chunks of 64 overflow the registers.
        processors: the GPU's multiprocessors.
    """
    narrow = width <= 64
    chunk = 64 if narrow and not wide and major in (9, 10) else 32
    n = -(-T // chunk)
    most = max(1, round(heads * n / (_PROGRAMS * processors)))
    segments = -(-n // min(_MOST_CHUNKS, 1 << (most.bit_length() - 1)))
    return Plan(chunk, 4 if narrow else 8, 2 if narrow else 1, -(-n // segments))


def planned(q: Tensor, v: Tensor) -> Plan:
    """Choose for these tensors on their GPU."""
    gpu = torch.cuda.get_device_properties(q.device)
    B, H, T, D = q.shape
    wide = q.dtype != torch.bfloat16
    return plan(B * H, T, max(D, v.shape[-1]), wide, gpu.major, gpu.multi_processor_count)


class _Run:
    """What all kernels of one pass have in common.

    Attributes:
        segments: segments of a sequence.
        slopes: rates of forgetting in float32; without any, some tensor.
    """

    def __init__(self, q: Tensor, v: Tensor, slopes: Tensor | None, feature_map: str, normalize: bool) -> None:
        from vgpt.attention.linear import kernels

        self.B, self.H, self.T, D = q.shape
        DV = v.shape[-1]
        self.decay = slopes is not None
        self.slopes = q if slopes is None else slopes.to(torch.float32).contiguous()
        self.device = q.device
        self.plan = planned(q, v)
        self.segments = -(-self.T // (self.plan.chunk * self.plan.chunks))
        BD, BV = (max(16, 1 << (width - 1).bit_length()) for width in (D, DV))
        self.size = BD * (BV + normalize)
        self.constants: dict[str, Any] = {
            "MAP": feature_map,
            "NORMALIZE": normalize,
            "DECAY": self.decay,
            "OPERAND": kernels.OPERANDS[str(q.dtype).removeprefix("torch.")],
            "SIZE": self.size,
            "C": self.plan.chunk,
            "D": D,
            "DV": DV,
            "BD": BD,
            "BV": BV,
            "num_warps": self.plan.warps,
            "num_stages": self.plan.stages,
        }

    def memory(self) -> Tensor:
        """Return memory for all segments but one."""
        size = self.B * self.H * (self.segments - 1) * self.size
        return torch.empty(size, dtype=torch.float32, device=self.device)

    def __call__(
        self, kernel: Any, segments: int, strided: tuple[Tensor, ...], others: tuple[Tensor, ...], *numbers: float
    ) -> None:
        """Run a kernel on so many segments of each head; it takes tensors, then strides of the first, then sizes."""
        strides = [stride for x in strided for stride in x.stride()]
        sizes = (self.H, self.T, self.segments, self.plan.chunks)
        kernel[(self.B * self.H * segments,)](*strided, *others, *strides, *sizes, *numbers, **self.constants)

    def sum_keys(self, k: Tensor, v: Tensor, memory: Tensor) -> None:
        """Leave in `memory` the state after each segment but the last."""
        from vgpt.attention.linear import kernels

        if self.segments > 1:
            self(kernels.key_sums, self.segments - 1, (k, v), (self.slopes, memory))
            self.accumulate(memory, backward=False)

    def accumulate(self, memory: Tensor, *, backward: bool) -> None:
        """Add up the segments' own sums, from the first on or from the last."""
        from vgpt.attention.linear import kernels

        steps = self.segments - 1
        if steps < 2:
            return
        block = 512
        grid = (self.B * self.H * -(-self.size // block),)
        tokens = self.plan.chunk * self.plan.chunks
        settings: dict[str, Any] = {"BACKWARD": backward, "DECAY": self.decay, "SIZE": self.size, "BLOCK": block}
        kernels.accumulate[grid](memory, self.slopes, self.H, steps, tokens, **settings)
