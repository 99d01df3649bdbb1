"""`vgpt reproduce`: a row of a report, trained again and held against what was reported."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from vgpt.cli.console import notify, out, print_json, warn
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import UsageError, VgptError
from vgpt.files.paths import user_path
from vgpt.formatting import format_time
from vgpt.settings.loader import Loaded
from vgpt.settings.reproduce import ReproduceConfig

if TYPE_CHECKING:
    from vgpt.study.rerun import Outcome, Rerun


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("reproduce")(with_settings(ReproduceConfig, presets=False)(reproduce))


def reproduce(
    loaded: Loaded[ReproduceConfig],
    report: Annotated[
        Path, typer.Argument(metavar="REPORT", parser=user_path, help="a report of vgpt compare: --html's, or --json's")
    ],
    json: JsonOption = False,
) -> None:
    """Train a row of a report again, from its recorded settings, and say whether the result holds.

    Exit code 0: the mean lies inside the interval, or every loss is the same to the bit; 10: it does not; 11: one seed
    was reported, and its loss is another.
    """
    from vgpt.study.report_data import chosen_row, read_rows
    from vgpt.study.rerun import EXIT_CODES, fresh_directory, judge_rerun, machine_notes, plan_rerun
    from vgpt.study.train_missing import TrainingInterrupted, train_missing

    settings = loaded.settings
    rows = read_rows(report)
    if settings.row is None and len(rows) != 1:
        raise UsageError("the report has several rows", f"--row {rows[0].label} trains the first one again.")
    row = chosen_row(rows, settings.row or rows[0].label, settings.part)
    place = fresh_directory(row, settings.out)
    rerun = plan_rerun(row, out=place, seeds=settings.seeds, threads=settings.threads)
    _show_plan(rerun, settings, place)
    if rerun.differs and not settings.anyway:
        raise UsageError(
            "what would be trained is not what was reported:\n" + "\n".join(rerun.differs),
            "Bring back what differs; --anyway goes on as it is.",
        )
    for difference in rerun.differs:
        warn(difference)
    if settings.plan:
        return
    try:
        failures = train_missing(rerun.runs, notify)
    except TrainingInterrupted as stop:
        warn(f"stopped; what was trained lies in {place}")
        raise typer.Exit(stop.code) from None
    if failures:
        raise VgptError(f"{len(failures)} of {len(rerun.runs)} runs failed", "Their errors stand above.")
    outcome, notes = judge_rerun(rerun), machine_notes(row, place)
    if json:
        print_json(_as_json(rerun, outcome, notes, place))
    else:
        _print(rerun, outcome, notes)
    raise typer.Exit(EXIT_CODES[outcome.verdict])


def _show_plan(rerun: "Rerun", settings: ReproduceConfig, place: Path) -> None:
    from vgpt.study.estimate import ThroughputEstimate, total
    from vgpt.tracking.store import read_local_runs

    known = read_local_runs(settings.runs_dir) if settings.runs_dir.is_dir() else []
    seconds = total(map(ThroughputEstimate(known).seconds, rerun.runs))
    time = f"{format_time(rerun.seconds)} by the report" if seconds is None else format_time(seconds)
    seeds = ", ".join(str(run.seed) for run in rerun.runs)
    kind = "new seeds" if rerun.new_seeds else "seeds"
    notify(f"plan: {rerun.title}, {kind} {seeds}, into {place}; time: {time}")


def _print(rerun: "Rerun", outcome: "Outcome", notes: list[str]) -> None:
    console = out()
    for one in outcome.seeds:
        if one.reported is None:
            console.print(Text(f"seed {one.seed}: val loss {one.found:.6f}"))
            continue
        same = "the same to the bit" if one.same else f"{one.found - one.reported:+.2e} of what was reported"
        console.print(Text(f"seed {one.seed}: val loss {one.found:.6f}, {same}"))
    if outcome.interval is None:
        where = "one seed was reported: there is no interval to hold it against"
    else:
        kind = f"95% interval for the mean of {len(outcome.seeds)} new seeds" if rerun.new_seeds else "95% interval"
        low, high = outcome.interval
        where = f"{'inside' if outcome.inside else 'OUTSIDE'} the {kind}, {low:.6f} to {high:.6f}"
    console.print(Text(f"mean {outcome.mean:.6f}: {where}"))
    for note in notes:
        console.print(Text(f"another machine: {note}", "yellow"))
    console.print(Text(f"{rerun.title}: {outcome.verdict}", "bold"))


def _as_json(rerun: "Rerun", outcome: "Outcome", notes: list[str], place: Path) -> dict[str, Any]:
    return {
        "row": rerun.row.label,
        "part": rerun.row.part or None,
        "directory": str(place),
        "verdict": outcome.verdict,
        "new_seeds": rerun.new_seeds,
        "seeds": [
            {"seed": one.seed, "reported": one.reported, "found": one.found, "same_bits": one.same}
            for one in outcome.seeds
        ],
        "mean": outcome.mean,
        "interval": list(outcome.interval) if outcome.interval else None,
        "inside": outcome.inside,
        "differs": list(rerun.differs),
        "machine": notes,
    }
