"""What readers and programs are told of a comparison whose seeds a plan added, and of how far the plan may go."""

from typing import Any

from rich.text import Text

from vgpt.compare.comparison import Comparison
from vgpt.study.plan import Plan


def sequential_lines(comparison: Comparison) -> list[Text]:
    """Say by which plan seeds were added, and at which look that is; nothing where their number was fixed."""
    found = comparison.sequential
    return [] if found is None else [Text(found.sentence, "bold")]


def sequential_json(comparison: Comparison) -> dict[str, Any] | None:
    """Return the same as plain data; None where the number of seeds was fixed."""
    found = comparison.sequential
    if found is None:
        return None
    return {
        "look": found.look,
        "looks": found.rule.looks,
        "seeds": found.seeds,
        "max_seeds": found.rule.most,
        "family_rows": found.rule.rows,
        "margin": found.margin,
        "seeds_before": found.seeds_before,
    }


def looks_json(plan: Plan) -> dict[str, Any] | None:
    """Return how far a plan of seeds may go; None where the number of seeds is fixed."""
    ahead = plan.looks
    if ahead is None:
        return None
    return {
        "look": ahead.look,
        "looks": ahead.looks,
        "seeds": ahead.seeds,
        "max_seeds": ahead.max_seeds,
        "at_most": {"missing": ahead.missing, "seconds": ahead.seconds},
        "undecided": list(ahead.undecided),
    }
