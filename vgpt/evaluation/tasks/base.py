"""What a task is: settings, a generator of instances, a scorer, and the control that must pass before others fail.

An instance is a row of token ids and the ids that a model should say at some of its positions. Which one it is depends
on (seed, split, index) and on the task's settings, and on nothing else: not on the batch that it is in, nor on who
makes it. Three splits never share one: an instance belongs to the split that a hash of its content names, so that no
seed, number of instances or worker moves it, and draws that belong to another split are drawn again.

Shapes: N instances, T tokens of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import log2
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
from pydantic import Field, ValidationError, model_validator

from vgpt.errors import did_you_mean
from vgpt.evaluation.tasks.draws import Draws, content_hash, streams
from vgpt.schema import Section

IGNORE = -100
"""Target of a position where nothing is asked; PyTorch's cross-entropy leaves it out."""
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_PARTS = {"train": range(6), "validation": range(6, 7), "test": range(7, 8)}
_N_PARTS = 8
"""Of eight equal parts of all contents, six belong to training, one to validation and one to the test."""
FEWEST_BITS = 16
"""A task with fewer contents than 2^16 is refused: its test would have fewer than some 8,000."""
_MOST_ATTEMPTS = 1000
"""Draws of one instance; all belong to another split with a probability below 1e-57."""
_CHUNK_TOKENS = 1 << 19
Length = Annotated[int, Field(ge=1, le=1 << 20)]


@dataclass(frozen=True)
class Drawn:
    """Instances as a task draws them.

    Attributes:
        inputs: token ids, (N, T).
        targets: what to say at each position, given the inputs up to it and itself, (N, T); `IGNORE` where nothing is
            asked.
        content: what makes an instance another one, (N, n) integers: all that its answers depend on, and nothing that
            is mere filling. Splits share no content.
        scored: positions that count, (N, T) bool; all that have a target where it is None.
    """

    inputs: np.ndarray
    targets: np.ndarray
    content: np.ndarray
    scored: np.ndarray | None = None


@dataclass(frozen=True)
class Batch:
    """Instances of one split, ready for a model.

    Attributes:
        inputs: token ids, (N, T) int64.
        targets: (N, T) int64, `IGNORE` where the loss leaves the position out; not shifted against the inputs.
        scored: positions whose answers count, (N, T) bool; each has a target.
    """

    inputs: np.ndarray
    targets: np.ndarray
    scored: np.ndarray


