"""From recorded runs to a comparison: which runs stand in which row, and which are missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vgpt.attention.grammar import attention_label
from vgpt.attention.registry import variants
from vgpt.compare.audit.budgets import width_rule
from vgpt.compare.audit.conditions import audit
from vgpt.compare.comparison import Comparison, sorted_rows
from vgpt.compare.curves import Histories
from vgpt.compare.known import KnownRuns
from vgpt.compare.request import PlannedRun, Request, base_seed, planned_runs
from vgpt.compare.rows import Row, like, make_row, matching, one_per_seed, stands_for_variant, with_names
from vgpt.compare.selectors import Selector
from vgpt.compare.snapshot import UNEQUAL_POINTS, snapshot_point_of, take_snapshots
from vgpt.compare.statistics.differences import row_statistics
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.compare.unfinished import DIVERGED, diverged_beside, unfinished_remarks
from vgpt.errors import SettingsError, UsageError, did_you_mean
from vgpt.settings.fields import format_value
from vgpt.settings.matching import Match
from vgpt.tracking.run_info import FINISHED, RunInfo, finished, newest_first


@dataclass
class _Draft:
    rows: list[Row]
    missing: list[PlannedRun]
    unfinished: list[tuple[str, RunInfo]]
    remarks: list[str]


def compare(
    request: Request,
    runs: Sequence[RunInfo],
    *,
    windows: Windows | None = None,
    histories: Histories | None = None,
) -> Comparison:
    """Choose from all recorded runs those that answer the request.

    With given conditions the runs of exactly those settings are wanted. Without, each variant is shown by its newest
    finished runs, if possible under the conditions of the baseline's newest run. Only finished runs are counted.

    Args:
        request: what is asked for.
        runs: all runs on record.
        windows: finds the losses per window of a run; without, evaluation noise is not known.
        histories: finds the loss curves of a run; needed for a comparison at a point before the end alone.

    Raises:
        UsageError: a selector is neither a variant nor a run, or a variant does not fit the given conditions.
        VgptError: a comparison at equal tokens, FLOPs or time was asked for, and no row can be read there.
    """
    draft = _Draft([], [], [], [])
    selectors = list(request.selectors) or _stored_selectors(finished(runs))
    if request.fixed:
        _choose_fixed(draft, request, selectors, runs)
    else:
        _choose_free(draft, request, selectors, runs)
    rows = _distinct(draft.rows)
    snapshot_point, points = snapshot_point_of(request.settings.compare), None
    if snapshot_point is not None and histories is not None and rows:
        points = take_snapshots(rows, snapshot_point, histories)
        rows = points.rows
        windows = None  # losses per window are kept of the last evaluation alone
    rows = sorted_rows(with_names(rows), request.settings.compare.sort)
    if rows and selectors and not _belongs(rows[0], selectors[0]):
        draft.remarks.append(f"{selectors[0].text} has no run to show; differences are against {rows[0].label}")
    remarks = (*unfinished_remarks(draft.unfinished), *draft.remarks)
    options, audited = request.settings.compare, audit(rows, recorded=runs)
    unequal = points.unequal if points else {}
    refused = dict.fromkeys(unequal, UNEQUAL_POINTS)
    return Comparison(
        rows=tuple(rows),
        audit=audited,
        missing=tuple(draft.missing),
        remarks=remarks,
        kv_at=options.kv_at,
        statistics=row_statistics(
            rows, audited, windows=windows, force=options.force, no_verdict=refused, margin=options.margin
        ),
        force=options.force,
        match=_match_of(request, rows),
        snapshot_point=snapshot_point if points else None,
        snapshots=points.snapshots if points else {},
        unequal_points=unequal,
        power=options.power,
        margin=options.margin,
    )


def _match_of(request: Request, rows: Sequence[Row]) -> Match | None:
    model = request.settings.model
    if model.match != "none" and model.match_to is not None:
        return Match(model.match, model.match_to, model.match_multiple)
    return width_rule(run for row in rows for run in row.runs)


def _choose_fixed(draft: _Draft, request: Request, selectors: Sequence[Selector], runs: Sequence[RunInfo]) -> None:
    done = finished(runs)
    known, alive = KnownRuns(done), KnownRuns(run for run in runs if run.status != FINISHED)
    seeds = request.seeds_from(request.settings.train.seed)
    if request.every_seed:
        seeds = _seeds_on_record(request, selectors, known, runs) or seeds
    for selector in selectors:
        if selector.run_name:
            _choose_named(draft, selector, runs)
            continue
        try:
            wanted = planned_runs(request, selector, seeds)
        except SettingsError:
            if request.selectors:
                raise
            continue  # a variant of the store that does not fit these conditions was never trained under them
        answers = [known.find(run.config) for run in wanted]
        found = [run for run in answers if run is not None]
        asked = {run.config.settings_hash for run in draft.missing}  # two selectors may come to the same settings
        absent = [run for run, answer in zip(wanted, answers, strict=True) if answer is None]
        failed = [run for one in absent for run in alive.find_all(one.config) if run.status == DIVERGED]
        absent = [run for run in absent if run.config.settings_hash not in asked]
        if found:
            draft.rows.append(make_row(found, wanted=len(wanted), failed=one_per_seed(failed)))
            if not request.settings.compare.sweep_lr:  # its seeds choose a rate, and are not to be added to
                _mention_other_seeds(draft, request, selector, found[0], wanted=len(wanted), done=done)
        if found or request.selectors:
            draft.missing += absent
        begun = {id(run) for one in absent for run in alive.find_all(one.config)}
        draft.unfinished += [(selector.attn, run) for run in runs if id(run) in begun]


def _seeds_on_record(
    request: Request, selectors: Sequence[Selector], known: KnownRuns, runs: Iterable[RunInfo]
) -> list[int]:
    """Return every seed that any of the variants has under the given conditions, finished or diverged."""
    seeds = sorted({int(run.seed) for run in runs if run.seed.isdecimal()})
    diverged = KnownRuns(run for run in runs if run.status == DIVERGED)
    found: set[int] = set()
    for selector in selectors:
        try:
            wanted = planned_runs(request, selector, seeds)
        except SettingsError:
            continue  # the loop over the variants says so
        found |= {run.seed for run in wanted if known.find(run.config) or diverged.find(run.config)}
    return sorted(found)


def _choose_free(draft: _Draft, request: Request, selectors: Sequence[Selector], runs: Sequence[RunInfo]) -> None:
    done = newest_first(finished(runs))
    reference = next((run for selector in selectors for run in _candidates(selector, done)), None)
    seeds = _seeds(request, reference, done)
    strict_seeds = request.seeds_given or request.origins["seed"] != "default"
    for selector in selectors:
        if selector.run_name:
            _choose_named(draft, selector, runs)
            continue
        candidates = _candidates(selector, done)
        fair = [run for run in candidates if reference is not None and run.conditions == reference.conditions]
        chosen = one_per_seed(like(candidates, (fair or candidates)[0])) if candidates else []
        if strict_seeds:
            chosen = [run for run in chosen if run.seed in map(str, seeds)]
        if chosen:
            failed = diverged_beside(runs, chosen, seeds if strict_seeds else ())
            draft.rows.append(make_row(chosen, wanted=len(seeds) if strict_seeds else 0, failed=failed))
        if not fair or strict_seeds:
            answered = {run.seed for run in chosen} if fair else set[str]()
            _want(draft, request, selector, [seed for seed in seeds if str(seed) not in answered], reference)
        hashes = {run.settings_hash for run in done}
        alive = matching([r for r in runs if r.settings_hash not in hashes], selector.kind, selector.typed_settings())
        draft.unfinished += [(selector.attn, run) for run in alive]


def _want(draft: _Draft, request: Request, selector: Selector, seeds: Iterable[int], reference: RunInfo | None) -> None:
    try:
        draft.missing += planned_runs(request, selector, seeds, reference)
    except SettingsError as error:
        if reference is None:
            raise
        draft.remarks.append(f"{selector.attn} does not fit the conditions of {reference.run_name}: {error.message}")


def _choose_named(draft: _Draft, selector: Selector, runs: Sequence[RunInfo]) -> None:
    found = [run for run in newest_first(runs) if run.run_name == selector.run_name]
    if not found:
        known = [*variants(), *(run.run_name for run in runs)]
        raise UsageError(
            f"{selector.text!r} is neither a variant nor a recorded run{did_you_mean(selector.run_name, known)}",
            f"Variants: {', '.join(variants())}. Runs are looked up in one experiment: see --experiment.",
        )
    done = finished(found)
    if done:
        draft.rows.append(make_row(done[:1], named=True))
    else:
        draft.unfinished.append((found[0].attention_label, found[0]))


def _candidates(selector: Selector, done: Sequence[RunInfo]) -> list[RunInfo]:
    """Return the finished runs that may stand for a selector, newest first."""
    if selector.run_name:
        return [run for run in done if run.run_name == selector.run_name]
    return matching(done, selector.kind, selector.typed_settings())


def _seeds(request: Request, reference: RunInfo | None, done: Sequence[RunInfo]) -> list[int]:
    """Return the seeds wanted of each variant: as asked for, otherwise those of the baseline."""
    baseline = like(done, reference) if reference is not None else []
    recorded = sorted({int(seed) for run in baseline if (seed := run.seed).isdecimal()})
    if request.seeds_given or request.origins["seed"] != "default" or not recorded:
        return request.seeds_from(base_seed(request, baseline))
    return recorded


def _stored_selectors(done: Sequence[RunInfo]) -> list[Selector]:
    """Return every variant, with its settings, that has finished runs: in the registry's order."""
    order = list(variants())
    trained = (run.attention for run in done if stands_for_variant(run))
    found = {attention_label(kind, settings): (kind, settings) for kind, settings in trained}
    known = sorted((order.index(kind), label) for label, (kind, _) in found.items() if kind in order)
    return [
        Selector(label, kind, {name: format_value(value) for name, value in settings.items()})
        for _, label in known
        for kind, settings in [found[label]]
    ]


def _mention_other_seeds(
    draft: _Draft, request: Request, selector: Selector, run: RunInfo, *, wanted: int, done: Iterable[RunInfo]
) -> None:
    recorded = {other.seed for other in like(done, run)}
    first, count = request.settings.train.seed, 0
    while str(first + count) in recorded:
        count += 1
    if count > wanted and not request.adds_seeds:
        draft.remarks.append(f"{selector.text} has {count} seeds on record: --seeds {count}")


def _belongs(row: Row, selector: Selector) -> bool:
    if selector.run_name:
        return row.runs[0].run_name == selector.run_name
    return bool(matching(row.runs, selector.kind, selector.typed_settings()))


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """Drop rows that would show the same runs again, as `gqa` and `gqa:n_kv_head=2` may."""
    kept: list[Row] = []
    for row in rows:
        if all(row.runs != other.runs for other in kept):
            number = sum(other.label == row.label for other in kept)
            kept.append(replace(row, label=f"{row.label} #{number + 1}") if number else row)
    return kept
