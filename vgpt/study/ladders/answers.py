"""The answer to a ladder: from the comparisons at its rungs to trends, predictions and their scores."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vgpt.attention.grammar import format_variant, pattern_in
from vgpt.compare.ladder import Ladder, Rung, RungDifference, VariantLadder, climb, rung_difference
from vgpt.compare.metrics import LOSS
from vgpt.compare.rows import Row
from vgpt.compare.selectors import Selector
from vgpt.compare.statistics.rank_agreement import Agreement, rank_agreement
from vgpt.study.ladders.plan import LadderPlan
from vgpt.study.ladders.predictions import dated, read_predictions, record_predictions, scored
from vgpt.study.signs import asked_as
from vgpt.study.study import Answered, Study
from vgpt.tracking.run_info import RunInfo

Rows = dict[str, Row]


def answer_ladder(study: Study, answers: Sequence[Answered]) -> Ladder | None:
    """Return what the rungs together say; None for a study that is no ladder.

    Predictions that were recorded before a rung was run are scored; see `vgpt.study.ladders.predictions`.
    """
    plan = study.ladder
    if plan is None:
        return None
    selectors = study.first.selectors
    baseline = selectors[0].text
    rungs = [_rung(one) for one in answers]
    by_rung = [_rows(one) for one in answers]
    began = {rung.name: _began(rows) for rung, rows in zip(rungs, by_rung, strict=True)}
    known = read_predictions(study.first.settings.run.runs_dir)
    found = list[VariantLadder]()
    for selector in selectors[1:]:
        told = [_difference(one, rows, selector) for one, rows in zip(answers, by_rung, strict=True)]
        one = climb(selector.text, told, plan.ahead)
        past = scored(plan.name, baseline, one, known, began)
        coming = dated(plan.name, baseline, one, known)
        found.append(replace(one, next=coming, predictions=(*past, *one.predictions)))
    return Ladder(
        name=plan.name,
        baseline=baseline,
        rate=plan.rate,
        rungs=tuple(rungs),
        ahead=plan.ahead,
        variants=tuple(found),
        agreement=_agreement(rungs, by_rung, selectors),
    )


def note_predictions(study: Study, answers: Sequence[Answered]) -> int:
    """Write down what the rungs that are complete say of the next one, and return how many predictions are new.

    The next one is the first that lacks a run, or the one after the last: nothing is foretold of what is known.

    Raises:
        OSError: the journal cannot be written.
    """
    if study.ladder is None:
        return 0
    done = 0
    while done < len(answers) and not answers[done].comparison.missing and answers[done].comparison.rows:
        done += 1
    part = replace(study, ladder=_ahead_of(study, answers, done))
    ladder = answer_ladder(part, answers[:done])
    if ladder is None:
        return 0
    runs_dir: Path = study.first.settings.run.runs_dir
    by_rung = [_rows(one) for one in answers[:done]]
    evidence = {
        one.variant: [
            run
            for rows, at in zip(by_rung, one.rungs, strict=True)
            if at.point is not None
            for word in (ladder.baseline, one.variant)
            for run in rows[word].runs
        ]
        for one in ladder.variants
    }
    return len(record_predictions(runs_dir, ladder, evidence))


def _ahead_of(study: Study, answers: Sequence[Answered], done: int) -> LadderPlan:
    assert study.ladder is not None
    return replace(study.ladder, ahead=_rung(answers[done])) if done < len(answers) else study.ladder


def _rung(answer: Answered) -> Rung:
    assert answer.part.rung is not None  # every part of a ladder has one
    return answer.part.rung


def _rows(answer: Answered) -> Rows:
    """Return the rows of a comparison by the word that asked for each."""
    selectors = answer.part.request.selectors
    return {asked_as(row, selectors): row for row in answer.comparison.rows}


def _began(rows: Rows) -> float:
    """Return when the first run of a rung began, seconds since 1970."""
    return min((run.start_time for row in rows.values() for run in row.runs), default=0) / 1000


def _difference(answer: Answered, rows: Rows, selector: Selector) -> RungDifference:
    rung, comparison = _rung(answer), answer.comparison
    baseline = answer.part.request.selectors[0].text
    row = rows.get(selector.text)
    if row is None or comparison.rows[0] is not rows.get(baseline):
        return RungDifference(rung)
    number = next(number for number, other in enumerate(comparison.rows) if other is row)
    found = rung_difference(rung, comparison.statistics[number].difference)
    return replace(found, labels=(_spelled(comparison.rows[0]), _spelled(row)))


def _spelled(row: Row) -> str:
    """Return a variant with its settings in order of the alphabet: how recorded predictions know it, for good."""
    pattern = pattern_in(row.attn, row.settings)
    return pattern or format_variant({"kind": row.attn, **dict(sorted(row.settings.items()))})


def _agreement(rungs: Sequence[Rung], by_rung: Sequence[Rows], selectors: Sequence[Selector]) -> Agreement | None:
    """Return the agreement over the rungs and variants that are all there; the seeds of a rung are those of all."""
    words = [one.text for one in selectors]
    whole = [(rung, rows) for rung, rows in zip(rungs, by_rung, strict=True) if all(word in rows for word in words)]
    names, losses = list[str](), list[np.ndarray]()
    for rung, rows in whole:
        by_seed = [{run.seed: _loss(run) for run in rows[word].runs} for word in words]
        seeds = [seed for seed in by_seed[0] if all(seed in one for one in by_seed)]
        table = np.array([[one[seed] for seed in seeds] for one in by_seed])
        if seeds and np.isfinite(table).all():
            names.append(rung.name)
            losses.append(table)
    return rank_agreement(names, losses)


def _loss(run: RunInfo) -> float:
    return run.metrics.get(LOSS, float("nan"))
