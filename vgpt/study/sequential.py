"""Plans that add seeds until all is decided: written beside the runs before the first, and held to ever after.

A plan is followed from what is on record alone: the look at hand is the first one whose runs are not all there, or at
which all is decided, so that a study that was killed goes on at the same look. All rows get the seeds of a look, those
that are decided too: the intervals of rows over the same seeds hold jointly, and the last look judges every row. A row
that lost a seed gets no verdict, and no more seeds.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vgpt.compare.comparison import Comparison
from vgpt.compare.rows import Row
from vgpt.compare.statistics.differences import LEAST_SEEDS, members
from vgpt.compare.statistics.sequential import MOST_SEEDS, SeedRule, Sequential, at_look, look_at
from vgpt.compare.unfinished import lost
from vgpt.errors import TrackingError, UsageError
from vgpt.files.digests import json_digest
from vgpt.files.text import parse_json, read_text, table_of
from vgpt.files.writing import replace_json
from vgpt.formatting import counted
from vgpt.study.plan import LooksAhead, Plan
from vgpt.study.requirements import judgments
from vgpt.study.study import Answered, Study

SCHEMA = "vgpt.seed-plan/1"
_FILES = "seed-plan-*.json"

Answer = Callable[[Study], list[Answered]]


@dataclass(frozen=True)
class SeedPlan:
    """A plan as it was made.

    Attributes:
        rule: how it adds seeds.
        runs: hashes of the settings of all runs that it may come to, those on record among them.
        margin: what it is to decide against, as typed; None for zero.
        seeds_before: seeds of all rows that were on record when it was made.
        made: when, seconds since 1970; 0 for one that is not written yet.
    """

    rule: SeedRule
    runs: frozenset[str]
    margin: str | None = None
    seeds_before: int = 0
    made: float = 0.0

    def covered(self, comparison: Comparison) -> set[str]:
        """Return the labels of the rows that it rules: those with a run of it, if the baseline has one too."""
        ruled = [row.label for row in comparison.rows if any(run.settings_hash in self.runs for run in row.runs)]
        return set(ruled[1:]) if ruled and ruled[0] == comparison.rows[0].label else set()


def rule_of(study: Study) -> SeedRule | None:
    """Return the rule that a study asks for; None where its number of seeds is fixed.

    Raises:
        UsageError: it names runs, or nothing to compare: there is nothing to which seeds could be added.
    """
    request = study.first
    if not request.adds_seeds:
        return None
    if len(request.selectors) < 2 or not all(one.kind for one in request.selectors):
        raise UsageError(
            "--seeds auto adds seeds to variants, which are compared with the first",
            "Name two or more: vgpt compare mha gqa --seeds auto --margin 0.01 --run-missing",
        )
    others = {
        "--ladder": study.ladder is not None,
        "--from": any(part.staircase is not None for part in study.parts),
        "--equivalent": request.settings.compare.equivalent is not None,
    }
    for flag in (name for name, given in others.items() if given):
        raise UsageError(
            f"--seeds auto and {flag} exclude each other: its intervals hold for a number of seeds that is fixed",
            "Give a number: --seeds 5.",
        )
    return SeedRule(
        request.settings.compare.max_seeds or MOST_SEEDS, sum(len(part.request.selectors) - 1 for part in study.parts)
    )


def study_at(study: Study, seeds: int) -> Study:
    """Return the study as it asks at a look."""
    return replace(study, parts=tuple(replace(part, request=replace(part.request, look=seeds)) for part in study.parts))


def plan_of(study: Study, rule: SeedRule, at_the_limit: Iterable[Answered]) -> SeedPlan:
    """Return the plan that a study makes, from its answer at the limit, where most of its runs are missing."""
    hashes, seeds_before = set[str](), rule.most
    for answer in at_the_limit:
        comparison = answer.comparison
        found = [len(row.runs) for row in comparison.rows]
        seeds_before = min([seeds_before, *found]) if len(found) == len(answer.part.request.selectors) else 0
        hashes |= {run.settings_hash for row in comparison.rows for run in (*row.runs, *row.failed)}
        hashes |= {name for run in comparison.missing for name in (run.config.settings_hash, run.config.spelled_hash)}
    return SeedPlan(rule, frozenset(hashes - {""}), study.first.settings.compare.margin, seeds_before)


def follow(study: Study, rule: SeedRule, answer: Answer) -> list[Answered]:
    """Return the answer at the look at hand; the runs that are missing are those that it lacks."""
    found: list[Answered] = []
    for seeds in range(LEAST_SEEDS, rule.most + 1):
        found = [without_lost(one) for one in answer(study_at(study, seeds))]
        if any(one.comparison.missing for one in found) or not open_rows(study, found):
            break
    return found


def open_rows(study: Study, answers: Sequence[Answered]) -> list[str]:
    """Return what is not decided yet and may be: rows, or the requirements where there are any."""
    if study.requirements:
        found = judgments(study, answers)
        return [one.requirement.text for one in found if one.outcome == "undecided" and one.bounds is not None]
    return [
        row.title
        for answer in answers
        for row, one in zip(answer.comparison.rows[1:], answer.comparison.statistics[1:], strict=True)
        if one.difference is not None and (said := one.difference.answer) is not None and not said.decided
    ]


def looks_ahead(study: Study, answers: Sequence[Answered], rule: SeedRule, most: Plan) -> LooksAhead:
    """Return where a plan stands.

    Args:
        study: that adds seeds.
        answers: at the look at hand.
        rule: of the plan.
        most: the plan of all runs up to the last look; without any where the plan has ended.
    """
    seeds = answers[0].part.request.look
    waits = any(one.comparison.missing for one in answers)
    undecided = () if waits else tuple(open_rows(study, answers))
    return LooksAhead(
        seeds, look_at(seeds), rule.looks, rule.most, len(most.missing) if waits else 0, most.seconds, undecided
    )


def without_lost(answer: Answered) -> Answered:
    """Return an answer that wants no more seeds of rows that lost one, nor of any where the baseline did."""
    comparison = answer.comparison
    gone = {row.label: row for row in comparison.rows if row.failed}
    if not gone:
        return answer
    nothing = comparison.rows[0].label in gone
    missing = tuple(run for run in comparison.missing if not nothing and run.label not in gone)
    remarks = (*comparison.remarks, *(_gone(row) for row in gone.values()))
    return replace(answer, comparison=replace(comparison, missing=missing, remarks=remarks))


def _gone(row: Row) -> str:
    return f"{row.title} gets no more seeds, for it gets no verdict: {lost(row)}"


def in_plans(comparisons: Sequence[Comparison], plans: Sequence[SeedPlan]) -> list[Comparison]:
    """Return comparisons with the intervals of the plans by which their runs were gathered.

    Where several plans rule a comparison, the oldest one's limit holds, and the largest family of any.
    """
    total = sum(members(one.statistics) for one in comparisons)
    return [_in_plans(one, plans, total) for one in comparisons]


def _in_plans(comparison: Comparison, plans: Sequence[SeedPlan], total: int) -> Comparison:
    ruling = [(plan, covered) for plan in plans if (covered := plan.covered(comparison))]
    if not ruling:
        return comparison
    oldest = min((plan for plan, _ in ruling), key=lambda plan: plan.made or time.time())
    rule = SeedRule(oldest.rule.most, max(plan.rule.rows for plan, _ in ruling))
    covered = {label for _, labels in ruling for label in labels}
    seeds = [one.difference.seeds for one in comparison.statistics if one.label in covered and one.difference]
    return replace(
        comparison,
        statistics=at_look(comparison.statistics, rule, total, covered),
        sequential=Sequential(rule, max(seeds, default=0), oldest.margin, oldest.seeds_before),
    )


def refuse_another(plan: SeedPlan, made: Sequence[SeedPlan], comparisons: Sequence[Comparison]) -> None:
    """Refuse a limit that is not that of the plan by which runs of the same rows were gathered.

    Raises:
        UsageError: the plan was changed after looking.
    """
    others = [one for one in made if one.rule.most != plan.rule.most and any(map(one.covered, comparisons))]
    if others:
        raise UsageError(
            f"--max-seeds {plan.rule.most} is not that of the plan by which these runs were gathered: at most "
            f"{others[0].rule.most}, looked at {counted(look_at(others[0].rule.most), 'time')}",
            f"A plan that is changed after looking errs more often than in 5%: --max-seeds {others[0].rule.most}",
        )


def write_plan(runs_dir: Path, plan: SeedPlan, made: Sequence[SeedPlan]) -> None:
    """Write a plan beside the runs, unless one that rules the same runs alike is there.

    Raises:
        TrackingError: it cannot be written; without it nothing may be trained.
    """
    if any(
        one.rule.most == plan.rule.most and one.rule.rows >= plan.rule.rows and plan.runs <= one.runs for one in made
    ):
        return
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "max_seeds": plan.rule.most,
        "rows": plan.rule.rows,
        "margin": plan.margin,
        "seeds_before": plan.seeds_before,
        "runs": sorted(plan.runs),
    }
    path = runs_dir / _FILES.replace("*", json_digest(told)[:16])
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        replace_json(path, {**told, "made": time.time()}, sync=True)
    except OSError as error:
        raise TrackingError(
            f"the plan of seeds cannot be written to {path}: {error.strerror or error}",
            "It must be there before the first run: name a folder that can be written with --runs-dir.",
        ) from error


def read_plans(runs_dir: Path) -> list[SeedPlan]:
    """Return the plans beside the runs, the oldest first.

    Raises:
        TrackingError: one cannot be read: without it runs would be shown as if their number had been fixed.
    """
    found: list[SeedPlan] = []
    for path in sorted(runs_dir.glob(_FILES)):
        try:
            found.append(_read(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrackingError(
                f"{path} cannot be read: {error}",
                "It says by which plan of seeds runs were gathered; restore it. Without it their intervals are wrong.",
            ) from error
    return sorted(found, key=lambda plan: plan.made)


def _read(path: Path) -> SeedPlan:
    told = table_of(parse_json(read_text(path)))
    if told.get("schema") != SCHEMA:
        raise ValueError(f"not of the form {SCHEMA}")
    most, rows, margin, before, made, runs = (
        told[name] for name in ("max_seeds", "rows", "margin", "seeds_before", "made", "runs")
    )
    if not (isinstance(most, int) and LEAST_SEEDS <= most <= 1000 and isinstance(rows, int) and rows >= 1):
        raise ValueError("its limit or its number of rows is none")
    if not (isinstance(margin, str | None) and isinstance(runs, list)):
        raise ValueError("its margin or its runs are none")
    return SeedPlan(SeedRule(most, rows), frozenset(map(str, runs)), margin, int(before), float(made))  # pyright: ignore[reportUnknownArgumentType]
