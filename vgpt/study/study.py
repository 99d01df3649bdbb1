"""What a command or a study file asks for, as comparisons that are answered one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vgpt.compare.choose import compare
from vgpt.compare.comparison import TUNING_SEEDS, Comparison, grid
from vgpt.compare.curves import Histories
from vgpt.compare.ladder import Rung
from vgpt.compare.request import Request, make_request, planned_runs
from vgpt.compare.snapshot import snapshot_point_of
from vgpt.compare.staircase import Staircase
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.compare.tuning import tuned_comparison
from vgpt.errors import UsageError
from vgpt.files.paths import user_path
from vgpt.settings.compare import CompareConfig
from vgpt.settings.loader import Sources, given_value
from vgpt.settings.margin import Requirement
from vgpt.settings.presets import load_preset
from vgpt.settings.study import StudyFile, combinations, listed_axes, load_study
from vgpt.study.budgets import budget_requests
from vgpt.study.ladders.plan import LadderPlan, Settings, plan_ladder
from vgpt.study.staircase import climbed, refuse_stairs, with_stairs
from vgpt.tracking.run_info import RunInfo


@dataclass(frozen=True)
class StudyPart:
    """One comparison of a study.

    Attributes:
        values: what it has apart from the others: `{"match": "params", "lr": "0.001"}`; empty for a single one.
        request: what it asks for.
        rates: the same request at every learning rate of a sweep, lowest first; empty without one.
        tuning: the same, with the seeds that choose the rate.
        rung: the size that it is made at; None without a ladder.
        budgets: the baseline alone, by multiple of the budget; empty where nobody asked for equivalents.
        staircase: the path whose stairs are compared; None where variants were named one by one.
    """

    values: Mapping[str, str]
    request: Request
    rates: Mapping[float, Request] = field(default_factory=dict[float, Request])
    tuning: Mapping[float, Request] = field(default_factory=dict[float, Request])
    rung: Rung | None = None
    budgets: Mapping[float, Request] = field(default_factory=dict[float, Request])
    staircase: Staircase | None = None

    @property
    def title(self) -> str:
        """Its values in words; empty for a single comparison."""
        return ", ".join(f"{name} = {value}" for name, value in self.values.items())

    @property
    def slug(self) -> str:
        """Its values as a piece of a file's name; empty for a single comparison."""
        return "_".join(f"{name}-{value}" for name, value in self.values.items())

    def answer(
        self, runs: Sequence[RunInfo], windows: Windows | None = None, histories: Histories | None = None
    ) -> Comparison:
        """Return the comparison, from all runs on record; see `compare` for what finds losses."""
        return climbed(self._answer(runs, windows, histories), self.staircase, runs, windows)

    def _answer(self, runs: Sequence[RunInfo], windows: Windows | None, histories: Histories | None) -> Comparison:
        if not self.rates:
            return compare(self.request, runs, windows=windows, histories=histories)
        tried = {rate: compare(request, runs) for rate, request in self.tuning.items()}
        reported = {rate: compare(request, runs) for rate, request in self.rates.items()}
        settings = self.request.settings
        seed = settings.train.seed
        labels = [one.label for name in self.request.selectors for one in planned_runs(self.request, name, [seed])]
        return tuned_comparison(
            list(dict.fromkeys(labels)),
            tried,
            reported,
            settings.train.lr,
            runs,
            windows=windows,
            sort=settings.compare.sort,
        )


@dataclass(frozen=True)
class Answered:
    """A part of a study with its answer."""

    part: StudyPart
    comparison: Comparison


@dataclass(frozen=True)
class Study:
    """Several comparisons under one name, or a single one without a name.

    Attributes:
        name: from its file; empty for what the command line asks for.
        parts: its comparisons, at least one.
        sources: where settings come from, beside the file.
        words: the arguments, as typed.
        ladder: the rungs that its parts are; None where they are something else.
        requirements: what it must show for its caller to go on; `vgpt.study.requirements` judges them.
    """

    name: str
    parts: tuple[StudyPart, ...]
    sources: Sources
    words: tuple[str, ...] = ()
    ladder: LadderPlan | None = None
    requirements: tuple[Requirement, ...] = ()

    @property
    def divided(self) -> bool:
        """Whether its parts are told apart: a study from a file, or along lists of values on the command line."""
        return bool(self.name or self.parts[0].values)

    @property
    def first(self) -> Request:
        """The first request: what it says of showing and storing holds for all."""
        return self.parts[0].request


