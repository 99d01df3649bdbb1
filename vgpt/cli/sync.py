"""`vgpt sync`: bring to MLflow what it has missed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from vgpt.cli.console import out, print_json, warn
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import TrackingError, VgptError
from vgpt.settings.commands import SyncConfig
from vgpt.settings.loader import Loaded
from vgpt.tracking.mlflow_store.mirror import BusyError, UnreachableError, sync_run
from vgpt.tracking.record import RECORD_FILE, read_record


@dataclass(frozen=True)
class Report:
    """What became of one run: "delivered", "complete" (nothing was missing), "busy" or "failed"."""

    run: str
    state: str
    sent: int = 0
    store: str = ""
    run_id: str = ""
    problem: str = ""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("sync")(with_settings(SyncConfig, presets=False)(sync))


def sync(
    loaded: Loaded[SyncConfig],
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="names or directories of runs; none = all that were to go to MLflow"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Bring to MLflow what it has missed of runs, from their journals; each value arrives once."""
    settings = loaded.settings
    places = [_place(name, settings.runs_dir) for name in runs] if runs else _all(settings.runs_dir)
    reports = _deliver(places, settings.tracking_uri)
    if json:
        print_json([asdict(report) for report in reports])
    else:
        for report in reports:
            out().print(_line(report), markup=False)
        if not reports:
            out().print(f"nothing to deliver: no run in {settings.runs_dir} was to go to MLflow", markup=False)
    if failed := [report for report in reports if report.state == "failed"]:
        raise TrackingError(
            f"{len(failed)} of {len(reports)} runs could not be delivered: {failed[0].problem}",
            "The journals keep everything: the same command delivers the rest.",
        )


def _deliver(places: list[Path], tracking_uri: str | None) -> list[Report]:
    """Deliver run after run; a store that fails is not asked again for the others that go there."""
    reports: list[Report] = []
    down: dict[str, str] = {}
    for place in places:
        record = read_record(place)
        store = tracking_uri or (record.store if record is not None else "")
        if store in down:
            reports.append(Report(place.name, "failed", problem=down[store]))
            continue
        try:
            done = sync_run(place, tracking_uri=tracking_uri, notify=warn)
        except BusyError as error:
            reports.append(Report(place.name, "busy", problem=error.message))
        except TrackingError as error:
            if isinstance(error, UnreachableError):
                down[store] = error.message
            reports.append(Report(place.name, "failed", problem=error.message))
        else:
            state = "delivered" if done.sent else "complete"
            reports.append(Report(place.name, state, done.sent, done.store, done.run_id))
    return reports


def _line(report: Report) -> str:
    if report.state == "delivered":
        return f"{report.run}: {report.sent:,} values delivered to {report.store}"
    if report.state == "complete":
        return f"{report.run}: {report.store} has everything"
    return f"{report.run}: {report.problem}"


def _all(runs_dir: Path) -> list[Path]:
    if not runs_dir.is_dir():
        raise VgptError(f"no directory of runs at {runs_dir}", "Name it with --runs-dir.")
    found = sorted(path.parent for path in runs_dir.glob(f"*/{RECORD_FILE}"))
    return [place for place in found if (record := read_record(place)) is not None and record.store]


def _place(name: str, runs_dir: Path) -> Path:
    return runs_dir / name if (runs_dir / name / RECORD_FILE).is_file() else Path(name)
