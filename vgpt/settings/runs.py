"""Settings of `vgpt runs` and `vgpt sync`."""

from pathlib import Path

from vgpt.schema import Section


class RunsConfig(Section):
    """Where the runs are."""

    runs_dir: Path = Path("runs")
    """directory of all runs"""


class SyncConfig(RunsConfig):
    """Where the runs are, and where their records go."""

    tracking_uri: str | None = None
    """MLflow store; none = MLFLOW_TRACKING_URI, else the store that the run was started with"""
