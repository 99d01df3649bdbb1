"""`vgpt runs` and `vgpt sync`: what they show of healthy, broken and foreign directories, and what they deliver."""

import json
import os
import shutil
import socket
import sqlite3
import time
from contextlib import contextmanager

import pytest

from vgpt.data.prepare import prepare
from vgpt.settings.commands import PrepareConfig
from vgpt.tracking.journal import read_metrics
from vgpt.tracking.listing import STATES
from vgpt.tracking.lock import RunLock
from vgpt.tracking.tracker import RunStart, open_tracker

TINY = (
    "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --max-steps 4 --eval-interval 2 "
    "--eval-windows 2 --device cpu --dtype float32 --log-interval 1 --save-interval 2"
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return tmp_path


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("text")
    (place / "text.txt").write_text("".join(f"{i} green bottles hanging on the wall.\n" for i in range(500)))
    prepare([str(place / "text.txt")], PrepareConfig(out=place / "data", vocab_size=280, workers=1))
    return place / "data"


@pytest.fixture
def trained(vgpt, place, data):
    def train(name, *words):
        done = vgpt("train", "--data", data, *TINY.split(), "--tracker", "journal", "--run-name", name, *words)
        assert done.code == 0, done.err
        return place / "runs" / name

    return train


@pytest.fixture
def recorded(place):
    """Record a run in its journal alone, as if it were for MLflow."""

    def record(name, *, status="finished", store="", steps=5):
        run_dir = place / "runs" / name
        run_dir.mkdir()
        start = RunStart(name, run_dir, "vgpt", {"lr": "0.1"}, {"vgpt.attn": "mha"})
        tracker = open_tracker(start, kind="journal", resume_step=None, notify=lambda text: None)
        for step in range(1, steps + 1):
            tracker.log({"train/loss": 10.0 / step, "val/loss": 11.0 / step}, step=step)
        if status != "running":
            tracker.finish(status)
        record = json.loads((run_dir / "tracking.json").read_text())
        (run_dir / "tracking.json").write_text(json.dumps(record | {"store": store}))
        return run_dir

    return record


def listed(vgpt) -> dict[str, dict]:
    done = vgpt("runs", "--json")
    assert done.code == 0, done.err
    return {run["name"]: run for run in json.loads(done.out)}


def test_a_trained_run_is_listed_as_its_own_records_say(vgpt, trained):
    directory = trained("first", "--attn", "gqa:n_kv_head=1")
    trained("second")
    runs = listed(vgpt)
    assert list(runs) == ["second", "first"]
    run = runs["first"]
    assert (run["attention"], run["state"], run["step"], run["steps"]) == ("gqa:n_kv_head=1", "finished", 4, 4)
    points = read_metrics(directory)
    assert run["loss"] == [point.metrics["train/loss"] for point in points if "train/loss" in point.metrics][-1]
    assert run["best_loss"] == min(point.metrics["val/loss"] for point in points if "val/loss" in point.metrics)
    assert run["bytes"] == sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    assert 0 <= run["age"] < 100
    row = next(line for line in vgpt("runs").out.splitlines() if line.startswith("first")).split()
    assert row[:4] == ["first", "gqa:n_kv_head=1", "finished", "4/4"]
    assert row[4:6] == [f"{run['loss']:.4f}", f"{run['best_loss']:.4f}"]


def test_states_tell_how_runs_ended(vgpt, recorded, place):
    for name, status in (("a", "finished"), ("b", "killed"), ("c", "running"), ("d", "diverged"), ("e", "failed")):
        recorded(name, status=status)
    recorded("f", status="running")
    (place / "runs" / "g").mkdir()
    (place / "runs" / "g" / "settings.json").write_text("{}")
    with RunLock(place / "runs" / "f"):
        states = {name: run["state"] for name, run in listed(vgpt).items()}
    assert states == {
        "a": "finished",
        "b": "stopped",
        "c": "killed",
        "d": "diverged",
        "e": "failed",
        "f": "running",
        "g": "empty",
    }
    assert set(states.values()) == set(STATES) - {"unreadable"}


def test_damaged_and_foreign_directories_cost_at_most_their_own_row(vgpt, trained, place):
    whole = trained("whole")
    runs = place / "runs"
    (runs / "foreign").mkdir()
    (runs / "foreign" / "notes.txt").write_text("nothing of ours")
    (runs / "file").write_text("no directory")
    (runs / ".hidden").mkdir()
    (runs / "dangling").symlink_to(runs / "nowhere")
    for file in ("settings.json", "tracking.json", "metrics.jsonl", "summary.json"):
        for name, content in (("cut", None), ("list", b"[1, 2]"), ("odd", b'{"status": 3, "metrics": [], "model": 7}')):
            copy = runs / f"{name}-{file}"
            shutil.copytree(whole, copy)
            (copy / file).write_bytes((whole / file).read_bytes()[:20] if content is None else content)
    copy = runs / "wild"
    shutil.copytree(whole, copy)
    (copy / "metrics.jsonl").write_text('{"step": "x", "metrics": {"train/loss": "y"}}\n{"step": null, "metrics": 3}\n')
    (copy / "tracking.json").write_text('{"started": "yesterday", "artifacts": 3}')
    (copy / "ckpt" / "step-99999999").mkdir()
    os.mkfifo(runs / "foreign" / "metrics.jsonl")
    found = listed(vgpt)
    assert {"foreign", "file", ".hidden", "dangling"}.isdisjoint(found)
    assert len(found) == 1 + 4 * 3 + 1
    assert found["cut-summary.json"]["best_loss"] == found["whole"]["best_loss"]
    assert vgpt("runs").code == 0


def test_names_with_control_codes_are_shown_without_them(vgpt, trained, place):
    trained("plain").rename(place / "runs" / "\x1b[31mred\nline")
    shown = vgpt("runs").out
    assert "\x1b" not in shown
    assert "?[31mred?line" in shown


def test_no_runs_and_no_directory_are_said(vgpt, place):
    done = vgpt("runs")
    assert (done.code, done.out) == (0, "")
    assert "no runs in runs" in done.err
    missing = vgpt("runs", "--runs-dir", "nowhere")
    assert missing.code == 1
    assert "no directory of runs at nowhere" in missing.err


@pytest.mark.slow
def test_a_thousand_runs_answer_in_seconds(vgpt, trained, place):
    whole = trained("whole")
    shutil.rmtree(whole / "ckpt")
    long = b'{"step":1,"time":0,"metrics":{"train/loss":1.0}}\n' * 2000
    for number in range(1000):
        copy = place / "runs" / f"run-{number}"
        copy.mkdir()
        for file in ("settings.json", "tracking.json", "summary.json"):
            os.link(whole / file, copy / file)
        if number % 10 == 0:
            (copy / "metrics.jsonl").write_bytes(long)
    before = time.process_time()
    assert len(listed(vgpt)) == 1001
    assert time.process_time() - before < 8


@pytest.fixture
def store(empty_store, place) -> str:
    shutil.copy(empty_store, place / "mlflow.db")
    return f"sqlite:///{place / 'mlflow.db'}"


def stored(place) -> list[tuple]:
    with sqlite3.connect(place / "mlflow.db") as connection:
        query = "SELECT r.name, m.key, m.step, m.value FROM metrics m JOIN runs r USING (run_uuid) ORDER BY 1, 2, 3"
        rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def journal(run_dir) -> list[tuple]:
    return sorted((run_dir.name, key, p.step, v) for p in read_metrics(run_dir) for key, v in p.metrics.items())


def test_sync_delivers_every_value_of_every_run_once(vgpt, recorded, store, place):
    runs = [recorded("a", store=store), recorded("b", store=store, status="running")]
    recorded("alone")
    first, second = vgpt("sync"), vgpt("sync")
    assert (first.code, second.code) == (0, 0), first.err
    assert first.out.splitlines() == [f"{name}: 10 values delivered to {store}" for name in "ab"]
    assert second.out.splitlines() == [f"{name}: {store} has everything" for name in "ab"]
    assert stored(place) == [row for run in runs for row in journal(run)]
    named = vgpt("sync", "alone", "--tracking-uri", store, "--json")
    (report,) = json.loads(named.out)
    assert (report["state"], report["sent"]) == ("delivered", 10)
    assert report["run_id"]


def test_sync_leaves_a_run_that_is_being_trained_to_its_mirror(vgpt, recorded, store, place):
    run = recorded("a", store=store, status="running")
    with RunLock(run):
        done = vgpt("sync")
    assert done.code == 0
    assert "is being trained by process" in done.out
    assert stored(place) == []


def test_a_store_that_cannot_be_reached_is_an_error_and_is_tried_once(vgpt, recorded, store, place):
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name in "abc":
        recorded(name, store=dead)
    recorded("d", store=store)
    before = time.monotonic()
    done = vgpt("sync")
    assert done.code == 1
    assert "3 of 4 runs could not be delivered" in " ".join(done.err.split())
    assert dead in done.out
    assert time.monotonic() - before < 60
    assert {name for name, *_ in stored(place)} == {"d"}
    assert vgpt("sync", "a", "--tracking-uri", store).code == 0


def test_what_is_no_run_is_said(vgpt, place):
    done = vgpt("sync", "nothing")
    assert done.code == 1
    assert "nothing is no run" in done.err


@pytest.mark.parametrize("length", [20, 60, 80])
def test_names_are_whole_on_80_columns(vgpt, recorded, place, monkeypatch, length):
    monkeypatch.setenv("COLUMNS", "80")
    names = ["short", "n" * length, "x" * (length - 1)]
    for name in names:
        recorded(name)
    (place / "runs" / "short" / "settings.json").write_text(
        json.dumps(
            {"model": {"attn": {"kind": "mix", "pattern": [{"kind": "gqa", "n_kv_head": 2}, {"kind": "mha"}] * 9}}}
        )
    )
    lines = vgpt("runs").out.splitlines()
    for name in names:
        assert sum(name in line.split() for line in lines) == 1, lines
    assert "…" not in "".join(lines)
    if length == 20:
        assert max(map(len, lines[:1])) <= 80
    assert all(len(line) <= 80 for line in lines if "short" not in line and "gqa" not in line)


def test_a_dry_run_shows_a_long_name_whole(vgpt, data, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = vgpt("train", "--data", data, *TINY.split(), "--run-name", "n" * 80, "--dry-run")
    assert done.code == 0, done.err
    assert done.out.count("n" * 10) >= 1
    assert "".join(done.out.split()).count("n" * 80) == 1  # folded, and nothing of it lost
    assert "…" not in done.out


@contextmanager
def nobody():
    """Be a user whom permissions bind: to the superuser everything can be read."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("closed", ["runs/b", "runs/b/metrics.jsonl", "runs/b/tracking.json"])
def test_a_run_that_cannot_be_read_costs_itself_and_no_other(vgpt, recorded, place, closed):
    for name in ("a", "b", "c"):
        recorded(name)
    # Parts of the program that are read when they are first needed.
    before = [vgpt("runs", "--json"), vgpt("compare", "--tracker", "journal", "--json")]
    assert len(json.loads(before[0].out)) == 3
    place.chmod(0o755)
    mode = (place / closed).stat().st_mode
    (place / closed).chmod(0)
    try:
        with nobody():
            listed, compared = vgpt("runs", "--json"), vgpt("compare", "--tracker", "journal", "--json")
    finally:
        (place / closed).chmod(mode)
    assert listed.code == 0, listed.err
    states = {run["name"]: run["state"] for run in json.loads(listed.out)}
    assert states["a"] == states["c"] == "finished"
    assert states.get("b", "unreadable") in STATES
    assert compared.code == before[1].code == 0, compared.err
    assert "runs/b is left out" in compared.err


@pytest.mark.parametrize("field", ["params", "tags", "artifacts", "started", "id"])
def test_a_record_whose_fields_are_of_other_kinds_is_left_out_by_name(vgpt, recorded, place, field):
    recorded("a")
    recorded("b")
    path = place / "runs" / "b" / "tracking.json"
    content = json.loads(path.read_text()) | {field: [["x"], 3]}
    path.write_text(json.dumps(content))
    compared = vgpt("compare", "--tracker", "journal", "--json")
    assert compared.code == 0, compared.err
    assert "runs/b is left out" in compared.err
    assert vgpt("runs").code == 0
