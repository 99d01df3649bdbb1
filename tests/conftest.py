"""What every test starts from: one thread, no network, no settings of the person who runs them."""

import os
import sys

# Before torch is imported anywhere: two test processes on two cores must not fight over threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not os.path.exists("/dev/nvidiactl"):  # Triton's kernels run in its interpreter where there is no GPU
    os.environ["TRITON_INTERPRET"] = "1"
os.environ["VGPT_BENCH"] = "false"  # measuring takes its time; tests of it ask for it

from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings
from typer.testing import CliRunner

# How fast examples are made says how busy the machine is, and nothing of what is tested.
settings.register_profile("vgpt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vgpt")

GOLDEN = Path(__file__).parent / "golden"
LONG = (
    "training/test_distributed.py",
    "conformance/test_conformance.py",
    "tracking/test_mirror.py",
    "faults/test_signals.py",
    "cli/test_main_job.py",
)
"""Files that take longest, which begin first: one of them at the end would leave the other processes idle."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files; review the difference")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--update-golden") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--update-golden rewrites files that several tests share: leave out -n")
    config.option.loadscopereorder = False  # by the number of tests, which says nothing of how long they take


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))  # a slow test on a busy machine is no fault
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA device here")


@pytest.fixture(autouse=True)
def no_settings_of_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("VGPT_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("VGPT_BENCH", "false")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture(scope="session", autouse=True)
def a_glance_at_the_peak() -> Iterator[None]:
    """Measure the machine's peak with small products: at full size that takes longer than all else of a tiny run."""
    from vgpt.training.hardware import peak

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_CPU_SIZE": 256, "_LESS": 256, "_PROBE_SECONDS": 0, "_SECOND_PROBE_SECONDS": 0}.items():
            patch.setattr(peak, name, value)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_measured_backends() -> Iterator[None]:
    """Have attention computed by the table, whatever processor the tests run on: no clock decides what is learned."""
    from vgpt.training.hardware import attention_backend

    here = attention_backend.cpu_flags() or {attention_backend._UNKNOWN}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_backend, "_MEASURED_ON", attention_backend._MEASURED_ON | here)
        yield


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """What stderr says, without the frame of a panel and the ends of its lines."""
        return " ".join(self.err.replace("│", " ").split())


@pytest.fixture(scope="session")
def vgpt() -> Callable[..., Outcome]:
    """Run `vgpt ARGS...` in this process."""
    from vgpt.cli.app import build_app

    def run(*arguments: object, stdin: str | bytes | None = None) -> Outcome:
        words = [str(word) for word in arguments]
        with redirect_stderr(StringIO()) as said_before:  # while plug-ins are loaded
            app = build_app(words)
        result = CliRunner().invoke(app, words, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, said_before.getvalue() + result.stderr)

    return run


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs, to be copied: making one takes seconds.

    Of experiments it has none that a test uses, since each records where its artifacts go: beside the copy.
    """
    from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore
    from vgpt.tracking.mlflow_store.target import resolve_target

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowStore(resolve_target(f"sqlite:///{database}"), write=True).experiment_id("unused", create=True)
    return database


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with `tests/golden/NAME`; `--update-golden` rewrites the file instead."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden file {name}; run with --update-golden"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """A function that makes a settings class and a module a variant, for the length of one test."""
    from vgpt.attention import registry

    def register(config, module, kind="planted", **settings):
        place = ModuleType("planted_variants")
        place.Module = module
        monkeypatch.setitem(sys.modules, "planted_variants", place)
        known = {name: value for name, value in registry.variants().items() if name != kind}
        monkeypatch.setattr(registry, "_configs", known)
        monkeypatch.setattr(registry, "_modules", dict(registry._modules))
        return registry.register_attention(kind, module="planted_variants:Module")(config)(**settings)

    return register
