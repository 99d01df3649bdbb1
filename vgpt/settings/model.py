"""Settings of the model: the GPT-2 trunk, shared by all variants, and the attention variant."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.mix.config import MixConfig, with_last
from vgpt.attention.registry import resolve_attention
from vgpt.errors import SettingsError, did_you_mean
from vgpt.schema import Section

ACTIVATIONS: list[str] = ["gelu_new", "gelu", "silu", "relu", "relu2"]
"""Names of known MLP activations; `vgpt.model.activations.register_activation` adds to them."""


def _attention(value: Any, _handler: ValidatorFunctionWrapHandler) -> AttentionConfig:
    try:
        return resolve_attention(value)
    except SettingsError as error:  # pydantic collects ValueErrors with all other faults
        raise ValueError(error.message) from error


AttentionSetting = Annotated[SerializeAsAny[AttentionConfig], WrapValidator(_attention)]


class ModelSettings(Section):
    """The architecture. Everything but `attn` is the trunk, equal for all variants of a comparison."""

    attn: AttentionSetting = MHAConfig()
    """attention variant, also with its settings, gqa:n_kv_head=4, or a pattern of layers, 5xlocal+mha"""
    attn_last: str | None = None
    """variant of the last layer; none = as the others"""
    n_layer: Annotated[int, Field(ge=1, le=1024)] = 6
    """transformer blocks"""
    n_head: Annotated[int, Field(ge=1, le=1024)] = 6
    """query heads; divides --n-embd"""
    n_embd: Annotated[int, Field(ge=1, le=65_536)] = 384
    """width of the residual stream"""
    block_size: Annotated[int, Field(ge=1, le=1_048_576)] = 256
    """context length in tokens"""
    pos: Literal["learned", "rope", "none", "alibi"] = "learned"
    """position encoding, the same axis for every variant"""
    qk_norm: bool = False
    """RMS norm on the queries and keys of each head"""
    out_gate: Literal["none", "head", "elem"] = "none"
    """sigmoid gate on the output of attention: one per head, or one per feature of each head"""
    sinks: bool = False
    """a learned logit per head in the softmax's denominator, so that a head can attend to nothing"""
    mlp_hidden: Annotated[int | None, Field(ge=1)] = None
    """hidden width of the MLP; none = 4 * n_embd"""
    activation: str = "gelu_new"
    """activation of the MLP: gelu_new, gelu, silu, relu, relu2 or a registered one"""
    bias: bool = True
    """biases in linear layers and layer norms"""
    tie_weights: bool = True
    """share the token embedding with the output layer"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout on embeddings and on the output of attention and MLP"""
    flash: bool = True
    """fused attention kernels; --no-flash computes the naive formula"""

    @property
    def shape(self) -> Shape:
        """The trunk as attention layers see it."""
        return Shape(
            self.n_embd,
            self.n_head,
            self.block_size,
            bias=self.bias,
            pos=self.pos,
            flash=self.flash,
            qk_norm=self.qk_norm,
            out_gate=self.out_gate,
            sinks=self.sinks,
        )

    @property
    def hidden(self) -> int:
        """Hidden width F of the MLP."""
        return self.mlp_hidden or 4 * self.n_embd

    @model_validator(mode="after")
    def _last_layer(self) -> "ModelSettings":
        """Turn --attn-last into the pattern that it means, so that a model has one description of its layers."""
        if self.attn_last is None:
            return self
        try:
            last = resolve_attention(self.attn_last)
        except SettingsError as error:
            raise ValueError(f"--attn-last: {error.message}") from error
        if isinstance(last, MixConfig):
            raise ValueError(f"--attn-last {self.attn_last}: the last layer is one layer; name one variant")
        # Frozen for everyone else; validators of the class itself may finish what it holds.
        object.__setattr__(self, "attn", with_last(self.attn, last, self.n_layer))
        object.__setattr__(self, "attn_last", None)
        return self

    @model_validator(mode="after")
    def _fits(self) -> "ModelSettings":
        faults: list[str] = []
        if self.n_embd % self.n_head:
            fits = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0 and n <= 64]
            faults.append(f"--n-head {self.n_head} must divide --n-embd {self.n_embd}; possible: {fits}")
        else:
            if self.pos == "rope" and self.shape.head_dim % 2:
                faults.append(
                    f"--pos rope needs an even head width; --n-embd {self.n_embd} / --n-head {self.n_head} is "
                    f"{self.shape.head_dim}"
                )
            faults += self.attn.check(self.shape)
        if self.activation not in ACTIVATIONS:
            faults.append(
                f"--activation {self.activation!r} is unknown{did_you_mean(self.activation, ACTIVATIONS)} "
                f"(known: {', '.join(ACTIVATIONS)})"
            )
        if faults:
            raise ValueError("\n".join(faults))
        return self
