"""A copy of a model that is ready to generate: one precision, no dropout, matrices laid out for small batches.

A decoding step multiplies every matrix with a handful of vectors, so its time is the time of reading the weights. On
CPUs in bfloat16 the plain kernel reads them at half the speed of memory; the same product over weights that were put
into oneDNN's blocked layout once reaches the memory's speed, and gives the same bits.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vgpt.attention.cache import Cache
from vgpt.model.activations import gelu, gelu_new, relu
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2MLP, GPT2Model
from vgpt.model.products import Linear
from vgpt.model.steps import Steps, cuda_recorder, run_again, whole_pages

# Activations that oneDNN applies while a product's output is still in registers: (attribute, algorithm).
_FUSED = {gelu_new: ("gelu", "tanh"), gelu: ("gelu", "none"), relu: ("relu", "")}


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether packed weights work and pay: bfloat16 on a CPU whose torch has oneDNN with native support."""
    return (
        device.type == "cpu"
        and dtype is torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in oneDNN's blocked layout; cannot be trained or saved.

    Args:
        weight: (N, K), bfloat16, on the CPU.
        bias: (N,) or None.
        fused: activation to apply, as oneDNN's attribute and algorithm.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, fused: tuple[str, str] = ("none", "")) -> None:
        super().__init__()
        # The plain weight is kept for attention variants that read it themselves, as MLA's absorbed decoding does.
        self.weight, self.bias = weight, bias
        self._fused = fused
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., K) to (..., N)."""
        attribute, algorithm = self._fused
        return self._multiply(x, self._packed, self.bias, attribute, [], algorithm)


class Decoder:
    """Predicts the next token through the caches of whatever attention the model has.

    The model itself is not changed; where the precision is the same, tensors are shared with it.

    Args:
        model: the trained model.
        dtype: precision of weights and activations; None keeps the model's.
        pack: lay matrices out for small batches where that pays.
        graphs: replay steps as CUDA graphs; None does so on CUDA. On other devices True takes the same steps without
            graphs, to try them.
    """

    def __init__(
        self, model: GPT2Model, dtype: torch.dtype | None = None, *, pack: bool = True, graphs: bool | None = None
    ) -> None:
        self.config: GPT2Config = model.config
        self.device = model.wte.weight.device
        self.dtype = model.wte.weight.dtype if dtype is None else dtype
        self._model = _twin(model, self.dtype)
        self._head: Callable[[Tensor], Tensor] = self._model.logits
        self._graphs = self.device.type == "cuda" and not torch.version.hip if graphs is None else graphs
        self._kept: Steps | None = None
        if not pack:
            return
        for block in self._model.blocks:
            block.attn.pack()
        if can_pack(self.device, self.dtype):
            self._head = PackedLinear(self._model.head_weight, None)
            _pack(self._model)

    def next_logits(self, ids: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Return the logits (B, V), float32, of the token after `ids` (B, T), which continue what the caches hold.

        Only the last position goes through the output layer, the largest matrix of a small model.
        """
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            last = self._model.hidden(ids, caches)[:, -1]
            return self._head(last).float()

    def steps(self, batch: int, max_tokens: int, *, dtype: torch.dtype | None = None) -> Steps:
        """Return empty caches with what steps over them; `dtype` defaults to the decoder's.

        Those that `keep` was given are taken where they fit.
        """
        kept, self._kept, dtype = self._kept, None, dtype or self.dtype
        if kept is not None and (kept.batch, kept.capacity, kept.dtype) == (batch, whole_pages(max_tokens), dtype):
            kept.reset()
            return kept
        recorder = None
        if self._graphs:
            recorder = cuda_recorder(self.device) if self.device.type == "cuda" else run_again
        return Steps(self._model, self._head, batch, max_tokens, dtype=dtype, recorder=recorder)

    def keep(self, steps: Steps) -> None:
        """Take back `steps` that nobody uses any more: what they recorded serves the next text of such a length."""
        self._kept = steps if steps.recorded else None

    def make_caches(self, batch: int, max_tokens: int, *, dtype: torch.dtype | None = None) -> list[Cache]:
        """Allocate a cache per layer for `batch` sequences of up to `max_tokens`; `dtype` defaults to the decoder's."""
        return self._model.make_caches(batch, max_tokens, dtype=dtype or self.dtype)


def _twin(model: GPT2Model, dtype: torch.dtype) -> GPT2Model:
    """Copy the modules but not their tensors: parameters are shared, or cast where the precision differs."""
    with torch.no_grad():
        memo = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()}
    # Buffers stay as they are: they are tables, and the variant that made them chose their precision.
    twin = copy.deepcopy(model, memo).eval()  # type: ignore[arg-type]  # the memo's values may be anything
    twin.compile_blocks(False)
    return twin


def _pack(model: GPT2Model) -> None:
    for block in model.blocks:
        block.mlp = _packed_mlp(block.mlp)
    for module in list(model.h.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and type(child) in (nn.Linear, Linear):
                setattr(module, name, PackedLinear(child.weight, child.bias))


def _packed_mlp(mlp: GPT2MLP) -> GPT2MLP:
    """Let the first layer of an MLP apply the activation, where oneDNN knows it."""
    fused = _FUSED.get(mlp.activation)
    if fused is not None:
        mlp.c_fc = PackedLinear(mlp.c_fc.weight, mlp.c_fc.bias, fused)  # type: ignore[assignment]  # a Linear to callers
        mlp.activation = _unchanged
    return mlp


def _unchanged(x: Tensor) -> Tensor:
    return x
