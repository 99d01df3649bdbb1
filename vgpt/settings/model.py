"""Settings of the model: the GPT-2 backbone, shared by all variants, and the attention variant."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    model_validator,
)

from vgpt.attention.config import AttentionConfig, ModelAttention, Shape
from vgpt.attention.grammar import full_label, resolve_attention
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.mix.config import with_last
from vgpt.attention.options import OPTIONS, POSITIONS, choices, chosen
from vgpt.errors import SettingsError, did_you_mean
from vgpt.schema import Section
from vgpt.settings.matching import (
    MULTIPLE,
    UNMATCHED,
    Backbone,
    Budget,
    Match,
    budget,
    match_cache,
    matched_width,
    resolve_reference,
)

if TYPE_CHECKING:  # words of a table are no type
    Position = str
else:
    Position = Literal[POSITIONS]

ACTIVATIONS: list[str] = ["gelu_new", "gelu", "silu", "relu", "relu2"]
"""Names of known MLP activations; `vgpt.model.activations.register_activation` adds to them."""


def _attention(value: Any, _handler: ValidatorFunctionWrapHandler) -> ModelAttention:
    try:
        return resolve_attention(value)
    except SettingsError as error:  # pydantic collects ValueErrors with all other faults
        raise ValueError(error.message) from error


AttentionSetting = Annotated[SerializeAsAny[ModelAttention], WrapValidator(_attention)]


Layers = TypeVar("Layers", bound=Section)


def with_switches(base: type[Layers]) -> type[Layers]:
    """Return a settings class with the fields of `base`, and after them one for each switch, which is off."""
    word: Any = Literal
    fields: dict[str, Any] = {
        option.name: (
            word[option.off, *option.words] if option.words else bool,
            Field(option.off, description=option.help),
        )
        for option in OPTIONS
        if not option.position
    }
    return create_model(base.__name__, __base__=base, __module__=__name__, **fields)


class _Layers(Section):
    """The layers' number and sizes: what stands before the switches."""

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
    pos: Position = POSITIONS[0]
    """position encoding, the same axis for every variant"""


class ModelSettings(with_switches(_Layers)):
    """The architecture. Everything but `attn` is the backbone, equal for all variants of a comparison."""

    mlp_hidden: Annotated[int | None, Field(ge=1)] = None
    """hidden width of the MLP, before --match changes it; none = 4 * n_embd"""
    match: Literal["none", "params", "flops", "cache"] = "none"
    """budget made equal to that of --match-to, by the width of the MLP; the cache, by the variant's own setting"""
    match_to: str | None = None
    """variant whose budget is matched; none = mha, in a comparison its first variant"""
    match_multiple: Annotated[int, Field(ge=1, le=65_536)] = MULTIPLE
    """matched MLP widths are multiples of this"""
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

    _budget: Budget | None = PrivateAttr(None)

    @property
    def shape(self) -> Shape:
        """The backbone as attention layers see it."""
        return Shape(
            self.n_embd,
            self.n_head,
            self.block_size,
            bias=self.bias,
            flash=self.flash,
            **choices(self),
        )

    @property
    def raw_hidden(self) -> int:
        """Hidden width of the MLP before matching: that of the reference."""
        return self.mlp_hidden or 4 * self.n_embd

    @property
    def hidden(self) -> int:
        """Hidden width F of the MLP."""
        return self.raw_hidden if self._budget is None else self._budget.width

    @property
    def budget(self) -> Budget | None:
        """The budget relative to that of `match_to`; None where nothing is matched."""
        return self._budget

    def concrete(self) -> dict[str, Any]:
        """Return the fields with the outcome of matching written out: nobody needs to know the reference any more."""
        if self.match == "none":
            return dict(self)
        return {**dict(self), "mlp_hidden": self.hidden, **UNMATCHED}

    @model_validator(mode="after")
    def _last_layer(self) -> "ModelSettings":
        """Turn --attn-last into the pattern that it means, so that a model has one description of its layers."""
        if self.attn_last is None:
            return self
        try:
            last = resolve_attention(self.attn_last)
        except SettingsError as error:
            raise ValueError(f"--attn-last: {error.message}") from error
        if not isinstance(last, AttentionConfig):
            raise ValueError(f"--attn-last {self.attn_last}: the last layer is one layer; name one variant")
        # Frozen for everyone else; validators of the class itself may finish what it holds.
        object.__setattr__(self, "attn", with_last(self.attn, last, self.n_layer))
        object.__setattr__(self, "attn_last", None)
        return self

    @model_validator(mode="after")
    def _match_has_a_reference(self) -> "ModelSettings":
        """Spell the reference out; choose the variant's own setting where caches are matched."""
        if self.match_to is not None and self.match == "none":
            raise ValueError(f"--match-to {self.match_to} needs --match params, flops or cache")
        if self.match_multiple != MULTIPLE and self.match not in ("params", "flops"):
            raise ValueError(f"--match-multiple {self.match_multiple} needs --match params or flops")
        if self.match == "none":
            return self
        if self.n_embd % self.n_head:
            return self  # `_fits` says so
        reference = resolve_reference(self.match_to or "mha", self.shape)
        object.__setattr__(self, "match_to", full_label(reference))
        if self.match == "cache":
            attn = match_cache(self._match(), self.attn, reference, self._backbone())
            object.__setattr__(self, "attn", attn)
        return self

    @model_validator(mode="after")
    def _fits(self) -> "ModelSettings":
        faults: list[str] = []
        if self.n_embd % self.n_head:
            fits = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0 and n <= 64]
            faults.append(f"--n-head {self.n_head} must divide --n-embd {self.n_embd}; possible: {fits}")
        else:
            faults += [
                f"{option.flag_with(value)} needs an even head width; --n-embd {self.n_embd} / --n-head {self.n_head} "
                f"is {self.shape.head_dim}"
                for option, value in chosen(self)
                if option.even_heads and self.shape.head_dim % 2
            ]
            faults += self.attn.check(self.shape)
        if self.activation not in ACTIVATIONS:
            faults.append(
                f"--activation {self.activation!r} is unknown{did_you_mean(self.activation, ACTIVATIONS)} "
                f"(known: {', '.join(ACTIVATIONS)})"
            )
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @model_validator(mode="after")
    def _match_widths(self) -> "ModelSettings":
        """Solve the MLP's width where parameters or FLOPs are matched."""
        if self.match != "none":
            backbone, reference = self._backbone(), resolve_reference(self.match_to or "mha", self.shape)
            width = backbone.width
            if self.match != "cache":
                width = matched_width(self._match(), self.attn, reference, backbone)
            self._budget = budget(self.attn, reference, backbone, width)
        return self

    def _match(self) -> Match:
        return Match(self.match, self.match_to or "mha", self.match_multiple)

    def _backbone(self) -> Backbone:
        return Backbone(self.shape, self.n_layer, self.raw_hidden)
