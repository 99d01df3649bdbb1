"""What trainings on a task have in common, and what one of them is: torch-free, and plain data once written down."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vgpt.attention.config import AttentionConfig, ModelAttention, Shape
from vgpt.attention.grammar import display_label, full_label, resolve_attention
from vgpt.attention.options import SETTINGS, choices
from vgpt.attention.stamps import digests, distinct_layers
from vgpt.errors import SettingsError
from vgpt.evaluation.tasks.base import Point, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import resolve_task, task_label
from vgpt.files.digests import digest_if_there, json_digest
from vgpt.formatting import counted
from vgpt.settings.probe import ProbeConfig

GRU = "gru"
"""A control that is no attention: a gated recurrent unit in the place of the mixer."""
FORMAT = 1
"""Raised where the same settings make another training."""
ELEMENT_BYTES = 4
"""Of a number of the state: models are trained and tested in float32."""
_CONV_WIDTH = 3


@dataclass(frozen=True)
class Recipe:
    """Everything that trainings on a task share, so that variants differ in nothing else.

    Attributes:
        task: the task with its settings, as `--tasks` takes it.
        n_layer, n_embd, n_head: sizes of the models.
        short_conv: whether the first layer is a gated convolution of width 3 in the place of the mixer.
        mlp: whether an MLP follows every layer.
        init: how linear layers start, "uniform" or "normal".
        options: position encoding and switches.
        steps, batch_size: of training at most; instances of a step.
        lrs: peak learning rates that are tried.
        stop_at: accuracy on the validation instances at which training ends early; None for never.
        validation_instances, test_instances: how many; those of the test at each point.
    """

    task: str
    n_layer: int
    n_embd: int
    n_head: int
    short_conv: bool
    mlp: bool
    init: str
    options: Mapping[str, Any]
    steps: int
    batch_size: int
    lrs: tuple[float, ...]
    stop_at: float | None
    validation_instances: int
    test_instances: int

    @classmethod
    def of(cls, task: Task, config: ProbeConfig) -> "Recipe":
        """Return the recipe of a task: its own, where the settings do not say otherwise."""
        own, model, probe = task.control, config.model, config.probe
        sizes = {name: getattr(model, name) or getattr(own, name) for name in ("n_layer", "n_embd", "n_head")}
        effort = {name: getattr(probe, name) or getattr(own, name) for name in ("steps", "batch_size", "lrs")}
        return cls(
            task=task_label(task),
            short_conv=own.short_conv if model.short_conv is None else model.short_conv,
            mlp=model.mlp,
            init=model.init,
            options=choices(model),
            stop_at=probe.stop_at,
            validation_instances=probe.validation_instances,
            test_instances=probe.test_instances,
            **sizes,
            **effort,
        )

    @cached_property
    def made(self) -> Task:
        """The task."""
        return resolve_task(self.task)

    @property
    def points(self) -> list[Point]:
        """Where it is tested: the training settings first. Learned positions end at the training length."""
        found = self.made.points()
        if self.options["pos"] != "learned":
            return found
        return [point for point in found if point.task.length <= self.made.length]

    @property
    def longest(self) -> int:
        """Tokens of the longest instance."""
        return max(point.task.length for point in self.points)

    @property
    def shape(self) -> Shape:
        """The backbone as attention layers see it."""
        switches: dict[str, Any] = {name: self.options[name] for name in SETTINGS}
        return Shape(self.n_embd, self.n_head, self.longest, **switches)

    @property
    def mixers(self) -> int:
        """Layers that hold the variant."""
        return self.n_layer - self.short_conv

    def faults(self, attn: ModelAttention | None) -> list[str]:
        """Return why a variant cannot be trained by this recipe; None stands for the recurrent control."""
        if self.mixers < 1:
            return [f"task {self.task}: --n-layer {self.n_layer} leaves no layer beside the short convolution"]
        if self.n_embd % self.n_head:
            return [f"task {self.task}: --n-head {self.n_head} does not divide --n-embd {self.n_embd}"]
        if attn is None:
            return []
        return [f"task {self.task}, {display_label(attn)}: {fault}" for fault in attn.check(self.shape)]

    def state_bytes(self, attn: str, tokens: int) -> int:
        """Return the bytes that the mixers of a variant keep of one sequence of so many tokens, in float32.

        What the short convolution keeps, two vectors whatever the variant, is left out.
        """
        if attn == GRU:
            return self.mixers * self.n_embd * ELEMENT_BYTES
        layers = self.layers(resolve_attention(attn))
        return sum(layer.cache_cost(self.shape).nbytes(tokens, ELEMENT_BYTES) for layer in layers)

    def layers(self, attn: ModelAttention) -> list[AttentionConfig]:
        """Return the settings of each mixer."""
        return [attn.at(index) for index in range(self.mixers)]

    @property
    def title(self) -> str:
        """The models in words: `conv 3 + mixer, d 64, no positions, no MLP`."""
        mixers = "mixer" if self.mixers == 1 else f"{self.mixers} mixers"
        first = f"conv {_CONV_WIDTH} + {mixers}" if self.short_conv else mixers
        pos = "no positions" if self.options["pos"] == "none" else f"{self.options['pos']} positions"
        return (
            f"{first}, {'with' if self.mlp else 'no'} MLP, width {self.n_embd}, {counted(self.n_head, 'head')}, {pos}"
        )


@dataclass(frozen=True)
class Trial:
    """One training: a variant on a task, at a learning rate, from a seed.

    Attributes:
        recipe: what it shares with others.
        attn: the variant with all its settings, or `gru`.
        lr: peak learning rate.
        seed: of the first weights and of the instances trained on.
        code: digests of the code that the variant and the task are made of.
    """

    recipe: Recipe
    attn: str
    lr: float
    seed: int
    code: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def label(self) -> str:
        """The variant for people."""
        return self.attn if self.attn == GRU else display_label(resolve_attention(self.attn))

    @cached_property
    def digest(self) -> str:
        """Digest of all that decides what is learned: two trainings with the same one would learn the same.

        Which rates and seeds are tried beside it does not matter.
        """
        table = self.as_table()
        del table["recipe"]["lrs"]
        return json_digest({"format": FORMAT, **table})[:16]

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def folder(self) -> str:
        """Its place in the directory of all trainings: legible, and its own."""
        kind = self.attn.partition(":")[0].replace("+", "-")[:40]
        return f"{self.recipe.made.kind}/{kind}-lr{self.lr:g}-s{self.seed}-{self.digest}"

    def as_table(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "recipe": {**asdict(self.recipe), "options": dict(self.recipe.options)}}

    @classmethod
    def of_table(cls, table: Mapping[str, Any]) -> "Trial":
        """Return what `as_table` has written."""
        recipe = {**table["recipe"], "lrs": tuple(table["recipe"]["lrs"])}
        return cls(Recipe(**recipe), table["attn"], float(table["lr"]), int(table["seed"]), table["code"])


def trials_of(recipe: Recipe, attn: ModelAttention | None, seeds: range) -> list[Trial]:
    """Return the trainings of one variant on a task; None stands for the recurrent control.

    Raises:
        SettingsError: the variant does not fit the models.
    """
    if faults := recipe.faults(attn):
        raise SettingsError(faults)
    name, code = GRU, {"task": _task_digest(recipe.made)}
    if attn is not None:
        name = full_label(attn)
        for layer in distinct_layers(attn, recipe.mixers):
            code |= {f"{layer.kind}.{key}": value for key, value in digests(layer).items() if key.endswith("sha256")}
    return [Trial(recipe, name, lr, seed, code) for lr in recipe.lrs for seed in seeds]


def _task_digest(task: Task) -> str:
    """Return the digest of the files that say what the instances of a task are: a plug-in's may change at any time."""
    modules = {one.__module__ for one in type(task).__mro__ if issubclass(one, Task)} | {Draws.__module__}
    files = (Path(getattr(sys.modules.get(name), "__file__", None) or "") for name in sorted(modules))
    return json_digest([digest_if_there(file) for file in files])