def make_study(words: Sequence[str], sources: Sources) -> Study:
    """Read the words and settings of `vgpt compare`, and the study file that they may name.

    What is typed on the command line goes before what the file says; a list of values there is an axis, as in a file.

    Raises:
        UsageError: a flag makes no sense here, or settings, words or the file are wrong.
    """
    if (ladder := given_value(CompareConfig, sources, "ladder")) is not None:
        refuse_stairs(sources, "--ladder scales variants' settings with its rungs")
        return _make_ladder(plan_ladder(str(ladder), words, sources), words, sources)
    if given_value(CompareConfig, sources, "rungs") is not None:
        raise UsageError("--rungs counts rungs, which --ladder names", "Add --ladder presets/ladders/cpu.toml.")
    place = given_value(CompareConfig, sources, "study")
    listed = listed_axes(sources.command_line)
    plain = {name: value for name, value in sources.command_line.items() if name not in listed}
    if place is None:
        parts = [
            _make_part(values, words, replace(sources, command_line={**plain, **values}))
            for values in combinations(listed)
        ]
        return Study("", tuple(parts), sources, tuple(words))
    study = load_study(_named(place))
    compared = ", ".join(study.variants) or f"{study.from_} to {study.to}"
    if words:
        raise UsageError(
            f"{place} names the variants already: {compared}",
            "Leave out the arguments, or change the file.",
        )
    refuse_stairs(sources, f"{place} names the variants already")
    preset = sources.preset
    if preset is None and study.preset is not None:
        preset = load_preset(study.preset)
    shared = {**study.shared(), **plain}
    axes = {**{name: values for name, values in study.axes().items() if name not in plain}, **listed}
    parts = [
        _make_part(values, study.variants, replace(sources, preset=preset, command_line={**shared, **values}))
        for values in combinations(axes)
    ]
    for part in parts:
        _check_budget(part, study, place)
    return Study(study.name, tuple(parts), sources)


def _named(place: str) -> Path:
    try:
        return user_path(place)
    except ValueError as error:
        raise UsageError(f"--study {place}: {error}") from error


def _make_ladder(plan: LadderPlan, words: Sequence[str], sources: Sources) -> Study:
    """Return a study whose parts are the rungs of a ladder.

    Raises:
        UsageError: a run is named, which has one size.
    """
    parts = [
        replace(_make_part({"rung": one.rung.name}, words, one.sources, one.scaled), rung=one.rung)
        for one in plan.rungs
    ]
    if named := [selector.text for selector in parts[0].request.selectors if not selector.kind]:
        raise UsageError(f"--ladder compares variants at several sizes; {named[0]!r} is a run", "Name variants alone.")
    return Study(plan.name, tuple(parts), sources, tuple(words), plan)


def _make_part(
    values: Mapping[str, str], words: Sequence[str], sources: Sources, scaled: Settings | None = None
) -> StudyPart:
    """Return a comparison, at several learning rates where they are swept.

    A lowest rate that was given is taken along in proportion: every schedule has the same shape.

    Raises:
        UsageError: a run is named where rates are swept, or no variant at all.
    """
    asked_for = with_stairs(words, sources)
    words, sources, staircase = asked_for.words, asked_for.sources, asked_for.staircase
    request = asked_for.fixed(make_request(words, sources, scaled))
    number = request.settings.compare.sweep_lr
    if number is None:
        if request.settings.compare.sweep_seeds is not None:
            raise UsageError("--sweep-seeds chooses a learning rate, which --sweep-lr asks for", "Add --sweep-lr 3.")
        return StudyPart(values, request, budgets=budget_requests(request, words, sources, scaled), staircase=staircase)
    if (point := snapshot_point_of(request.settings.compare)) is not None:
        raise UsageError(
            f"--at-{point.axis} and --sweep-lr exclude each other: rates are chosen at the end of each run",
            "Leave one of them out.",
        )
    if not request.selectors or not all(selector.kind for selector in request.selectors):
        raise UsageError("--sweep-lr tunes variants, not runs", "Name the variants: vgpt compare mha gqa --sweep-lr 3")
    train = request.settings.train
    rates, tuning = dict[float, Request](), dict[float, Request]()
    asked = request.settings.compare
    other = {"seed": str(train.seed + TUNING_SEEDS), "seeds": str(asked.sweep_seeds or asked.seeds)}
    for lr in grid(train.lr, number):
        typed = {"lr": str(lr)}
        if train.min_lr is not None:
            typed["min_lr"] = str(train.min_lr * (lr / train.lr))
        typed = {**sources.command_line, **typed}
        rates[lr] = make_request(words, replace(sources, command_line=typed), scaled)
        tuning[lr] = make_request(words, replace(sources, command_line={**typed, **other}), scaled)
    return StudyPart(values, request, rates, tuning, staircase=staircase)


def _check_budget(part: StudyPart, study: StudyFile, place: str) -> None:
    """Refuse a budget that --max-steps would cut: several of them could be the same in truth.

    Raises:
        UsageError: it would be cut.
    """
    config = part.request.settings
    most = config.train.max_steps * config.tokens_per_step
    if config.train.max_tokens is not None and study.max_tokens and config.train.max_tokens > most:
        raise UsageError(
            f"{place}: max_tokens {config.train.max_tokens:,} is beyond max_steps, which ends at {most:,} tokens",
            f"Below [settings]: max_steps = {-(-config.train.max_tokens // config.tokens_per_step)} or more.",
        )
