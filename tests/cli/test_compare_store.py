"""`vgpt compare` against a real MLflow store with many runs, from the command to the table."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import vgpt as package
from vgpt.settings.fields import format_value
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.presets import load_preset
from vgpt.settings.train import TrainConfig
from vgpt.tracking.mlflow_store.mlflow_client import MlflowStore
from vgpt.tracking.mlflow_store.target import resolve_target

SECONDS = 10.0
VARIANTS = ("mha", "gqa", "mqa", "mla", "linear")
FEW = 6 * len(VARIANTS)  # three seeds at two learning rates


def fill(uri, count):
    """Make so many finished runs, of five variants, two learning rates and all the seeds that takes."""
    store = MlflowStore(resolve_target(uri), write=True)
    place = store.experiment_id("vgpt", create=True)
    for number in range(count):
        kind, seed = VARIANTS[number % len(VARIANTS)], number // (2 * len(VARIANTS))
        lr = (1e-3, 2e-3)[number // len(VARIANTS) % 2]
        typed = {"attn": kind, "lr": lr, "seed": seed}
        config = load_settings(TrainConfig, Sources(load_preset("demo"), command_line=typed)).settings
        cache = config.model.attn.cache_cost(config.model.shape).nbytes(config.model.block_size, 2)
        tags = {
            "vgpt.id": f"{number:032x}",
            "vgpt.attn": kind,
            "vgpt.attn_settings": json.dumps(config.model.attn.model_dump(mode="json"), sort_keys=True),
            "vgpt.seed": str(seed),
            "vgpt.settings_hash": config.settings_hash,
            "vgpt.conditions": json.dumps(lr),
        }
        last = {
            "val/loss": 2.0 + 0.01 * (number % len(VARIANTS)) + 1e-4 * seed,
            "flops/train_per_token": 1e6,
            "train/tokens": 1e6,
            "train/steps": 100.0,
            "kv/bytes_at_context": float(config.model.n_layer * cache),
        }
        others = {f"perf/{name}": 1.0 for name in ("mfu", "mfu_palm", "tokens_per_second")}
        history = [("val/loss", 9.0 - 0.06 * step, step, step) for step in range(0, 100, 20)]
        ends = [(name, value, 100, 100) for name, value in (last | others).items()]
        run_id = store.create_run(place, name=f"{kind}-{number}", started=1_000_000 + number, tags=tags)
        params = {name: format_value(value) for name, value in config.flat().items()}
        store.send(run_id, metrics=[*history, *ends], params=params)
        store.set_status(run_id, "FINISHED", ended=2_000_000)


@pytest.fixture(scope="module")
def few(empty_store, tmp_path_factory):
    """A store of a few runs, to be copied."""
    database = Path(shutil.copy(empty_store, tmp_path_factory.mktemp("few")))
    fill(f"sqlite:///{database}", FEW)
    return database


@pytest.fixture
def place(few, tmp_path, monkeypatch):
    """A working directory whose store holds those runs."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(few, tmp_path)
    return tmp_path


def timed(directory, *words):
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1]), "OMP_NUM_THREADS": "2"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "vgpt", "compare", *words],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, time.monotonic() - begun


def check(compare, runs):
    out, seconds = compare(*VARIANTS, "--json")
    rows = json.loads(out)["rows"]
    assert [row["attention"] for row in rows] == list(VARIANTS)
    assert {row["n"] for row in rows} == {runs // (2 * len(VARIANTS))}
    words = ("--seeds", "3", "--at-tokens", "600000", "--columns", "loss", "--json")
    out, at_tokens = compare("mha", "mqa", *words)
    # Evaluations stand at 0, 20, ... 80 and 100 of 100 steps, each of 10,000 tokens.
    assert [row["loss"] for row in json.loads(out)] == pytest.approx([9.0 - 0.06 * 60] * 2)
    return seconds, at_tokens


def test_many_runs_in_a_store_are_compared_and_their_courses_are_read_from_it(place, vgpt):
    check(lambda *words: (vgpt("compare", *words).out, 0.0), FEW)


@pytest.mark.slow
def test_a_thousand_runs_are_compared_within_ten_seconds(tmp_path):
    fill(f"sqlite:///{tmp_path / 'mlflow.db'}", 1000)
    seconds, at_tokens = check(partial(timed, tmp_path), 1000)
    assert max(seconds, at_tokens) < SECONDS, (seconds, at_tokens)


def test_figures_report_and_log_come_from_one_command(few, place, vgpt):
    words = ["compare", "mha", "mqa", "--plot", "plots", "--html", "out/report.html", "--log", "--curves"]
    first = vgpt(*words)
    assert first.code == 0, first.err
    assert "Loss over tokens" in first.out
    assert "logged as run" in first.err
    names = sorted(path.name for path in Path("plots").iterdir())
    assert names == [f"{name}.{end}" for name in ("cache", "loss_curves", "tradeoffs") for end in ("png", "svg")]
    assert "vgpt compare mha mqa" in Path("out/report.html").read_text()
    # Artifacts go to where the experiment was made.
    logged = next(few.parent.rglob("report.html")).parent
    assert {path.name for path in logged.iterdir()} == {*names, "report.html", "comparison.csv", "comparison.json"}
    assert vgpt("compare", "--csv").out.count("\n") == 1 + len(VARIANTS)  # the comparison is no row


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--csv", "--json"], "--json and --csv exclude each other"),
        (["--markdown", "--latex"], "--markdown and --latex exclude each other"),
        (["--curves", "--csv"], "--curves draws on the terminal"),
        (["--log", "--tracker", "journal"], "--log needs MLflow"),
        (["--columns", "losss"], "did you mean 'loss'"),
        (["--at-tokens", "5", "--at-time", "5"], "--at-tokens and --at-seconds name different points"),
    ],
)
def test_flags_that_exclude_each_other_are_refused_before_anything_is_read(vgpt, words, message):
    result = vgpt("compare", "mha", *words)
    assert result.code == 2
    assert message in " ".join(result.err.replace("│", " ").split())
