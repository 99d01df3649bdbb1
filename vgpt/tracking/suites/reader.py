"""Where the results of suites on a run are found: in its directory, then among its artifacts in MLflow."""

from vgpt.errors import TrackingError
from vgpt.tracking.breakdowns.record import Owner
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import SUITE, Tag
from vgpt.tracking.store import READ_TIMEOUT, artifact, directory_on_this_machine
from vgpt.tracking.suites.record import SUITES_FILE, TaskResult, parse


class SuiteReader:
    """Finds the results of runs by task. Each run is read once.

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
        self._known: dict[str, dict[str, TaskResult]] = {}

    def __call__(self, run: RunInfo) -> dict[str, TaskResult]:
        """Return the results of a run by task; none where nobody asked `vgpt eval --suite` for any."""
        key = run.id or run.run_id or run.run_name
        if key not in self._known:
            self._known[key] = self._read(run)
        return self._known[key]

    def _read(self, run: RunInfo) -> dict[str, TaskResult]:
        content = self._content(run)
        if content is None:
            return {}
        try:
            return {one.task: one for one in parse(content, Owner(run.id, run.tags.get(Tag.SEAL, "")))}
        except ValueError as error:
            self.problems.append(
                f"{SUITES_FILE} of {run.run_name} is damaged ({error}) and left out; vgpt eval --suite writes it anew"
            )
            return {}

    def _content(self, run: RunInfo) -> bytes | None:
        directory = directory_on_this_machine(run)
        if directory is not None:
            try:
                return (directory / SUITES_FILE).read_bytes()
            except OSError:
                pass
        if not (self._mlflow and run.run_id and any(name.startswith(SUITE) for name in run.metrics)):
            return None
        try:
            return artifact(run.run_id, SUITES_FILE, tracking_uri=self._uri, timeout=self._timeout)
        except TrackingError as error:
            self._mlflow = False
            self.problems.append(f"suites of {run.run_name} cannot be read: {error.message}")
            return None
