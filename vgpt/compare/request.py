"""What a comparison asks for, and for each variant and seed the run that would answer it, with its command."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vgpt.addresses import without_credentials
from vgpt.attention.grammar import display_label, full_label
from vgpt.attention.plugin_record import plugin_flags
from vgpt.compare.audit.conditions import BACKEND, THREADS, condition_settings
from vgpt.compare.selectors import Selector, parse_selectors, with_own_settings, with_variant_flags
from vgpt.compare.statistics.differences import LEAST_SEEDS
from vgpt.errors import UsageError
from vgpt.formatting import flag_of
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import Leaf, command_words, format_value, leaves
from vgpt.settings.loader import Loaded, Sources, given_value, load_settings
from vgpt.settings.matching import UNMATCHED
from vgpt.settings.prepared import PREPARED
from vgpt.settings.train import TrainConfig
from vgpt.tracking.run_info import RunInfo

_BACKBONE_ONLY = "mha"


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        selectors: what to compare, the baseline first; empty = every variant that has runs.
        sources: where settings come from, without the variant, its settings and the run's name.
        settings: the settings that all runs share; its variant means nothing.
        origins: where each setting comes from, by flat name.
        fixed: whether the conditions were given (a preset or any setting of model, training or system). If not, they
            are those of the newest run of the baseline.
        seeds_given: whether the number of seeds was given.
        backbone_of: a variant that fits the conditions where any does; where budgets are matched, their reference.
        every_seed: whether all seeds on record under the conditions count, rather than those of its settings.
        look: seeds at the look at hand, where a plan adds them.
    """

    selectors: tuple[Selector, ...]
    sources: Sources
    settings: CompareConfig
    origins: Mapping[str, str]
    fixed: bool
    seeds_given: bool
    backbone_of: str
    every_seed: bool = False
    look: int = LEAST_SEEDS

    @property
    def adds_seeds(self) -> bool:
        """Whether seeds are added until all is decided."""
        return self.settings.compare.seeds == "auto"

    @property
    def seeds(self) -> int:
        """How many seeds are wanted: as the settings say, or at the look at hand."""
        wanted = self.settings.compare.seeds
        return self.look if wanted == "auto" else wanted

    def seeds_from(self, first: int) -> list[int]:
        """Return the wanted seeds."""
        return [first + number for number in range(self.seeds)]


@dataclass(frozen=True)
class PlannedRun:
    """One run that the comparison wants.

    Attributes:
        label: the variant with all its settings: `gqa:n_kv_head=2`.
        seed: seed of the run.
        config: its settings.
        arguments: the words after `vgpt` that train it.
    """

    label: str
    seed: int
    config: CompareConfig
    arguments: tuple[str, ...]

    @property
    def title(self) -> str:
        """The variant as readers know it: with the setting that it is about, and those that are not its defaults."""
        return display_label(self.config.model.attn)

    @property
    def command(self) -> str:
        """The command that trains it, quoted for a shell, without credentials."""
        return shlex.join(["vgpt", *map(without_credentials, self.arguments)])


