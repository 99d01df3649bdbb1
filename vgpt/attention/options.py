"""What any attention may be given beside its own settings: switches and position encodings, one entry for each.

All that names them reads this table: flags and their help, checks of settings, counts of parameters and FLOPs, the
cases of `vgpt verify`, `vgpt explain`, the fairness audit and the exchange of weights. What an entry computes stands
under the same name in `vgpt.attention.switches`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Any, Literal, TypeVar

from vgpt.formatting import flag_of

Base = TypeVar("Base")


@dataclass(frozen=True)
class Sizes:
    """One layer, as far as parameters of options depend on it.

    Attributes:
        n_embd: width C of the residual stream.
        n_head: query heads H.
        qk_dim: width of one head's queries and keys.
        v_dim: width of one head's output.
        bias: whether linear layers have biases.
    """

    n_embd: int
    n_head: int
    qk_dim: int
    v_dim: int
    bias: bool


Count = Callable[[Sizes, Any], int]
"""Counts for a layer and the value that was chosen."""


def _nothing(sizes: Sizes, value: Any) -> int:
    return 0


@dataclass(frozen=True)
class Option:
    """One switch or position encoding.

    Attributes:
        name: of a switch its setting, and so its flag; of a position encoding its word after `--pos`.
        help: what it does; of a switch the help of its flag.
        acts_on: where it shows. "scores" are the products of queries and keys, "softmax" is what stands beside them in
            the denominator, "output" is that of the heads; "input" is the model's, and "nothing" is just that: these
            two are no matter of attention, so that every variant takes them.
        words: values of a switch with more than yes and no, beside "none", which turns it off.
        position: whether it is a position encoding.
        params: all parameters that it adds to a layer.
        matmul_params: those of them in products with the layer's input, each of which costs 2 FLOPs per token. Work
            element by element is not counted, as nowhere.
        input_rows: learned vectors of width C that it adds to the model for each position up to the block size.
        even_heads: whether the width of a head must be even.
        refused: variants that do not take it, and why; what is derived from one does not take it either.
    """

    name: str
    help: str
    acts_on: Literal["scores", "softmax", "output", "input", "nothing"]
    words: tuple[str, ...] = ()
    position: bool = False
    params: Count = _nothing
    matmul_params: Count = _nothing
    input_rows: int = 0
    even_heads: bool = False
    refused: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def setting(self) -> str:
        """The setting that chooses it."""
        return "pos" if self.position else self.name

    @property
    def values(self) -> tuple[Any, ...]:
        """Values of the setting that ask for it."""
        return (self.name,) if self.position else self.words or (True,)

    @property
    def off(self) -> Any:
        """The value that leaves a switch off, its default."""
        return "none" if self.words else False

    @property
    def flag(self) -> str:
        """What asks for it on the command line, without one of several words."""
        return f"--pos {self.name}" if self.position else flag_of(self.name)

    def flag_with(self, value: Any) -> str:
        """Return what asks for this value on the command line."""
        return f"{self.flag} {value}" if self.words else self.flag


def _gate_weights(sizes: Sizes, value: Any) -> int:
    return sizes.n_embd * sizes.n_head * (sizes.v_dim if value == "elem" else 1)


def _gate_params(sizes: Sizes, value: Any) -> int:
    weights = _gate_weights(sizes, value)
    return weights + sizes.bias * weights // sizes.n_embd


OPTIONS: tuple[Option, ...] = (
    Option(
        "qk_norm",
        help="RMS norm on the queries and keys of each head",
        acts_on="scores",
        params=lambda sizes, value: 2 * sizes.qk_dim,
        refused={
            "mla": "its latents are normed already, and a norm on the keys of each head cannot be absorbed for decoding"
        },
    ),
    Option(
        "out_gate",
        help="sigmoid gate on the output of attention: one per head, or one per feature of each head",
        acts_on="output",
        words=("head", "elem"),
        params=_gate_params,
        matmul_params=_gate_weights,
    ),
    Option(
        "sinks",
        help="a learned logit per head in the softmax's denominator, so that a head can attend to nothing",
        acts_on="softmax",
        params=lambda sizes, value: sizes.n_head,
        refused={"linear": "there is no softmax whose denominator a sink could join"},
    ),
    Option("learned", help="a learned vector for each position", acts_on="input", position=True, input_rows=1),
    Option(
        "rope", help="queries and keys rotated by their positions", acts_on="scores", position=True, even_heads=True
    ),
    Option("none", help="no positions", acts_on="nothing", position=True),
    Option("alibi", help="scores lowered by distance", acts_on="scores", position=True),
)
"""Every option: switches, then position encodings, in the order of help and reports."""


POSITIONS = tuple(option.name for option in OPTIONS if option.position)
"""Position encodings; the first is GPT-2's."""
SWITCHES = tuple(option.name for option in OPTIONS if not option.position)
"""Names of the switches, which are settings."""
SETTINGS = ("pos", *SWITCHES)
"""The settings that choose options, in the order of help and record."""


def chosen(settings: object) -> list[tuple[Option, Any]]:
    """Return the options that a backbone, or the settings of a model, ask for, each with its value."""
    values = choices(settings)
    return [(option, values[option.setting]) for option in OPTIONS if values[option.setting] in option.values]


def choices(settings: object) -> dict[str, Any]:
    """Return the value of every setting that chooses options."""
    return {name: getattr(settings, name) for name in SETTINGS}


def with_switches(base: type[Base]) -> type[Base]:
    """Return a frozen dataclass with the fields of `base`, and after them one for each switch, which is off."""
    fields = [(option.name, object, option.off) for option in OPTIONS if not option.position]
    return make_dataclass(base.__name__, fields, bases=(base,), frozen=True)
