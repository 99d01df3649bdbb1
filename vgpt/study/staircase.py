"""`vgpt compare --from A --to B`: the stairs between two variants as what a comparison compares."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from vgpt.compare.comparison import Comparison
from vgpt.compare.request import PlannedRun, Request, make_request, planned_runs
from vgpt.compare.snapshot import UNEQUAL_POINTS
from vgpt.compare.staircase import Staircase, build_staircase
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.compare.steps import climb, in_family, members
from vgpt.errors import UsageError
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import leaves
from vgpt.settings.loader import Sources, given_value
from vgpt.tracking.run_info import RunInfo

_OWN = ("from_", "to", "via")


@dataclass(frozen=True)
class Words:
    """What a comparison is made of: its words and sources, and the staircase that they are the stairs of, if any."""

    words: Sequence[str]
    sources: Sources
    staircase: Staircase | None = None

    def fixed(self, request: Request) -> Request:
        """Return the request of these words; a path is one on a backbone, so that its conditions are always given."""
        return request if self.staircase is None else replace(request, fixed=True)


def with_stairs(words: Sequence[str], sources: Sources) -> Words:
    """Return the words of a comparison: as they were typed, or the stairs between `--from` and `--to`.

    Raises:
        UsageError: one of the two alone, something else that names what is compared, or no path between them.
    """
    start, end, via = (given_value(CompareConfig, sources, name) for name in _OWN)
    if start is None and end is None:
        if via is not None:
            raise UsageError("--via orders the steps between --from and --to, which are missing", "Name both.")
        return Words(words, sources)
    if start is None or end is None:
        here, there = ("--from", "--to") if end is None else ("--to", "--from")
        raise UsageError(f"{here} {start or end} is one end of a staircase, and {there} is missing", f"Add {there}.")
    if words:
        raise UsageError(
            f"--from and --to name what is compared, and {', '.join(words)} stands beside them",
            "Leave out the arguments, or the two flags.",
        )
    if (match := given_value(CompareConfig, sources, "match")) == "cache":
        raise UsageError(
            f"--match {match} changes the variants' own settings, so that a step would change two things",
            "Leave it out; --match params and --match flops change the width of the MLP alone.",
        )
    plain = _without(sources, _OWN)
    first, last = _ends(str(start), str(end), plain)
    names = cast("list[Any]", via) if isinstance(via, list | tuple) else str(via or "").split(",")
    order = [name.strip().replace("-", "_") for name in map(str, names) if name.strip()]
    staircase = build_staircase(first.config.model.attn, last.config.model.attn, first.config.model.shape, order)
    of_variants = [name for name, leaf in leaves(CompareConfig).items() if leaf.variants]
    return Words([stair.label for stair in staircase.stairs], _without(plain, of_variants), staircase)


def refuse_stairs(sources: Sources, why: str) -> None:
    """Refuse `--from` and `--to` where something else says what is compared.

    Raises:
        UsageError: one of them was given.
    """
    if any(given_value(CompareConfig, sources, name) is not None for name in _OWN[:2]):
        raise UsageError(f"{why}, and --from and --to name others", "Leave out one of the two.")


def climbed(
    comparison: Comparison,
    staircase: Staircase | None,
    runs: Sequence[RunInfo],
    windows: Windows | None,
) -> Comparison:
    """Return a comparison with the steps of its staircase; unchanged where it has none."""
    if staircase is None:
        return comparison
    seeds = {seed for row in comparison.rows for seed in row.seeds}
    found = climb(
        staircase,
        comparison.rows,
        # Seeds that chose a learning rate are not shown, on purpose.
        recorded=[run for run in runs if run.seed in seeds] if comparison.sweep else runs,
        windows=windows if comparison.snapshot_point is None else None,
        force=comparison.force,
        tuned=comparison.audit.tuned,
        no_verdict=dict.fromkeys(comparison.unequal_points, UNEQUAL_POINTS),
    )
    return replace(comparison, climb=found)


def climbs_as_one_family(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons whose staircases are judged together: the intervals of all their steps hold jointly."""
    total = sum(members(one.climb) for one in comparisons if one.climb is not None)
    return [replace(one, climb=in_family(one.climb, total)) if one.climb is not None else one for one in comparisons]


def _ends(start: str, end: str, sources: Sources) -> tuple[PlannedRun, PlannedRun]:
    """Return the runs at both ends, with all settings that preset, environment and flags give their variants."""
    request = make_request([start, end], sources)
    found: list[PlannedRun] = []
    for flag, selector in zip(("--from", "--to"), request.selectors, strict=True):
        if not selector.kind:
            raise UsageError(f"{flag} {selector.text} is a run, and a path leads between variants", "Name a variant.")
        planned = planned_runs(request, selector, [request.settings.train.seed])[0]
        if planned.config.model.attn.kind != selector.kind:
            raise UsageError(
                f"{flag} {selector.text}: the last layer is another variant (--attn-last), which no step changes",
                "Leave --attn-last out of the preset.",
            )
        found.append(planned)
    return found[0], found[1]


def _without(sources: Sources, names: Sequence[str]) -> Sources:
    known = leaves(CompareConfig)
    variables = {known[name].env for name in names}
    return replace(
        sources,
        dotenv={key: value for key, value in sources.dotenv.items() if key not in variables},
        environment={key: value for key, value in sources.environment.items() if key not in variables},
        command_line={key: value for key, value in sources.command_line.items() if key not in names},
    )