def make_request(
    words: Sequence[str], sources: Sources, scaled: Mapping[str, Mapping[str, str]] | None = None
) -> Request:
    """Read the words and the settings of `vgpt compare`.

    Args:
        words: what is compared.
        sources: of all settings.
        scaled: settings of variants that a ladder sets: variant -> name -> value; what was typed goes before them.

    Raises:
        UsageError: a flag makes no sense here, or settings or words are wrong.
    """
    for name, remedy in (
        ("attn", "Name the variants as arguments: vgpt compare mha gqa"),
        ("attn_last", "Write the layers out: vgpt compare mha 5xlocal+mha"),
        ("run_name", "A comparison makes several runs and names them itself; to compare runs, name them as arguments."),
    ):
        if name in sources.command_line:
            raise UsageError(f"{flag_of(name)} {sources.command_line[name]} makes no sense here", remedy)
    known = leaves(CompareConfig)
    flags = {name: str(value) for name, value in sources.command_line.items() if known[name].variants}
    environment = {**_variant_values(known, sources.dotenv), **_variant_values(known, sources.environment)}
    selectors = with_variant_flags(parse_selectors(words), flags, strict=True)
    selectors = with_own_settings(selectors, scaled or {})
    selectors = with_variant_flags(selectors, environment, strict=False)
    hidden = [leaf for leaf in known.values() if leaf.variants or leaf.name in ("attn", "run_name")]
    shared = _without(sources, hidden)
    backbone_of = _BACKBONE_ONLY
    if (given_value(CompareConfig, sources, "match") or "none") != "none":
        backbone_of = _reference(selectors, given_value(CompareConfig, sources, "match_to"))
        shared = _with(shared, {"match_to": backbone_of})
    loaded = load_settings(CompareConfig, _with(shared, {"attn": backbone_of}))
    conditions = {name: known[name] for name in condition_settings()}
    fixed = shared.preset is not None or any(_is_given(leaf, shared) for leaf in conditions.values())
    shared, loaded = _with_compile(shared, loaded, selectors)
    return Request(
        selectors=tuple(selectors),
        sources=shared,
        settings=loaded.settings,
        origins=loaded.origins,
        fixed=fixed,
        seeds_given=_is_given(known["seeds"], shared),
        backbone_of=backbone_of,
    )


def _with_compile(
    sources: Sources, loaded: Loaded[CompareConfig], selectors: Sequence[Selector]
) -> tuple[Sources, Loaded[CompareConfig]]:
    """Settle once for all runs whether they are compiled, where nobody said so."""
    from vgpt.training.hardware.compiling import by_default, settle_loaded

    settled = settle_loaded(loaded)
    if loaded.settings.system.compile is not None or not settled.settings.system.compile:
        return sources, settled
    for selector in selectors:
        if selector.kind:
            own = load_settings(CompareConfig, _with(sources, {"attn": selector.attn})).settings
            compile, why = by_default(own.model, own.system)
            if not compile:
                system = own.system.model_copy(update={"compile": False})
                settings = loaded.settings.model_copy(update={"system": system})
                origins = {**loaded.origins, "compile": f"default: {why}"}
                return _with(sources, {"compile": "false"}), replace(loaded, settings=settings, origins=origins)
    return _with(sources, {"compile": "true"}), settled


def settings_of_first(request: Request) -> Loaded[CompareConfig]:
    """Return the settings, with their origins, of the first variant that was named; the default's where none was."""
    attn = next((selector.attn for selector in request.selectors if selector.kind), request.backbone_of)
    loaded = load_settings(CompareConfig, _with(request.sources, {"attn": attn}))
    known = leaves(CompareConfig)
    own = {name for name, origin in loaded.origins.items() if known[name].variants and origin == "command line"}
    said = {**dict.fromkeys(["attn", *own], "argument"), "compile": request.origins["compile"]}
    system = loaded.settings.system.model_copy(update={"compile": request.settings.system.compile})
    settings = loaded.settings.model_copy(update={"system": system})
    return replace(loaded, settings=settings, origins={**loaded.origins, **said})


def planned_runs(
    request: Request, selector: Selector, seeds: Iterable[int], reference: RunInfo | None = None
) -> list[PlannedRun]:
    """Return the runs of a variant under the conditions that were given or, without them, those of a reference run.

    Settings are loaded once: seeds are no part of what may be wrong with them.

    Raises:
        SettingsError: the variant does not fit these conditions.
    """
    conditions = _typed_conditions(request, reference) if reference is not None else {}
    typed = {**_found_data(request), **_typed(request.sources), **conditions}
    config = load_settings(CompareConfig, _with(request.sources, {**typed, "attn": selector.attn})).settings
    plugins = plugin_flags(config.model.attn, config.model.n_layer)
    found: list[PlannedRun] = []
    for seed in seeds:
        own, flags = config, typed
        if seed != config.train.seed:
            own = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            flags = {**typed, "seed": str(seed)}
        words = (*_arguments(request.sources, selector.attn, flags), *plugins)
        found.append(PlannedRun(full_label(config.model.attn), seed, own, words))
    return found


