"""What a script requires of a study, and whether its answer shows it: `--require "mla no-worse-than 0.01"`.

The judge must not be led: who asks cannot pick the seeds. All that are on record under the conditions count, unless a
plan that was sealed before the first run names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vgpt.attention.registry import variants
from vgpt.compare.rows import Row, matching
from vgpt.compare.selectors import Selector, parse_selectors
from vgpt.compare.statistics.differences import LossDifference
from vgpt.compare.statistics.margin import Bounds, Outcome, judge_requirement, margin_of
from vgpt.errors import UsageError, did_you_mean
from vgpt.formatting import counted, format_change
from vgpt.settings.loader import Sources
from vgpt.settings.margin import Requirement, parse_margin, parse_requirement
from vgpt.study.sealing import changes, sealed_plan
from vgpt.study.signs import asked_as
from vgpt.study.study import Answered, Study, make_study

EXIT_CODES: dict[Outcome, int] = {"shown": 0, "refuted": 10, "undecided": 11}
"""Where several are judged, the command ends with that of the worst: refuted, then undecided."""
_SEED_FLAGS = {"seed": "--seed", "seeds": "--seeds", "sweep_seeds": "--sweep-seeds"}
_CLAIMS = {"better-than": "below {}", "no-worse-than": "below {}", "equal-within": "within ±{}"}


@dataclass(frozen=True)
class Judgment:
    """A requirement held against one part of a study.

    Attributes:
        requirement: what was required.
        part: title of the part; empty for the only one.
        label: of the row; empty where it has none.
        nats: the margin in nats per token; None where it is a share of a loss that is not on record.
        bounds: of the difference; None where no verdict is given.
        outcome: whether it is shown.
        reason: why, in words.
    """

    requirement: Requirement
    part: str
    label: str
    nats: float | None
    bounds: Bounds | None
    outcome: Outcome
    reason: str

    @property
    def sentence(self) -> str:
        """One sentence for people: `mla no-worse-than 0.01: shown (...)`."""
        where = f" ({self.part})" if self.part else ""
        return f"{self.requirement.text}{where}: {self.outcome}: {self.reason}"


def make_required_study(words: Sequence[str], sources: Sources, texts: Sequence[str]) -> Study:
    """Return the study of `vgpt compare` with what it must show; without requirements, the plain one.

    Raises:
        UsageError: a requirement makes no sense, its caller chose the seeds, or the study itself is wrong.
    """
    if not texts:
        return make_study(words, sources)
    requirements = tuple(_parsed(text) for text in texts)
    study = make_study(words, sources)
    margin = _one_margin(study, requirements)
    if margin is not None and study.first.settings.compare.margin is None:
        study = make_study(words, replace(sources, command_line={**sources.command_line, "margin": margin}))
    options = study.first.settings.compare
    for flag, given in (("--force", options.force), ("--plan", options.plan)):
        if given:
            raise UsageError(f"{flag} and --require exclude each other: nothing could be judged", "Leave one out.")
    if study.first.selectors:
        for requirement in requirements:
            _meant(requirement, study.first.selectors)
    if not has_sealed_seeds(study):
        _refuse_chosen_seeds(study)
    if not (has_sealed_seeds(study) or study.first.adds_seeds):  # a rule that adds seeds picks none
        study = replace(
            study, parts=tuple(replace(one, request=replace(one.request, every_seed=True)) for one in study.parts)
        )
    return replace(study, requirements=requirements)


def has_sealed_seeds(study: Study) -> bool:
    """Return whether the seeds of a study were sealed before its first run, and the study is still what was sealed.

    Raises:
        UsageError: the file of the plan is damaged, or was edited.
    """
    plan = sealed_plan(study)
    return plan is not None and not plan.existed and not plan.begun and not changes(study, plan)


def judgments(study: Study, answers: Sequence[Answered]) -> list[Judgment]:
    """Return every requirement held against every part of the study."""
    return [
        _judged(requirement, answer, several=len(answers) > 1)
        for requirement in study.requirements
        for answer in answers
    ]


def exit_code(found: Sequence[Judgment]) -> int:
    """Return the code that the command ends with."""
    outcomes = {one.outcome for one in found}
    return next((EXIT_CODES[one] for one in ("refuted", "undecided") if one in outcomes), EXIT_CODES["shown"])


def _parsed(text: str) -> Requirement:
    try:
        found = parse_requirement(text)
        selector = _selector(found)
    except ValueError as error:
        raise UsageError(f"--require: {error}", 'Write it so: --require "mla no-worse-than 0.01"') from error
    if not selector.kind:
        raise UsageError(
            f"--require {text!r}: {found.variant!r} is no variant{did_you_mean(found.variant, variants())}",
            "Runs are not judged by name: who picks runs picks their seeds.",
        )
    return found


def _one_margin(study: Study, requirements: Sequence[Requirement]) -> str | None:
    """Return the margin of all requirements that rest on one-sided bounds; None where none does.

    Raises:
        UsageError: there are several: their errors would add up.
    """
    typed = [one.margin for one in requirements if one.relation != "better-than"]
    asked = study.first.settings.compare.margin
    values = {parse_margin(text): text for text in [*([asked] if asked and typed else []), *typed]}
    if len(values) > 1:
        raise UsageError(
            f"--require and --margin name several margins: {', '.join(values.values())}",
            "One comparison has one margin, so that it errs in 5%: name the same everywhere.",
        )
    return typed[0] if typed else None


def _meant(requirement: Requirement, selectors: Sequence[Selector]) -> Selector:
    """Return what is compared under this name: spelled the same, or else of that variant with those settings.

    Raises:
        UsageError: nothing is, several are, or the baseline is.
    """
    wanted, text = _selector(requirement), f"--require {requirement.text!r}: {requirement.variant}"
    same = [one for one in selectors if one.text == wanted.text]
    found = same or [
        one for one in selectors if one.kind == wanted.kind and wanted.settings.items() <= one.settings.items()
    ]
    others = [one.text for one in selectors[1:]]
    compared = f"Compared with {selectors[0].text}: {', '.join(others) or 'nothing'}."
    if not found:
        raise UsageError(f"{text} is not compared{did_you_mean(requirement.variant, others)}", compared)
    if len(found) > 1:
        raise UsageError(f"{text} may be any of {', '.join(one.text for one in found)}", compared)
    if found[0] is selectors[0]:
        raise UsageError(f"{text} is the baseline", compared)
    return found[0]


def _refuse_chosen_seeds(study: Study) -> None:
    """Refuse seeds that are the caller's choice.

    Raises:
        UsageError: seeds were given, or runs named.
    """
    origins = study.first.origins
    for name, flag in _SEED_FLAGS.items():
        by_rule = name == "seeds" and study.first.adds_seeds
        if (origin := origins.get(name, "default")) != "default" and not by_rule:
            if origin == "command line" and study.first.settings.compare.study is not None:
                origin = "study file or command line"
            raise UsageError(
                f"{flag} ({origin}) and --require exclude each other: who asks the judge picks no seeds",
                "Leave it out: every seed on record under the conditions counts. Or seal the study before its runs.",
            )
    named = [one.text for one in study.first.selectors if one.run_name]
    if named:
        raise UsageError(
            f"--require takes no runs by name ({', '.join(named)}): who picks runs picks their seeds",
            "Name variants: every seed on record under the conditions counts.",
        )


def _judged(requirement: Requirement, answer: Answered, *, several: bool) -> Judgment:
    comparison, part = answer.comparison, answer.part.title if several else ""
    row, one = _row(requirement, answer)
    known = None if requirement.margin == "0" else margin_of(requirement.margin, comparison.baseline_loss)
    nats = 0.0 if requirement.margin == "0" else known.nats if known else None
    bounds = one.bounds if one is not None and one.judged is not None else None
    outcome: Outcome = "undecided" if nats is None else judge_requirement(bounds, requirement.relation, nats)
    if row is None:
        reason = "no finished run"
    elif one is None or bounds is None or nats is None:
        reason = one.verdict if one is not None and one.verdict else "no loss on record"
    else:
        reason = _reason(requirement, one, bounds, nats)
    return Judgment(requirement, part, row.label if row else "", nats, bounds, outcome, reason)


def _reason(requirement: Requirement, one: LossDifference, bounds: Bounds, nats: float) -> str:
    """Say what the difference is, and what it would have to be."""
    # 0 - nats, which is never "-0".
    edge = f"{0 - nats if requirement.relation == 'better-than' else nats:g}"
    needed = _CLAIMS[requirement.relation].format(edge)
    interval = f"95% interval {format_change(bounds.low)} to {format_change(bounds.high)}"
    if requirement.relation == "better-than":
        known = interval
    elif requirement.relation == "no-worse-than":
        known = f"loses at most {format_change(bounds.at_most)}, {interval}"
    else:
        known = f"between {format_change(bounds.at_least)} and {format_change(bounds.at_most)}, {interval}"
    seeds = counted(one.seeds, "seed")
    return f"difference {format_change(one.delta)} nats per token over {seeds}, {known}; must be {needed}"


def _row(requirement: Requirement, answer: Answered) -> tuple[Row | None, LossDifference | None]:
    """Return the row that is meant with its difference.

    Raises:
        UsageError: several are, where no variants were named.
    """
    comparison, selectors = answer.comparison, answer.part.request.selectors
    wanted = _meant(requirement, selectors) if selectors else _selector(requirement)
    found = [
        (row, statistics.difference)
        for row, statistics in zip(comparison.rows[1:], comparison.statistics[1:], strict=True)
        if (asked_as(row, selectors) == wanted.text if selectors else _is(row, wanted))
    ]
    if len(found) > 1:
        raise UsageError(
            f"--require {requirement.text!r}: {requirement.variant} may be any of "
            f"{', '.join(row.label for row, _ in found)}",
            "Write it with its settings.",
        )
    return found[0] if found else (None, None)


def _is(row: Row, wanted: Selector) -> bool:
    return bool(matching(row.runs, wanted.kind, wanted.typed_settings()))


def _selector(requirement: Requirement) -> Selector:
    (found,) = parse_selectors([requirement.variant])
    return found
