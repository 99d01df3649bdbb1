"""The GPT-2 backbone: pre-norm blocks around any registered attention."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vgpt.attention.build import build_attention
from vgpt.attention.cache import Cache
from vgpt.attention.place import Place
from vgpt.errors import VgptError
from vgpt.model.activations import activation
from vgpt.model.config import GPT2Config
from vgpt.model.products import linear, quicken
from vgpt.model.tied import embed

_GRAPHS = 256
"""Most graphs of one block's forward pass."""


class BlockNorm(nn.LayerNorm):
    """Layer norm in the type of its input, whatever type its weights traveled in (FSDP)."""

    def forward(self, input: Tensor) -> Tensor:
        """Norm (..., C)."""
        if self.weight.dtype is input.dtype:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.layer_norm(input, self.normalized_shape, self.weight.to(input.dtype), bias, self.eps)


class GPT2MLP(nn.Module):
    """Two linear layers with an activation between: C -> F -> C."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.hidden, bias=config.bias)
        self.c_proj = nn.Linear(config.hidden, config.n_embd, bias=config.bias)
        self.activation = activation(config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C), each token by itself."""
        return self.c_proj(self.activation(self.c_fc(x)))


class GPT2Block(nn.Module):
    """Norm, attention, residual; norm, MLP, residual.

    Attributes:
        compiled: whether whole sequences go through torch.compile; decoding through a cache never does, for each
            length would be compiled anew.
    """

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = BlockNorm(config.n_embd, bias=config.bias)
        self.attn = build_attention(config.attn.at(layer), config.shape, layer)
        self.ln_2 = BlockNorm(config.n_embd, bias=config.bias)
        self.mlp = GPT2MLP(config)
        self.dropout = config.dropout
        self.compiled = False

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        if cache is None:
            # Whatever the layer looks up by length is made here, once, and not traced into compiled code.
            self.attn.prepare(x.shape[1], x.device)
            if self.compiled:
                return _compiled_block()(self, x)
        return self.body(x, cache)

    def body(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Map as `forward` does, never through a compiler of its own."""
        x = x + self._drop(self.attn(self.ln_1(x), cache))
        return x + self._drop(self.mlp(self.ln_2(x)))

    def step_at(self, x: Tensor, cache: Cache, place: Place) -> Tensor:
        """Map one token (B, 1, C) in fixed shapes, as `forward` with the cache; nothing is dropped."""
        x = x + self.attn.step_at(self.ln_1(x), cache, place)
        return x + self.mlp(self.ln_2(x))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.dropout and self.training else x


@cache
def _compiled_block() -> Callable[..., Tensor]:
    """Return a block's forward pass as torch.compile makes it: one function, so that equal layers share their graphs.

    The layers of a mix, those of sparse attention on CPUs, whose links depend on their number, sequences of several
    lengths, training and evaluation need graphs of their own. Past its limit the compiler would run the rest
    uncompiled and only log it.
    """
    # Imported where it is needed: it takes seconds, and few runs are compiled.
    import torch._dynamo

    options: Any = torch._dynamo.config
    options.recompile_limit = max(options.recompile_limit, _GRAPHS)
    options.accumulated_recompile_limit = max(options.accumulated_recompile_limit, 4 * _GRAPHS)
    return torch.compile(GPT2Block.body)


class GPT2Model(nn.Module):
    """The language model. Its parameters are created here and filled by `vgpt.model.init.initialize`.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3. With tied weights
    the output layer is the token embedding, stored once.

    Attributes:
        recompute: whether training computes each block again in the backward pass in place of keeping its activations
            (Chen et al. 2016, arXiv 1604.06174).
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd) if config.pos == "learned" else None
        self.h = nn.ModuleList(GPT2Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = None if config.tie_weights else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        quicken(self)

    @property
    def blocks(self) -> list[GPT2Block]:
        """The layers, in order."""
        return list(self.h)  # type: ignore[arg-type]  # ModuleList forgets its element type

    def compile_blocks(self, on: bool = True) -> None:
        """Let whole sequences go through torch.compile, block by block; a deep copy keeps to its own weights."""
        for block in self.blocks:
            block.compiled = on

    def forward(self, ids: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Return logits (B, T, V) for token ids (B, T); with caches, the ids continue what those hold."""
        return self.logits(self.hidden(ids, caches))

    def hidden(self, ids: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Return the residual stream (B, T, C) after the last norm.

        Raises:
            VgptError: learned positions end at `block_size`.
        """
        return self._hidden(self.wte(ids), caches)

    def hidden_and_head(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `hidden` does and the weight (V, C) of the output layer, for a loss whose gradient is taken once.

        A tied weight is taken for both at once, so that it gets one gradient.
        """
        x, head = embed(ids, self.wte.weight) if self.lm_head is None else (self.wte(ids), self.lm_head.weight)
        return self._hidden(x, None), head

    def _hidden(self, x: Tensor, caches: list[Cache] | None) -> Tensor:
        """Return the residual stream (B, T, C) after the last norm of embedded tokens (B, T, C)."""
        start = caches[0].length if caches else 0
        if self.wpe is not None:
            end = start + x.shape[1]
            if end > self.config.block_size:
                raise VgptError(
                    f"{end} tokens do not fit: learned positions end at the context length of {self.config.block_size}",
                    "Shorten the input, or train with --pos rope or a larger --block-size.",
                )
            x = x + self.wpe.weight[start:end]
        if self.config.dropout and self.training:
            x = F.dropout(x, self.config.dropout)
        for i, block in enumerate(self.h):
            if self.recompute and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, caches[i] if caches else None)
        return self.ln_f(x)

    def step_at(self, ids: Tensor, caches: list[Cache], place: Place) -> Tensor:
        """Return the residual stream (B, 1, C) after the last norm of one token (B, 1), as `hidden`, in fixed shapes.

        See `CausalSelfAttention.step_at`.
        """
        x = self.wte(ids)
        if self.wpe is not None:
            x = x + self.wpe.weight.index_select(0, place.position)
        for block, memory in zip(self.blocks, caches, strict=True):
            x = block.step_at(x, memory, place)
        return self.ln_f(x)

    @property
    def head_weight(self) -> Tensor:
        """Weight (V, C) of the output layer."""
        return self.wte.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Map (..., C) after the last norm to logits (..., V)."""
        return linear(hidden, self.head_weight)

    def make_caches(
        self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> list[Cache]:
        """Allocate a cache per layer for `batch` sequences of up to `max_tokens`; `device` defaults to the model's."""
        device = self.wte.weight.device if device is None else device
        return [block.attn.make_cache(batch, max_tokens, dtype=dtype, device=device) for block in self.blocks]
