"""What rows differ in besides attention itself: confounds that come with a variant, and matched budgets."""

from collections.abc import Iterable

from vgpt.compare.architecture import architecture_of
from vgpt.compare.metrics import PARAMS, START_RMS, relative_change, stat
from vgpt.compare.rows import Row
from vgpt.settings.matching import MULTIPLE, Backbone, Budget, Match, budget, matched_width, resolve_reference
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Tag


def confounds_of(row: Row) -> list[str]:
    """Return what besides attention itself sets a row's variant apart, as the variant itself says."""
    config = architecture_of(row.runs[0])
    return [] if config is None else config.attn.confounds(config.shape)


NEGLIGIBLE = 0.005
"""Share of parameters below which their number explains nothing; matched budgets are nearer."""
NOTABLE_START = 1.5
"""From this ratio on, either way, another size of the attention's branch at the start is named."""


def confounds(row: Row, baseline: Row) -> list[str]:
    """Return the confounds of a row: those that its variant names, its size, and how it starts.

    Another number of parameters is one; so is a branch that adds much more or less to the residual stream at first; and
    MLPs that were widened or narrowed to match budgets are drawn anew, where all others start from the same weights.
    """
    found = confounds_of(row)
    size = relative_change(row, baseline, PARAMS)
    if size is not None and abs(size) > NEGLIGIBLE:
        found = [*found, f"{size:+.1%} parameters against {baseline.title}"]
    here, there = stat(row, START_RMS), stat(baseline, START_RMS)
    if here is not None and there is not None and there.mean > 0:
        ratio = here.mean / there.mean
        if not 1 / NOTABLE_START <= ratio <= NOTABLE_START:
            found = [*found, f"its attention starts {ratio:.2f}x as large as {baseline.title}'s"]
    widths = {run.tags.get(Tag.MLP_HIDDEN, "") for one in (row, baseline) for run in one.runs} - {""}
    if len(widths) > 1:
        found = [*found, "MLPs of another width start from other weights"]
    return found


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
    backbone = Backbone(config.shape, config.n_layer, config.raw_hidden)
    try:
        return matched_width(rule, config.attn, resolve_reference(rule.to, config.shape), backbone) == backbone.width
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
    return budget(config.attn, reference, Backbone(config.shape, config.n_layer, config.raw_hidden), config.hidden)


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
