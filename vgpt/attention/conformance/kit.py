"""Runs the checks: over every distinct layer of a variant or mix, and over a whole model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.conformance import causality, counting, decoding, invariance, memory, numerics, state, whole
from vgpt.attention.conformance.case import Case, find_trunk
from vgpt.attention.conformance.measure import Finding
from vgpt.attention.registry import resolve_attention
from vgpt.errors import SettingsError, UsageError, did_you_mean

LAYER_CHECKS: dict[str, Callable[[Case], Finding]] = {
    check.__name__: check
    for check in (
        causality.causality_by_gradient,
        causality.causality_by_perturbation,
        causality.visibility,
        counting.pairs,
        invariance.prefix_invariance,
        invariance.batch_invariance,
        decoding.decoding,
        decoding.positions,
        decoding.rewinding,
        memory.cache_bytes,
        memory.hidden_memory,
        counting.parameters,
        counting.switches,
        counting.flops,
        counting.decode_flops,
        numerics.fast_is_naive,
        numerics.gradients,
        numerics.finite_at_extremes,
        numerics.low_precision,
        state.state_dict,
        state.construction,
    )
}
"""Checks of one layer, by name."""

MODEL_CHECKS: dict[str, Callable[[AttentionConfig, Shape, int, int, str], Finding]] = {
    check.__name__: check for check in (whole.same_trunk, whole.in_a_model)
}
"""Checks of a model with all its layers, by name."""

_MOST_LAYERS = 256
"""Layers among which the distinct ones of a mix are looked for."""


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        check: its name.
        subject: settings of the layer that was checked, or "model".
        measured: the worst number that was measured.
        limit: the most that it may be.
        passed: whether it is within the limit.
        detail: one line: what was checked, or what is wrong and where.
    """

    check: str
    subject: str
    measured: float
    limit: float
    passed: bool
    detail: str


def check_variant(
    config: AttentionConfig | str,
    shape: Shape | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    only: Sequence[str] = (),
    progress: Callable[[str, str], None] | None = None,
) -> list[Result]:
    """Check that a variant keeps the contract of `vgpt.attention`; a check that raises has failed.

    Args:
        config: settings of the variant, or what `--attn` takes.
        shape: the trunk; by default a small one that the settings fit.
        seed: chooses weights, inputs and places to look at.
        device: where the checks run.
        only: names of the checks to run; empty runs all.
        progress: called before each check with the subject and the check's name.

    Raises:
        SettingsError: the settings do not fit the trunk, or no small trunk fits them.
        UsageError: an unknown check.
    """
    config = resolve_attention(config)
    layers = distinct_layers(config)
    if shape is None:
        shape = find_trunk([layer for _, layer in layers])
    elif faults := [fault for _, layer in layers for fault in layer.check(shape)]:
        raise SettingsError(faults)
    wanted = _wanted(only)
    results: list[Result] = []

    def run(check: str, subject: str, measure: Callable[[], Finding]) -> None:
        if check not in wanted:
            return
        if progress is not None:
            progress(subject, check)
        results.append(_result(check, subject, measure))

    for index, layer in layers:
        case = Case(layer, shape, index, seed, device)
        for name, check in LAYER_CHECKS.items():
            run(name, spelled(layer), lambda check=check, case=case: check(case))
    n_layer = max(2, layers[-1][0] + 1)
    for name, check in MODEL_CHECKS.items():
        run(name, "model", lambda check=check: check(config, shape, n_layer, seed, device))
    return results


def failures(config: AttentionConfig | str, shape: Shape | None = None, **options: object) -> list[str]:
    """Return one line per check that fails, empty when the contract is kept; arguments as for `check_variant`."""
    results = check_variant(config, shape, **options)  # type: ignore[arg-type]  # passed on as they are
    return [
        f"{result.subject}: {result.check}: {result.detail} (measured {result.measured:.3g}, limit {result.limit:.3g})"
        for result in results
        if not result.passed
    ]


def check_names() -> list[str]:
    """Return the names of all checks, in the order in which they run."""
    return [*LAYER_CHECKS, *MODEL_CHECKS]


def count_checks(config: AttentionConfig, only: Sequence[str] = ()) -> int:
    """Return how many results `check_variant` gives."""
    wanted = _wanted(only)
    per_layer = sum(name in wanted for name in LAYER_CHECKS)
    return per_layer * len(distinct_layers(config)) + sum(name in wanted for name in MODEL_CHECKS)


def distinct_layers(config: AttentionConfig) -> list[tuple[int, AttentionConfig]]:
    """Return each distinct setting of a layer with the first index where it stands; one entry but for mixes."""
    found: list[tuple[int, AttentionConfig]] = []
    for index in range(_MOST_LAYERS):
        layer = config.at(index)
        if all(layer != other for _, other in found):
            found.append((index, layer))
    return found


def spelled(config: AttentionConfig) -> str:
    """Return settings as `--attn` takes them, without those that are as by default."""
    given = {name: getattr(config, name) for name in type(config).model_fields}
    changed = [f"{n}={value}" for n, value in given.items() if value != type(config).model_fields[n].default]
    return config.kind + (":" + ",".join(changed) if changed else "")


def _result(check: str, subject: str, measure: Callable[[], Finding]) -> Result:
    try:
        found = measure()
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and then has failed the check
        reason = str(error).strip().partition("\n")[0]
        return Result(check, subject, float("inf"), 0.0, False, f"raised {type(error).__name__}: {reason}")
    return Result(check, subject, found.measured, found.limit, found.passed, found.detail)


def _wanted(only: Sequence[str]) -> set[str]:
    names = [word.strip().replace("-", "_").replace(" ", "_") for word in only]
    for name in names:
        if name not in check_names():
            known = ", ".join(check_names())
            raise UsageError(f"unknown check {name!r}{did_you_mean(name, check_names())}", f"Known: {known}.")
    return set(names or check_names())
