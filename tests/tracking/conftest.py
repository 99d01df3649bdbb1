"""Real stores for the tracking tests: a SQLite store is made once and copied, for that takes seconds."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

import vgpt
from vgpt.tracking.tracker import RunStart, open_tracker


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


MAKE_STORE = """
import sys
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore
from vgpt.tracking.mlflow_store.target import resolve_target
store = MlflowStore(resolve_target(sys.argv[1]), write=True)
print(store.experiment_id("race", create=True))
"""


def start_python(program, *arguments):
    environment = os.environ | {"PYTHONPATH": str(Path(vgpt.__file__).parents[1])}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@dataclass(frozen=True)
class Race:
    """What two processes that made one store at the same time came to."""

    database: Path
    outputs: list[str]
    codes: list[int]


@pytest.fixture(scope="session")
def race(tmp_path_factory) -> Race:
    database = tmp_path_factory.mktemp("race") / "new" / "mlflow.db"
    processes = [start_python(MAKE_STORE, f"sqlite:///{database}") for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    return Race(database, outputs, [process.returncode for process in processes])


@pytest.fixture
def store_uri(empty_store, tmp_path) -> str:
    """A SQLite store without runs at the place of the default one."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def start(tmp_path):
    """Make the start of a run named as asked."""

    def make(name="run", **changes):
        run_dir = tmp_path / "runs" / name
        run_dir.mkdir(parents=True, exist_ok=True)
        known = {"experiment": "vgpt", "params": {"attn": "mha", "lr": "0.001"}, "tags": {"vgpt.attn": "mha"}}
        return RunStart(run_name=name, run_dir=run_dir, **(known | changes))

    return make


@pytest.fixture
def record(start):
    """Record a run of a few steps in the journal alone; what MLflow is to get is there to be delivered."""

    def make(name="run", steps=range(1, 6), *, status="finished", resume_step=None, summary=None, **changes):
        tracker = open_tracker(
            start(name, **changes), kind="journal", resume_step=resume_step, notify=lambda text: pytest.fail(text)
        )
        for step in steps:
            tracker.log({"train/loss": 10.0 / step, "train/lr": 1e-3}, step=step)
        tracker.finish(status, summary or {})
        return start(name).run_dir

    return make


class SilentServer:
    """Accepts connections and never answers, like a server that is frozen."""

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.accepted = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                self.accepted.append(self._socket.accept()[0])
            except OSError:
                return

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self.accepted:
            connection.close()


@pytest.fixture
def silent_uri():
    server = SilentServer()
    yield f"http://127.0.0.1:{server.port}"
    server.close()


@pytest.fixture
def refused_uri():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def python():
    """Start Python programs that use the package under test; those that still run at the end are killed."""
    started = []

    def run(program, *arguments):
        started.append(start_python(program, *arguments))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
