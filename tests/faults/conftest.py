"""A tiny run to damage, a disk to fill, and a warm process to kill."""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import vgpt
from vgpt.data.prepare import prepare
from vgpt.settings.commands import PrepareConfig
from vgpt.settings.train import TrainConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A small prepared corpus of real text: this project's own sources."""
    place = tmp_path_factory.mktemp("corpus") / "data"
    prepare([str(Path(vgpt.__file__).parent)], PrepareConfig(out=place, vocab_size=300, workers=1))
    return place


@pytest.fixture
def memory(tmp_path):
    """A directory in memory where the system has one: kill -9 cannot tell whether fsync cost anything."""
    base = Path("/dev/shm")
    if not os.access(base, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=base, prefix="vgpt-test-") as name:
        yield Path(name)


@pytest.fixture
def settings(corpus, tmp_path):
    """Return a function that builds the settings of a tiny run; `section__name=value` changes one."""

    def build(attn="mha", **changes) -> TrainConfig:
        tables = {
            "model": {"attn": attn, "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
            "train": {
                "data": str(corpus),
                "batch_size": 2,
                "max_steps": 8,
                "eval_interval": 3,
                "eval_windows": 4,
                "warmup_steps": 2,
                "lr": 1e-2,
            },
            "system": {"device": "cpu", "dtype": "float32"},
            "run": {
                "run_name": "run",
                "runs_dir": str(tmp_path / "runs"),
                "tracker": "journal",
                "log_interval": 1,
                "save_interval": 2,
            },
        }
        for name, value in changes.items():
            section, _, key = name.partition("__")
            tables[section][key] = value
        return TrainConfig.model_validate(tables)

    return build


class Nursery:
    """Starts training processes in milliseconds; see nursery.py."""

    def __init__(self, talk: Path) -> None:
        self._talk = talk.open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._talk,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )

    def train(self, config: TrainConfig) -> None:
        """Train a run to its end in the warm process itself."""
        assert self._ask(f"! {self._written(config)}") == ["done", "0"]

    def start(self, config: TrainConfig) -> int:
        """Start a process that trains, and return its id."""
        word, pid = self._ask(str(self._written(config)))
        assert word == "started"
        return int(pid)

    def ended(self) -> int:
        """Wait for the end of the process started last: its exit code, or the negative number of a signal."""
        word, status = self._answer()
        assert word == "ended"
        return os.waitstatus_to_exitcode(int(status))

    def close(self) -> None:
        """Let the warm process go."""
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._talk.close()

    def _written(self, config: TrainConfig) -> Path:
        config.run.runs_dir.mkdir(parents=True, exist_ok=True)
        path = config.run.runs_dir / f"{config.name}.settings.json"
        path.write_text(json.dumps(config.model_dump(mode="json")))
        return path

    def _ask(self, line: str) -> list[str]:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[str]:
        answer = self._process.stdout.readline().split()
        assert answer, Path(self._talk.name).read_text()
        return answer


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    started = Nursery(tmp_path_factory.mktemp("nursery") / "talk.txt")
    yield started
    started.close()


_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY, _MS_REMOUNT, _MNT_DETACH = 1, 32, 2


class Disk:
    """A file system of its own, in memory, of a size in bytes; only root can mount one."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        self._mounted = False

    def mount(self, size: int) -> None:
        if _LIBC.mount(b"tmpfs", bytes(self.place), b"tmpfs", 0, f"size={size}".encode()):
            pytest.skip(f"mounting a small disk needs rights: {os.strerror(ctypes.get_errno())}")
        self._mounted = True

    def make_read_only(self) -> None:
        if _LIBC.mount(b"tmpfs", bytes(self.place), b"tmpfs", _MS_REMOUNT | _MS_RDONLY, None):
            pytest.skip(f"cannot be mounted read-only: {os.strerror(ctypes.get_errno())}")

    def free(self) -> int:
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize

    def unmount(self) -> None:
        if self._mounted:
            _LIBC.umount2(bytes(self.place), _MNT_DETACH)
            self._mounted = False


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk")
    yield made
    made.unmount()
