"""Finding a file of runs: in their directories on this machine, then among their artifacts in MLflow."""

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from vgpt.errors import TrackingError
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.store import READ_TIMEOUT, StoreReader, directory_on_this_machine

Found = TypeVar("Found")


class RunFileReader(ABC, Generic[Found]):
    """Finds a file of runs: in a run's directory, then among its artifacts in MLflow. Each run is read once.

    A store that cannot be read is asked once and then no more. `problems` says what is there and could not be used.

    Args:
        mlflow: whether to ask MLflow at all.
        tracking_uri: the store; None for the environment's or the default one.
        timeout: seconds that one answer may take.
    """

    file: ClassVar[str]
    """its name"""
    what: ClassVar[str]
    """what it holds, in the plural"""

    def __init__(self, *, mlflow: bool, tracking_uri: str | None = None, timeout: float = READ_TIMEOUT) -> None:
        self.problems: list[str] = []
        self._mlflow = mlflow
        self._store = StoreReader(tracking_uri, timeout)
        self._known: dict[str, Found] = {}

    def __call__(self, run: RunInfo) -> Found:
        """Return what the file of a run holds."""
        key = run.id or run.run_id or run.run_name
        if key not in self._known:
            self._known[key] = self.read(run, self._content(run))
        return self._known[key]

    @abstractmethod
    def read(self, run: RunInfo, content: bytes | None) -> Found:
        """Return what a file holds; None is no file within reach."""

    def in_store(self, run: RunInfo) -> bool:
        """Return whether MLflow may have the file: it is asked only then."""
        return True

    def _content(self, run: RunInfo) -> bytes | None:
        directory = directory_on_this_machine(run)
        if directory is not None:
            try:
                return (directory / self.file).read_bytes()
            except OSError:
                pass
        if not (self._mlflow and run.run_id and self.in_store(run)):
            return None
        try:
            return self._store.artifact(run.run_id, self.file)
        except TrackingError as error:
            self._mlflow = False
            self.problems.append(f"{self.what} of {run.run_name} cannot be read: {error.message}")
            return None
