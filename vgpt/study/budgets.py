"""The baseline's runs at other budgets, as requests: each a whole run with a schedule of its own length."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vgpt.compare.equivalents import FACTORS, FURTHER
from vgpt.compare.request import Request, make_request
from vgpt.errors import UsageError
from vgpt.settings.loader import Sources


def budget_factors(further: Sequence[float]) -> tuple[float, ...]:
    """Return the budgets to train, as multiples of the common one, rising.

    Raises:
        UsageError: a further budget lies within those that are trained anyway.
    """
    least, most = FACTORS[0], FACTORS[-1]
    found = {*FACTORS}
    for limit in further:
        if least <= limit <= most:
            raise UsageError(
                f"--equivalent-to {limit:g} lies within the budgets that are trained anyway: {least:g} to {most:g}",
                f"Name one below {least:g} or above {most:g}, such as 0.5 or 2.",
            )
        found |= {limit, *(one for one in FURTHER if most < one < limit or limit < one < least)}
    return tuple(sorted(found))


def budget_requests(
    request: Request,
    words: Sequence[str],
    sources: Sources,
    scaled: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[float, Request]:
    """Return what asks for the baseline at every budget, by factor; empty where nobody asked for equivalents.

    Steps and steps of warm-up are multiplied alike, so that the schedule keeps its shape. The factor is that of the
    steps, which are whole.

    Args:
        request: of the comparison.
        words: its words.
        sources: where its settings come from.
        scaled: settings of variants at the size of a rung; None without a ladder.

    Raises:
        UsageError: the comparison is none whose baseline can be trained at other budgets.
    """
    if request.settings.compare.equivalent is None:
        return {}
    _check(request)
    config = request.settings
    steps, warmup = config.steps, config.train.warmup_steps
    found: dict[float, Request] = {}
    for factor in budget_factors(config.compare.equivalent_to):
        number = max(1, round(steps * factor))
        typed = {"max_steps": str(number), "warmup_steps": str(round(warmup * number / steps))}
        if config.train.max_tokens is not None:
            typed["max_tokens"] = "none"
        if number == steps:
            typed = {}  # the comparison's own runs
        one = make_request(words, replace(sources, command_line={**sources.command_line, **typed}), scaled)
        if number / steps in found:
            raise UsageError(
                f"--equivalent: {steps} steps are too few for budgets that differ", "Raise --max-steps, to 20 or more."
            )
        found[number / steps] = replace(one, selectors=one.selectors[:1])
    return found


def _check(request: Request) -> None:
    """Refuse comparisons whose baseline has no budgets beside its own.

    Raises:
        UsageError: why.
    """
    train, selectors = request.settings.train, request.selectors
    if not request.fixed:
        raise UsageError(
            "--equivalent trains the baseline at other budgets, and nothing says under which settings",
            "Name a preset, or settings of the runs: --preset demo",
        )
    if not selectors or not selectors[0].kind:
        raise UsageError(
            "--equivalent trains the baseline at other budgets: it must be a variant, not a run",
            "Begin with a variant: vgpt compare mha mla --equivalent tokens --preset demo",
        )
    if train.fork is not None:
        raise UsageError(
            "--equivalent and --fork exclude each other: a fork has no budget of its own", "Leave one of them out."
        )
    if train.patience is not None:
        raise UsageError(
            "--equivalent and --patience exclude each other: budgets end where planned", "Leave one of them out."
        )
