"""The files that a variant of one's own begins with: settings, module and cache, and a test that holds them."""

import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from vgpt.attention.options import SWITCHES
from vgpt.attention.registry import variants
from vgpt.errors import UsageError
from vgpt.formatting import flag_of

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

_VARIANT = Template('''\
"""The attention variant `$kind`: each token sees the last `window_size` tokens.

    vgpt --plugin $module.py verify $kind
    vgpt --plugin $module.py train --attn $kind --window-size 32 --preset demo

It is complete as it stands. Change one thing at a time, and let `vgpt verify` say what no longer holds.
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vgpt.attention import (
    Cache,
    CacheCost,
    CausalSelfAttention,
    Shape,
    SoftmaxConfig,
    Switches,
    TokenCache,
    attend,
    register_attention,
)


# Letters in comments: B sequences, T new tokens, S tokens with those in the cache, C = n_embd, H = n_head, D = C / H.
@register_attention("$kind", module="${name}Attention", summary="a variant of my own: sees the last tokens only")
class ${name}Config(SoftmaxConfig):
    """What can be set, who sees whom, and what it costs. Nothing here computes with tensors.

    Bases: `SoftmaxConfig` where a softmax weighs the tokens that are seen; `AttentionConfig` for anything else.
    """

    # A field is a flag (--window-size), a key of presets and an environment variable; the text below it is its help.
    window_size: Annotated[int, Field(ge=1)] = 64
    """tokens that each token sees, itself included"""

    def visible(self, q: Any, k: Any, layer: int = 0, head: Any = 0) -> Any:
        """Say who sees whom: query position q, key position k, as integers or arrays. Never the future."""
        return (k <= q) & (q - k < self.window_size)

    def pairs(self, tokens: int) -> int:
        """Count the pairs that `visible` shows in a sequence: FLOPs follow from them."""
        window = min(self.window_size, tokens)
        return window * (window + 1) // 2 + (tokens - window) * window

    def matmul_params(self, shape: Shape) -> int:
        """Count the weights of matrix products: queries, keys, values, output; and those of the switches."""
        return 4 * shape.n_embd**2 + self.switch_matmul_params(shape)

    def params(self, shape: Shape) -> int:
        """Count all parameters: the same with their biases, and what the switches bring."""
        return 4 * shape.n_embd * (shape.n_embd + shape.bias) + self.switch_params(shape)

    def cache_cost(self, shape: Shape) -> CacheCost:
        """State what one layer keeps of a sequence: a key and a value per head and token; `make_cache` must agree."""
        return CacheCost(per_token=2 * shape.n_embd)


class ${name}Attention(CausalSelfAttention[${name}Config]):
    """What computes. Constructors create parameters, and the model fills them.

    Matrices start as N(0, 0.02) and decay, `c_proj` starts smaller, a vector called `...bias` starts at 0 and any
    other at 1. For anything else see `parameter_roles` and `init_parameters` of the base class.
    """

    def __init__(self, config: ${name}Config, shape: Shape, layer: int = 0) -> None:
        super().__init__(config, shape, layer)
        self.c_attn = nn.Linear(shape.n_embd, 3 * shape.n_embd, bias=shape.bias)
        self.c_proj = nn.Linear(shape.n_embd, shape.n_embd, bias=shape.bias)
        self.extra = Switches(shape, shape.head_dim, shape.head_dim)  # $switches, --pos alibi

    def forward(self, x: Tensor, cache: TokenCache | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C); with a cache, the tokens continue those in it."""
        start, tokens = (0 if cache is None else cache.length), x.shape[1]
        q, k, v = (part.unflatten(-1, (self.shape.n_head, -1)) for part in self.c_attn(x).chunk(3, -1))
        q, k = self.rotated(start, *self.extra.normed(q, k))  # turned by position where --pos is rope
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
        if cache is not None:
            k, v = cache.append(k, v)  # now all of (B, H, S, D)
        y = attend(
            q.to(k.dtype),
            k,
            v,
            offset=start,
            mask=self.mask(start, tokens, 0, k.shape[2], x.device),  # (T, S), from `visible`
            flash=self.shape.flash,
            mods=self.extra.score_mods(x.device),  # what the switches add to the scores
        )
        y = y.to(q.dtype).transpose(1, 2).flatten(2)  # (B, T, C)
        return self.c_proj(self.extra.gated(y, x))

    def make_cache(self, batch: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device | str) -> Cache:
        """Allocate what is kept while decoding: rows of keys and of values, (heads, width) each.

        It keeps all tokens, though only the last are seen: a cache of its own, derived from `Cache`, could keep just
        those, and `cache_cost` would say so with `span=self.window_size`.
        """
        parts = [(self.shape.n_head, self.shape.head_dim)] * 2
        return TokenCache(batch, max_tokens, parts, dtype=dtype, device=device)
''')

_TEST = Template('''\
"""`$kind` keeps the contract of an attention variant: pytest $test.py."""

from pathlib import Path

import pytest

import vgpt
from vgpt.conformance import check_names, failures

vgpt.load_plugin(Path(__file__).with_name("$module.py"))


@pytest.mark.parametrize("check", check_names())
def test_${word}_keeps_the_contract(check: str) -> None:
    assert failures("$kind:window_size=24", only=[check]) == []
''')


@dataclass(frozen=True)
class NewVariant:
    """The files of a new variant.

    Attributes:
        kind: its name on the command line.
        plugin: where the plug-in is to lie.
        test: where its test is.
    """

    kind: str
    plugin: Path
    test: Path

    @property
    def files(self) -> dict[Path, str]:
        """What is to be written, by path."""
        word = self.kind.replace("-", "_")
        name = "".join(part[:1].upper() + part[1:] for part in word.split("_"))
        words = {"kind": self.kind, "word": word, "name": name, "module": self.plugin.stem, "test": self.test.stem}
        words["switches"] = ", ".join(map(flag_of, SWITCHES))
        return {self.plugin: _VARIANT.substitute(words), self.test: _TEST.substitute(words)}


def new_variant(kind: str, place: Path) -> NewVariant:
    """Return the files of a new variant in a directory; nothing is written.

    Raises:
        UsageError: the name is none, or taken, or a file of this name is there.
    """
    if not _NAME.fullmatch(kind) or kind == "kind" or keyword.iskeyword(kind):
        raise UsageError(f"{kind!r} is no name of a variant", "A letter, then letters, digits, '-' and '_'.")
    if kind in variants():
        raise UsageError(f"there is a variant {kind!r} already", "Choose another name.")
    stem = f"{kind.replace('-', '_').lower()}_attention"
    made = NewVariant(kind, place / f"{stem}.py", place / f"test_{stem}.py")
    if there := [path for path in (made.plugin, made.test) if path.exists() or path.is_symlink()]:
        raise UsageError(
            f"{there[0]} is there already and is not replaced", "Choose another name, or another directory with --out."
        )
    return made
