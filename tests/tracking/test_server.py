"""A real MLflow server that freezes, dies and comes back while a run is recorded."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest

from vgpt.tracking.mlflow_store.delivery import undelivered
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.store import StoreReader, read_runs
from vgpt.tracking.tracker import open_tracker

STEPS = range(1, 1501)

pytestmark = pytest.mark.slow


class Server:
    """`mlflow server` on loopback, all its processes in one group."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    @property
    def database(self):
        return self._folder / "server.db"

    def start(self, *, wait=True):
        store = f"sqlite:///{self._folder}/server.db"
        arguments = ["server", "--port", self.port, "--backend-store-uri", store, "--workers", "1"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *map(str, arguments)],
                cwd=self._folder,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.await_answer()

    def await_answer(self):
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "server.log").read_text()
                time.sleep(0.5)

    def signal(self, number):
        os.killpg(self._process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path)
    yield running
    running.kill()


def train(tracker, faults):
    """Log all steps at 100 a second, with faults at their steps; return the longest that one call took."""
    worst = 0.0
    for step in STEPS:
        if step in faults:
            faults[step]()
        before = time.perf_counter()
        tracker.log({"train/loss": 1.0 / step}, step=step)
        worst = max(worst, time.perf_counter() - before)
        time.sleep(0.01)
    return worst


def test_a_server_that_freezes_in_the_midst_of_a_run_gets_every_point_once(server, start):
    said = []
    tracker = open_tracker(start(), kind="mlflow", resume_step=None, tracking_uri=server.uri, notify=said.append)
    faults = {500: lambda: server.signal(signal.SIGSTOP), 1200: lambda: server.signal(signal.SIGCONT)}
    worst = train(tracker, faults)
    assert tracker.finish("finished", {}) == []
    assert worst < 2.5  # a request gives up after three
    assert any("no answer in time" in text for text in said)
    (run,) = read_runs(tracking_uri=server.uri)
    history = StoreReader(server.uri).history(run.run_id, "train/loss")
    assert [step for step, _ in history] == list(STEPS)


def test_a_server_that_dies_in_the_midst_of_a_run_gets_the_rest_when_it_is_back(server, start):
    tracker = open_tracker(start(), kind="mlflow", resume_step=None, tracking_uri=server.uri, notify=lambda text: None)
    worst = train(tracker, {700: server.kill})
    before = time.monotonic()
    (*_, note) = tracker.finish("finished", {})
    assert time.monotonic() - before < 60  # MLflow's own patience with a server is minutes
    assert worst < 2.5  # a request gives up after three
    assert "not yet in MLflow" in note
    server.start()
    assert sync_run(start().run_dir).sent > 0
    (run,) = read_runs(tracking_uri=server.uri)
    assert run.status == "finished"
    history = StoreReader(server.uri).history(run.run_id, "train/loss")
    assert [step for step, _ in history] == list(STEPS)


def test_a_server_frozen_then_killed_then_brought_back_has_everything_once_and_stalled_no_step(server, start):
    said = []
    tracker = open_tracker(start(), kind="mlflow", resume_step=None, tracking_uri=server.uri, notify=said.append)
    faults = {
        300: lambda: server.signal(signal.SIGSTOP),
        800: server.kill,
        1000: lambda: server.start(wait=False),
    }
    worst = train(tracker, faults)
    before = time.monotonic()
    tracker.finish("finished", {"val/loss": 0.5})
    assert time.monotonic() - before < 60  # MLflow's own patience with a server is minutes
    assert worst < 2.5  # a request gives up after three
    server.await_answer()
    # Whether the mirror was in time depends on how fast the server is back; what it missed is delivered now.
    sync_run(start().run_dir)
    assert undelivered(start().run_dir, resolve_target(server.uri)) == 0
    (run,) = read_runs(tracking_uri=server.uri)
    assert (run.status, run.metrics["val/loss"]) == ("finished", 0.5)
    connection = sqlite3.connect(server.database)
    rows = connection.execute("SELECT key, step FROM metrics ORDER BY key, step").fetchall()
    connection.close()
    assert rows == [("train/loss", step) for step in STEPS] + [("val/loss", STEPS[-1])]


def test_eight_runs_that_start_at_once_on_a_store_that_is_not_there_yet_all_arrive(start, python, tmp_path):
    program = (
        "import sys; from pathlib import Path; from vgpt.tracking.tracker import RunStart, open_tracker\n"
        "start = RunStart(sys.argv[2], Path(sys.argv[1]), 'vgpt', {'n': sys.argv[2]}, {})\n"
        "said = []\n"
        "uri = 'sqlite:///new/mlflow.db'\n"
        "known = {'resume_step': None, 'tracking_uri': uri, 'notify': said.append, 'deadline': 150}\n"
        "tracker = open_tracker(start, kind='mlflow', **known)\n"
        "for step in range(1, 51): tracker.log({'train/loss': 1.0 / step}, step=step)\n"
        "print(said + tracker.finish('finished', {}))\n"
    )
    runs = [python(program, start(f"run-{n}").run_dir, f"run-{n}") for n in range(8)]
    outputs = [run.communicate(timeout=200)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 8
    assert outputs == ["[]\n"] * 8
    stored = read_runs(tracking_uri=f"sqlite:///{tmp_path}/new/mlflow.db")
    assert sorted(run.run_name for run in stored) == [f"run-{n}" for n in range(8)]
    assert {run.status for run in stored} == {"finished"}
    assert [path.name for path in (tmp_path / "new").iterdir() if path.is_file()] == ["mlflow.db"]