@dataclass(frozen=True)
class Score:
    """How many of the things asked were right, instance by instance.

    Attributes:
        right, asked: (N,) int64.
    """

    right: np.ndarray
    asked: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of what was asked that was right."""
        return float(self.right.sum() / self.asked.sum())


@dataclass(frozen=True)
class Control:
    """What must learn the task before the failure of others says anything, and the training that suffices for it.

    Attributes:
        attn: attention of the control, as `--attn` takes it; "gru" for a recurrent layer (torch.nn.GRU) in the place
            of attention, where attention is not known to learn the task.
        accuracy: what it must reach on the validation split at the training length.
        n_layer, n_embd, n_head: of every model that is trained on the task.
        short_conv: whether the first layer is a causal convolution of width 3 instead, without which the task measures
            who finds the previous token.
        steps, batch_size: of training.
        lrs: learning rates that are tried.
    """

    attn: str = "mha"
    accuracy: float = 0.95
    n_layer: int = 2
    n_embd: int = 64
    n_head: int = 4
    short_conv: bool = True
    steps: int = 800
    batch_size: int = 64
    lrs: tuple[float, ...] = (2e-3, 5e-3, 1e-2)


@dataclass(frozen=True)
class Point:
    """One place where a task is tested: the training settings, or others.

    Attributes:
        axes: the settings that are swept, with their values here; the training length is always among them.
        task: the task with these settings, whose instances are tested.
        beyond: whether any of them is not as in training.
    """

    axes: dict[str, int | float]
    task: "Task"
    beyond: bool

    @property
    def label(self) -> str:
        """The values of the axes, as in `length 64, n_pairs 8`."""
        return ", ".join(f"{name} {value:g}" for name, value in self.axes.items())


class Task(Section):
    """Settings of a task; a subclass adds its own and says how instances are drawn.

    `register_task` makes a subclass a task. It must have defaults for all settings and define `n_tokens`,
    `content_bits`, `chance` and `draw`; it may define `faults`, `score`, `control`, and more `axes`.
    """

    kind: ClassVar[str] = ""
    """name; set by `register_task`"""
    summary: ClassVar[str] = ""
    """one line for lists of tasks; set by `register_task`"""
    source: ClassVar[str] = ""
    """paper and section that the task comes from, and what is different here"""
    control: ClassVar[Control] = Control()
    """what must pass, and how models are trained"""
    axes: ClassVar[dict[str, str]] = {"test_lengths": "length"}
    """settings with the values of a test -> the setting that they stand for"""

    length: Length = 32
    """tokens of an instance in training"""
    test_lengths: tuple[Length, ...] = ()
    """lengths of the test beside that of training"""

    # What a task says of itself.

    @property
    def n_tokens(self) -> int:
        """Number of token ids: inputs and targets are below it. Equal at every point of the test."""
        raise NotImplementedError(f"task {self.kind!r} does not define n_tokens")

    def content_bits(self) -> float:
        """Return log2 of the number of different contents at these settings."""
        raise NotImplementedError(f"task {self.kind!r} does not define content_bits")

    def chance(self) -> float:
        """Return the accuracy of guessing among all possible answers without looking at the instance."""
        raise NotImplementedError(f"task {self.kind!r} does not define chance")

    def draw(self, draws: Draws) -> Drawn:
        """Return `len(draws)` instances; all that is random in one comes from its row of `draws`."""
        raise NotImplementedError(f"task {self.kind!r} does not define draw")

    def faults(self) -> list[str]:
        """Return what is wrong with settings that are each in range: which of them do not go together."""
        return []

    def score(self, batch: Batch, said: np.ndarray) -> Score:
        """Compare what a model says with what is right: each scored position counts.

        Args:
            batch: instances of this task.
            said: the most probable token at each position, (N, T).
        """
        right = (np.asarray(said) == batch.targets) & batch.scored
        return Score(right.sum(1), batch.scored.sum(1))

    # What others ask of it.

    def at(self, **changes: Any) -> Self:
        """Return the task with other settings.

        Raises:
            pydantic.ValidationError: they do not go together.
        """
        return type(self).model_validate({**self.model_dump(), **changes})

    def points(self) -> list[Point]:
        """Return where it is tested: the training settings first, then every combination of its axes that fits."""
        return list(self._points())

    def batch(self, seed: int, split: Split, indices: np.ndarray | Sequence[int]) -> Batch:
        """Return instances by their numbers: the same ones for any division into batches.

        Args:
            seed: decides which contents of the split these are; splits of two seeds share none either.
            split: "train", "validation" or "test".
            indices: numbers of the instances, N of them, not negative.

        Raises:
            ValueError: no such split, or a negative number.
        """
        numbers = np.asarray(indices, np.int64).reshape(-1)
        if split not in SPLITS or (numbers < 0).any():
            raise ValueError(f"task {self.kind!r}: no split {split!r}, or an instance of a negative number")
        step = max(1, _CHUNK_TOKENS // self.length)
        parts = [self._chunk(seed, split, numbers[at : at + step]) for at in range(0, max(1, len(numbers)), step)]
        inputs, targets, scored = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Batch(inputs, targets, scored)

    def split_of(self, content: np.ndarray) -> np.ndarray:
        """Return the number in `SPLITS` of the split that each content belongs to, (N, n) -> (N,)."""
        parts = np.repeat(np.arange(len(SPLITS)), [len(_PARTS[split]) for split in SPLITS])
        return parts[(content_hash(content) % np.uint64(_N_PARTS)).astype(np.int64)]

    def _chunk(self, seed: int, split: Split, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(numbers), self.length)
        inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORE)
        scored, left, attempt = np.zeros(shape, bool), np.arange(len(numbers)), 0
        while left.size:
            if attempt == _MOST_ATTEMPTS:
                raise TypeError(f"task {self.kind!r}: its contents hardly differ: none found for the {split} split")
            drawn = self.draw(Draws(streams((self.kind, seed, split), numbers[left], attempt)))
            if attempt == 0:
                self._check_drawn(drawn, len(left))
            mine = self.split_of(drawn.content) == SPLITS.index(split)
            inputs[left[mine]], targets[left[mine]] = drawn.inputs[mine], drawn.targets[mine]
            counts = drawn.targets != IGNORE if drawn.scored is None else drawn.scored
            scored[left[mine]] = counts[mine]
            left, attempt = left[~mine], attempt + 1
        return inputs, targets, scored

    def _check_drawn(self, drawn: Drawn, n: int) -> None:
        """Hold the author of a task to the contract, whose breach would train something else in silence."""
        for name in ("inputs", "targets"):
            array: np.ndarray = getattr(drawn, name)
            if array.shape != (n, self.length):
                raise TypeError(f"task {self.kind!r}: {name} of {array.shape}, not {(n, self.length)}")
            fine = (array >= 0) & (array < self.n_tokens)
            if not (fine | (name == "targets") & (array == IGNORE)).all():
                raise TypeError(f"task {self.kind!r}: {name} outside [0, {self.n_tokens})")
        counts = drawn.targets != IGNORE
        if drawn.scored is not None and (drawn.scored & ~counts).any():
            raise TypeError(f"task {self.kind!r}: a position is scored and has no target")
        if not (counts if drawn.scored is None else drawn.scored).any(1).all():
            raise TypeError(f"task {self.kind!r}: an instance asks nothing")

    def _points(self) -> Iterator[Point]:
        trained = {name: getattr(self, name) for name in self.axes.values()}
        values = [dict.fromkeys([trained[name], *getattr(self, test)]) for test, name in self.axes.items()]
        for combination in product(*values):
            chosen = dict(zip(trained, combination, strict=True))
            try:
                task = self.at(**chosen, **dict.fromkeys(self.axes, ()))
            except ValidationError:
                continue
            told = {name: value for name, value in chosen.items() if value is not None}
            yield Point(told, task, chosen != trained)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        faults = self.faults()
        if not faults and (bits := self.content_bits()) < FEWEST_BITS:
            faults = [
                f"only {2**bits:,.0f} instances differ, too few to keep training and test apart "
                f"(at least {2**FEWEST_BITS:,} needed): make it longer or larger"
            ]
        faults += [] if faults else self._untestable()
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _untestable(self) -> list[str]:
        """Return the values of the test's axes that fit no other value, and points with another vocabulary."""
        if not any(getattr(self, test) for test in self.axes):
            return []
        points = self.points()
        faults = [
            f"{test} = {value}: fits none of the other settings"
            for test, name in self.axes.items()
            for value in getattr(self, test)
            if not any(point.axes.get(name) == value for point in points)
        ]
        return faults + [
            f"at {point.label}: {point.task.n_tokens} token ids, not the {self.n_tokens} of training"
            for point in points
            if point.task.n_tokens != self.n_tokens
        ]


def unknown_task(kind: str, known: dict[str, type[Task]]) -> str:
    """Return the sentence for a name that is no task."""
    return f"unknown task {kind!r}{did_you_mean(kind, known)} (known: {', '.join(known)})"


def content_bits_of(*factors: float) -> float:
    """Return log2 of a product of positive numbers."""
    return sum(log2(factor) for factor in factors)
