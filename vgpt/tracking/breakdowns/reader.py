"""Where the breakdowns of a run are written and found: in its directory, then among its artifacts in MLflow."""

from vgpt.errors import TrackingError
from vgpt.tracking.breakdowns.record import EVALUATIONS_FILE, Breakdown, DamagedError, Owner, parse
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import WHEN_ASKED, Metric, Tag
from vgpt.tracking.store import READ_TIMEOUT, artifact, directory_on_this_machine

_METRICS = {str(one) for one in Metric if one.when == WHEN_ASKED}


class BreakdownReader:
    """Finds the breakdowns of runs by their kind. Each run is read once.

    A store that cannot be read is asked once and then no more. `problems` says what is there and could not be used.

    Args:
        mlflow: whether to ask MLflow at all.
        tracking_uri: the store; None for the environment's or the default one.
        timeout: seconds that one answer may take.
    """

    def __init__(self, *, mlflow: bool, tracking_uri: str | None = None, timeout: float = READ_TIMEOUT) -> None:
        self.problems: list[str] = []
        self._mlflow = mlflow
        self._uri = tracking_uri
        self._timeout = timeout
        self._known: dict[str, dict[str, Breakdown]] = {}

    def __call__(self, run: RunInfo) -> dict[str, Breakdown]:
        """Return the breakdowns of a run; none where nobody asked `vgpt eval` for any."""
        key = run.id or run.run_id or run.run_name
        if key not in self._known:
            self._known[key] = self._read(run)
        return self._known[key]

    def _read(self, run: RunInfo) -> dict[str, Breakdown]:
        content = self._content(run)
        if content is None:
            return {}
        try:
            return {one.kind: one for one in parse(content, Owner(run.id, run.tags.get(Tag.SEAL, "")))}
        except DamagedError as error:
            self.problems.append(
                f"{EVALUATIONS_FILE} of {run.run_name} is damaged ({error}) and left out; vgpt eval writes it anew"
            )
            return {}

    def _content(self, run: RunInfo) -> bytes | None:
        directory = directory_on_this_machine(run)
        if directory is not None:
            try:
                return (directory / EVALUATIONS_FILE).read_bytes()
            except OSError:
                pass
        if not (self._mlflow and run.run_id and _METRICS & run.metrics.keys()):
            return None
        try:
            return artifact(run.run_id, EVALUATIONS_FILE, tracking_uri=self._uri, timeout=self._timeout)
        except TrackingError as error:
            self._mlflow = False
            self.problems.append(f"evaluations of {run.run_name} cannot be read: {error.message}")
            return None
