"""Whether records say what was recorded: a seal over each finished run, and its copies held against each other.

A run is written down several times: in its journal, in summary.json, in its losses per window, and in MLflow. When it
finishes, a digest over its params, tags and final metrics is added to them. Who changes one of these numbers later
makes them disagree, and a comparison says so. The seal is a check-sum and no signature: it holds no secret, so whoever
writes a run anew with all its copies and the seal is not found out.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from vgpt.files.digests import bytes_digest, digest_if_there, json_digest
from vgpt.files.text import table_of
from vgpt.tracking.journal import METRICS_FILE
from vgpt.tracking.lines import read_json
from vgpt.tracking.record import SETTINGS_FILE, SUMMARY_FILE, WINDOWS_FILE, parse_window_losses
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import MOST_OF_A_PARAM, MOST_OF_A_TAG, SEALED_SINCE, Metric, Tag, as_stored

_NOT_SEALED = {Tag.SEAL, Tag.ID, Tag.STATUS, Tag.GROUP, Tag.RUN_DIR, Tag.KIND, Tag.COMPARED}
"""Tags that may change after the end, or that differ between a run's copies."""
_NOT_COMPARED = {*_NOT_SEALED, Tag.RUN_NAME} - {Tag.SEAL}
_LOSS = Metric.VAL_LOSS
_ROUNDING = 1e-5
"""Windows keep 7 digits."""
_MOST_NAMED = 3


def seal_of(identity: str, params: Mapping[str, str], tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    """Return the digest over what a finished run says of itself, as far as all its copies can hold it.

    Args:
        identity: the run's id, shared by all copies.
        params: its params.
        tags: its tags; those that may change later, and those of others than vgpt, are left out.
        metrics: its final metrics, those that are to be sealed alone.
    """
    return _seal_of(identity, *_as_stored(params, tags), metrics)


def _seal_of(identity: str, params: Mapping[str, str], tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    kept = {name: value for name, value in tags.items() if name.startswith("vgpt.") and name not in _NOT_SEALED}
    table = {
        "id": identity,
        "params": dict(params),
        "tags": kept,
        "metrics": {n: repr(float(v)) for n, v in metrics.items()},
    }
    return json_digest(table)


def _as_stored(params: Mapping[str, str], tags: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    return as_stored(params, MOST_OF_A_PARAM), as_stored(tags, MOST_OF_A_TAG)


def is_sealed(run: RunInfo) -> bool:
    """Return whether a run carries a seal, as those that finished before there were seals do not."""
    return bool(run.tags.get(Tag.SEAL))


def faults_of(run: RunInfo) -> list[str]:
    """Return how a finished run's record contradicts itself, in words; empty where it does not, as far as it tells."""
    found = list(run.conflicts)
    if not is_sealed(run) and _version(run) >= SEALED_SINCE:
        found.append("it is called finished, and carries no seal")
    if is_sealed(run) and not found:
        names = [name for name in run.tags.get(Tag.SEALED_METRICS, "").split(",") if name]
        metrics = {name: run.metrics.get(name, math.nan) for name in names}
        # Earlier versions sealed also what MLflow cuts off.
        known = {make(run.id, run.params, run.tags, metrics) for make in (seal_of, _seal_of)}
        if run.tags[Tag.SEAL] not in known:
            found.append("params, tags or final metrics are not those that were sealed")
    if run.directory is not None:
        found += _faults_in(run.directory, run)
    return found


def disagreements(journal: RunInfo, stored: RunInfo) -> tuple[str, ...]:
    """Return what a finished run's journal and MLflow say differently.

    What only one of them has may still be on its way; of long texts MLflow keeps but the beginning.
    """
    if journal.status != "finished" or stored.status != "finished":
        return ()
    sealed = [name for name in journal.tags.get(Tag.SEALED_METRICS, "").split(",") if name]
    params, all_tags = _as_stored(journal.params, journal.tags)
    tags = {name: text for name, text in all_tags.items() if name.startswith("vgpt.") and name not in _NOT_COMPARED}
    pairs: list[tuple[str, object, object]] = [
        *((name, text, stored.params[name]) for name, text in params.items() if name in stored.params),
        *((name, text, stored.tags[name]) for name, text in tags.items() if name in stored.tags),
        *(
            (name, journal.metrics[name], stored.metrics[name])
            for name in sealed
            if name in journal.metrics and name in stored.metrics
        ),
    ]
    differing = [(name, a, b) for name, a, b in pairs if not _same(a, b)]
    said = [f"{name} is {a} in the journal and {b} in MLflow" for name, a, b in differing[:_MOST_NAMED]]
    more = len(differing) - _MOST_NAMED
    return (*said, f"and {more} more") if more > 0 else tuple(said)


def _faults_in(directory: Path, run: RunInfo) -> list[str]:
    """Hold a run directory's files against each other and against the digests that the run recorded of them."""
    found: list[str] = []
    content = _read(directory / WINDOWS_FILE)
    files = (
        (Tag.JOURNAL, METRICS_FILE, digest_if_there(directory / METRICS_FILE)),
        (Tag.WINDOWS, WINDOWS_FILE, bytes_digest(content) if content else ""),
        (Tag.SETTINGS, SETTINGS_FILE, digest_if_there(directory / SETTINGS_FILE)),
    )
    for tag, file, now in files:
        if (recorded := run.tags.get(tag)) and now and now != recorded:
            found.append(f"{file} was changed after the run finished")
    summary = read_json(directory / SUMMARY_FILE) or {}
    for name, value in table_of(summary.get("metrics")).items():
        if name in run.metrics and not _same(run.metrics[name], _number(value)):
            found.append(f"{name} is {run.metrics[name]:.6g} in the journal and {value} in {SUMMARY_FILE}")
    loss = run.metrics.get(_LOSS)
    windows = parse_window_losses(content) if content else None
    if windows is not None and loss is not None and math.isfinite(loss):
        mean = fmean(windows.losses)
        if abs(mean - loss) > _ROUNDING * abs(loss):
            found.append(f"{_LOSS} is {loss:.6f}, and the mean of its windows {mean:.6f}")
    return found


def _version(run: RunInfo) -> int:
    version = run.tags.get(Tag.SCHEMA, "")
    return int(version) if version.isdecimal() else 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _number(value: object) -> object:
    """Return what summary.json says as a number: values that JSON does not know are text there."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return value


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return one == other
