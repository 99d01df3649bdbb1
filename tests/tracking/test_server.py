"""A real MLflow server that freezes, dies and comes back while a run is recorded."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from vgpt.tracking.mirror import sync_run
from vgpt.tracking.store import metric_history, read_runs
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

    def start(self):
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
    tracker = open_tracker(start(), kind="mlflow", resume_step=None, tracking_uri=server.uri, say=said.append)
    faults = {500: lambda: server.signal(signal.SIGSTOP), 1200: lambda: server.signal(signal.SIGCONT)}
    worst = train(tracker, faults)
    assert tracker.finish("finished", {}) == []
    assert worst < 0.05
    assert any("no answer in time" in text for text in said)
    (run,) = read_runs(tracking_uri=server.uri)
    history = metric_history(run.run_id, "train/loss", tracking_uri=server.uri)
    assert [step for step, _ in history] == list(STEPS)


def test_a_server_that_dies_in_the_midst_of_a_run_gets_the_rest_when_it_is_back(server, start):
    tracker = open_tracker(start(), kind="mlflow", resume_step=None, tracking_uri=server.uri, say=lambda text: None)
    worst = train(tracker, {700: server.kill})
    before = time.monotonic()
    (*_, note) = tracker.finish("finished", {})
    assert time.monotonic() - before < 12
    assert worst < 0.05
    assert "not yet in MLflow" in note
    server.start()
    assert sync_run(start().run_dir).sent > 0
    (run,) = read_runs(tracking_uri=server.uri)
    assert run.status == "finished"
    history = metric_history(run.run_id, "train/loss", tracking_uri=server.uri)
    assert [step for step, _ in history] == list(STEPS)