def base_seed(request: Request, baseline_runs: Sequence[RunInfo]) -> int:
    """Return the first seed: the given one, or without one the lowest of the baseline's runs."""
    seeds = [int(seed) for run in baseline_runs if (seed := run.seed).isdecimal()]
    given = request.settings.train.seed
    if request.origins["seed"] != "default" or given in seeds or not seeds:
        return given
    return min(seeds)


def _reference(selectors: Sequence[Selector], given: str | None) -> str:
    """Return what budgets are matched to: the variant that was named, with its settings in this comparison.

    Without a name it is the baseline.
    """
    if given is not None:
        same = [selector for selector in selectors if selector.kind and given in (selector.kind, selector.text)]
        return same[0].attn if len(same) == 1 else given
    if not selectors:
        return _BACKBONE_ONLY
    if not selectors[0].kind:
        raise UsageError(
            f"--match has nothing to match: the baseline {selectors[0].text!r} is a run",
            "Name the variant to match with --match-to, or begin with a variant.",
        )
    return selectors[0].attn


def _arguments(sources: Sources, attn: str, typed: Mapping[str, Any]) -> tuple[str, ...]:
    words = ["train"]
    if sources.preset is not None:
        words += ["--preset", sources.preset.name]
    words += ["--attn", attn]
    return (*words, *command_words(leaves(TrainConfig), typed))


def _typed_conditions(request: Request, reference: RunInfo) -> dict[str, str]:
    """Return the reference's conditions as flags: those that are not what a run without flags would have."""
    known = leaves(TrainConfig)
    names = [*condition_settings(), THREADS]
    recorded = {name: reference.params[name] for name in names if name in reference.params}
    if reference.attention_backend != "table":
        recorded[BACKEND] = reference.attention_backend
    if recorded.get("match") == "cache":  # its outcome is among the variant's own settings; it binds no other variant
        recorded |= {name: format_value(value) for name, value in UNMATCHED.items()}
    plain = request.settings.flat()
    matched = recorded.get("match", "none") != "none"
    backbone_of = recorded["match_to"] if matched else _BACKBONE_ONLY
    exact = load_settings(CompareConfig, Sources(command_line={**recorded, "attn": backbone_of})).settings.flat()
    return {name: format_value(exact[name]) for name in known if name in recorded and exact[name] != plain[name]}


def _typed(sources: Sources) -> dict[str, Any]:
    names = leaves(TrainConfig)
    return {name: value for name, value in sources.command_line.items() if name in names}


def _found_data(request: Request) -> dict[str, str]:
    """Return the data that nobody named, for the command: what was prepared last changes."""
    found = request.origins["data"].startswith(PREPARED)
    return {"data": request.settings.train.data} if found else {}


def _is_given(leaf: Leaf, sources: Sources) -> bool:
    return leaf.name in sources.command_line or leaf.env in sources.environment or leaf.env in sources.dotenv


def _variant_values(known: Mapping[str, Leaf], values: Mapping[str, str]) -> dict[str, str]:
    return {leaf.name: values[leaf.env] for leaf in known.values() if leaf.variants and leaf.env in values}


def _with(sources: Sources, values: Mapping[str, Any]) -> Sources:
    return replace(sources, command_line={**sources.command_line, **values})


def _without(sources: Sources, hidden: Sequence[Leaf]) -> Sources:
    names, variables = {leaf.name for leaf in hidden}, {leaf.env for leaf in hidden}
    return replace(
        sources,
        dotenv={key: value for key, value in sources.dotenv.items() if key not in variables},
        environment={key: value for key, value in sources.environment.items() if key not in variables},
        command_line={key: value for key, value in sources.command_line.items() if key not in names},
    )
