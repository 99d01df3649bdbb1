"""Runs the checks: over every distinct layer of a variant or mix, and over a whole model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

import torch

from vgpt.attention.config import AttentionConfig, ModelAttention, Shape
from vgpt.attention.grammar import resolve_attention, short_label
from vgpt.conformance import (
    agreement,
    causality,
    counting,
    decoding,
    flops,
    gradients,
    invariance,
    memory,
    numerics,
    state,
    stepping,
    whole,
)
from vgpt.conformance.case import FARTHEST, Case, find_backbone
from vgpt.conformance.measure import Measurement
from vgpt.conformance.oracle import mapping
from vgpt.conformance.oracle import oracle as compare_with_oracle
from vgpt.errors import SettingsError, UsageError, did_you_mean

LAYER_CHECKS: dict[str, Callable[[Case], Measurement]] = {
    check.__name__: check
    for check in (
        causality.causality_by_gradient,
        causality.causality_by_perturbation,
        causality.visibility,
        counting.pairs,
        invariance.prefix_invariance,
        invariance.batch_invariance,
        invariance.stated_positions,
        agreement.modes,
        decoding.decoding,
        decoding.positions,
        decoding.rewinding,
        stepping.fixed_steps,
        memory.cache_bytes,
        memory.hidden_memory,
        counting.parameters,
        counting.switches,
        flops.flops,
        flops.decode_flops,
        numerics.fast_is_naive,
        gradients.gradients,
        gradients.gradients_under_autocast,
        numerics.finite_at_extremes,
        numerics.low_precision,
        state.state_dict,
        state.construction,
        state.initial_weights,
    )
}
"""Checks of one layer, by name."""

MODEL_CHECKS: dict[str, Callable[[ModelAttention, Shape, int, int, str], Measurement]] = {
    check.__name__: check for check in (whole.same_trunk, whole.in_a_model)
}
"""Checks of a model with all its layers, by name."""

ORACLE = "oracle"
"""The check that a variant computes what a named one does; only where one is named."""

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


@dataclass(frozen=True)
class Check:
    """One check of one layer or model, ready to run."""

    name: str
    subject: str
    shape: Shape
    measure: Callable[[], Measurement]
    case: Case | None = None

    def run(self) -> Result:
        """Measure; a check that raises has failed."""
        threads = torch.get_num_threads()
        torch.set_num_threads(
            1
        )  # tensors are tiny: threads that wait for each other only cost, on a busy machine a lot
        try:
            found = self.measure()
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and then has failed the check
            reason = str(error).strip().partition("\n")[0]
            return Result(self.name, self.subject, inf, 0.0, False, f"raised {type(error).__name__}: {reason}")
        finally:
            torch.set_num_threads(threads)
        return Result(self.name, self.subject, found.measured, found.limit, found.passed, found.detail)


def checks_of(
    config: ModelAttention | str,
    shape: Shape | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    only: Sequence[str] = (),
    oracle: ModelAttention | str | None = None,
    alone: bool = False,
) -> list[Check]:
    """Return the checks of a variant without running any; arguments and errors as for `check_variant`.

    With `alone` the layers are tried on this backbone only, without other positions and switches.
    """
    if torch.device(device).type == "mps":
        raise UsageError("the checks compare with float64, which MPS does not have", "Use --device cpu.")
    config = resolve_attention(config)
    layers = distinct_layers(config)
    reference = None if oracle is None else resolve_attention(oracle)
    if shape is None:
        shape = find_backbone([layer for _, layer in layers])
    elif faults := [fault for _, layer in layers for fault in layer.check(shape)]:
        raise SettingsError(faults)
    found: list[Check] = []
    for index, layer in layers:
        case = Case(layer, shape, index, seed, device, alone)
        found += [
            Check(name, short_label(layer), shape, partial(measure, case), case)
            for name, measure in LAYER_CHECKS.items()
        ]
        if reference is not None:
            beside = reference.at(index)
            mapping(case, beside)  # refused before the first check runs
            found.append(Check(ORACLE, short_label(layer), shape, partial(compare_with_oracle, case, beside), case))
    depth = max(2, layers[-1][0] + 1)
    for name, measure in MODEL_CHECKS.items():
        found.append(Check(name, "model", shape, partial(measure, config, shape, depth, seed, device)))
    wanted = _wanted(only, [*check_names(), *([ORACLE] if reference is not None else [])])
    return [check for check in found if check.name in wanted]


def check_variant(
    config: ModelAttention | str,
    shape: Shape | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    only: Sequence[str] = (),
    oracle: ModelAttention | str | None = None,
) -> list[Result]:
    """Check that a variant keeps the contract of `vgpt.attention`; a check that raises has failed.

    Args:
        config: settings of the variant, or what `--attn` takes.
        shape: the backbone; by default a small one that the settings fit.
        seed: chooses weights, inputs and places to look at.
        device: where the checks run.
        only: names of the checks to run; empty runs all.
        oracle: variant to compare outputs and gradients with, given equal weights.

    Raises:
        SettingsError: the settings do not fit the backbone, or no small backbone fits them.
        UsageError: an unknown check, a reference whose weights cannot be made from the variant's, or a device
            without float64.
    """
    return [check.run() for check in checks_of(config, shape, seed=seed, device=device, only=only, oracle=oracle)]


def failures(
    config: ModelAttention | str,
    shape: Shape | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    only: Sequence[str] = (),
    oracle: ModelAttention | str | None = None,
) -> list[str]:
    """Return one line per check that fails, empty when the contract is kept; arguments as for `check_variant`."""
    results = check_variant(config, shape, seed=seed, device=device, only=only, oracle=oracle)
    return [
        f"{result.subject}: {result.check}: {result.detail} (measured {result.measured:.3g}, limit {result.limit:.3g})"
        for result in results
        if not result.passed
    ]


def check_names() -> list[str]:
    """Return the names of all checks, in the order in which they run."""
    return [*LAYER_CHECKS, *MODEL_CHECKS]


def distinct_layers(config: ModelAttention) -> list[tuple[int, AttentionConfig]]:
    """Return each distinct setting of a layer with the first index where it stands; one entry but for mixes."""
    found: list[tuple[int, AttentionConfig]] = []
    for index in range(_MOST_LAYERS):
        layer = config.at(index)
        if all(layer != other for _, other in found):
            found.append((index, layer))
    return found


def lengths_checked(checks: Sequence[Check]) -> str:
    """Return one line on the lengths at which the checks look; after they have run, for it may take as long as one."""
    cases = list({id(check.case): check.case for check in checks if check.case is not None}.values())
    if not cases:
        return "models of short sequences"
    try:
        lengths = [case.tokens for case in cases], [case.longest for case in cases]
    except Exception as error:  # noqa: BLE001 - foreign code, which the checks have told about
        return f"lengths are not known, visible() raises {type(error).__name__}"
    tokens, longest = (", ".join(f"{n:,}" for n in dict.fromkeys(numbers)) for numbers in lengths)
    far = min(FARTHEST, cases[0].shape.block_size)
    return f"sequences of {tokens} tokens, counts of pairs up to {longest}, single sequences up to {far:,}"


def _wanted(only: Sequence[str], known: list[str]) -> set[str]:
    names = [word.strip().replace("-", "_").replace(" ", "_") for word in only]
    for name in names:
        if name == ORACLE and ORACLE not in known:
            raise UsageError("the check 'oracle' needs a reference", "Name one: --oracle mha.")
        if name not in known:
            raise UsageError(f"unknown check {name!r}{did_you_mean(name, known)}", f"Known: {', '.join(known)}.")
    return set(names or known)
