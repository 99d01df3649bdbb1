"""What variants are worth in training of the baseline, for every comparison of a study: intervals hold over all."""

from collections.abc import Sequence
from dataclasses import replace

from vgpt.compare.choose import compare
from vgpt.compare.comparison import Comparison
from vgpt.compare.equivalents import BudgetRow, Inquiry, inquire
from vgpt.compare.request import PlannedRun
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.study.study import StudyPart
from vgpt.tracking.run_info import RunInfo


def with_equivalents(
    parts: Sequence[StudyPart], comparisons: Sequence[Comparison], runs: Sequence[RunInfo], windows: Windows | None
) -> list[Comparison]:
    """Return comparisons with what their rows are worth where that was asked for, and the runs that it still lacks.

    Args:
        parts: of the study.
        comparisons: their answers.
        runs: all runs on record.
        windows: finds the losses per window of a run.
    """
    asked = [
        _inquiry(part, one, runs, windows) if part.budgets else None
        for part, one in zip(parts, comparisons, strict=True)
    ]
    family = sum(len(one[0].members) for one in asked if one is not None)
    found: list[Comparison] = []
    for comparison, one in zip(comparisons, asked, strict=True):
        if one is None:
            found.append(comparison)
            continue
        inquiry, missing, remarks = one
        found.append(
            replace(
                comparison,
                equivalents=replace(inquiry.answer(family), missing=tuple(missing)),
                missing=(*comparison.missing, *missing),
                remarks=(*comparison.remarks, *remarks),
            )
        )
    return found


def _inquiry(
    part: StudyPart, comparison: Comparison, runs: Sequence[RunInfo], windows: Windows | None
) -> tuple[Inquiry, list[PlannedRun], list[str]]:
    """Return the question with the runs that its budgets lack, and what is to be said of those that did not finish."""
    options = part.request.settings.compare
    budgets: list[BudgetRow] = []
    missing: list[PlannedRun] = []
    remarks: list[str] = []
    for factor, request in part.budgets.items():
        one = compare(request, runs)
        budgets.append(BudgetRow(factor, one.rows[0] if one.rows else None))
        if factor != 1:  # those of the comparison itself stand in it
            missing += one.missing
            remarks += [f"the baseline at {factor:g}x its budget: {remark}" for remark in one.remarks]
    assert options.equivalent is not None  # there are no budgets without the wish
    question = inquire(
        options.equivalent,
        comparison.rows,
        comparison.audit,
        budgets,
        windows=windows,
        recorded=runs,
        force=comparison.force,
    )
    return question, missing, remarks
