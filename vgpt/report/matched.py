"""Matched budgets in recorded runs: under which rule a run was matched, and how near its budget came."""

from collections.abc import Iterable

from vgpt.report.architecture import architecture_of
from vgpt.settings.matching import MULTIPLE, Budget, Match, Trunk, budget, matched_width, resolve_reference
from vgpt.tracking.store import RunInfo


def rule_of(run: RunInfo) -> Match | None:
    """Return the rule that a run was matched by, as recorded; None where nothing was matched."""
    rule, multiple = run.params.get("match", "none"), run.params.get("match_multiple", "")
    if rule == "none":
        return None
    return Match(rule, run.params.get("match_to", "?"), int(multiple) if multiple.isdecimal() else MULTIPLE)


def width_rule(runs: Iterable[RunInfo]) -> Match | None:
    """Return the one rule by which MLP widths of these runs were matched; None without one, or where there are two."""
    rules = {rule for run in runs if (rule := rule_of(run)) is not None and rule.rule != "cache"}
    return rules.pop() if len(rules) == 1 else None


def follows(run: RunInfo, rule: Match) -> bool:
    """Return whether a run is as the rule wants it: matched by it, or never matched and yet of the right width.

    So is the reference itself, whether it was trained with `--match` or without.
    """
    recorded = rule_of(run)
    if recorded is not None and recorded.rule != "cache":
        return recorded == rule
    config = architecture_of(run)
    if config is None:
        return False
    trunk = Trunk(config.shape, config.n_layer, config.raw_hidden)
    try:
        return matched_width(rule, config.attn, resolve_reference(rule.to, config.shape), trunk) == trunk.width
    except ValueError:
        return False


def budget_of(run: RunInfo, rule: Match) -> Budget | None:
    """Return a run's budget relative to that of the rule's reference; None where it cannot be computed here."""
    config = architecture_of(run)
    if config is None:
        return None
    try:
        reference = resolve_reference(rule.to, config.shape)
    except ValueError:
        return None
    return budget(config.attn, reference, Trunk(config.shape, config.n_layer, config.raw_hidden), config.hidden)


def matching_condition(run: RunInfo, rule: Match | None) -> str:
    """Return what the audit compares: the rule that a run follows, or "none".

    Args:
        run: the run.
        rule: the rule of the comparison, as `width_rule` says. A matched cache is no condition: it is matched by the
            variant's own settings.
    """
    if rule is not None and follows(run, rule):
        return str(rule)
    recorded = rule_of(run)
    return "none" if recorded is None or recorded.rule == "cache" else str(recorded)
