"""The breakdowns that `vgpt eval` left with the runs of a comparison."""

from collections.abc import Sequence
from dataclasses import replace

from vgpt.study.study import Answered


def attach_breakdowns(answers: Sequence[Answered]) -> list[Answered]:
    """Return answers with what their runs have on record; what is damaged is a remark."""
    from vgpt.compare.breakdowns.collect import collect
    from vgpt.tracking.breakdowns.reader import BreakdownReader

    found: list[Answered] = []
    for answer in answers:
        run = answer.part.request.settings.run
        read = BreakdownReader(mlflow=run.tracker == "mlflow", tracking_uri=run.tracking_uri)
        comparison = answer.comparison
        # They are of whole runs, and say nothing of losses at an earlier point.
        whole = bool(comparison.rows) and comparison.snapshot_point is None
        kinds = collect(comparison.rows, read) if whole else {}
        remarks = (*comparison.remarks, *dict.fromkeys(read.problems))
        found.append(replace(answer, comparison=replace(comparison, breakdowns=kinds, remarks=remarks)))
    return found
