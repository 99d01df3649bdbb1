"""Disks that are full, read-only or gone: what was saved stays, the run goes on, and people are told."""

import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

import vgpt
from vgpt.data.prepare import prepare
from vgpt.errors import DataError, VgptError
from vgpt.settings.commands import PrepareConfig
from vgpt.tracking.journal import read_events, read_metrics
from vgpt.training.checkpoints.checkpoint import find_checkpoint, newest, open_checkpoint, steps
from vgpt.training.display import Quiet
from vgpt.training.run import train_run

MEGABYTE = 1 << 20
FOUR = {"train__max_steps": 4, "train__eval_interval": 100}
"""A run with checkpoints of steps 2 and 4."""


class Listening(Quiet):
    """Keeps what is said, and does something once a step is done and the first checkpoint is on disk: {step: deed}."""

    def __init__(self, config, deeds):
        self.said, self._directory, self._deeds = [], config.directory / "ckpt", deeds

    def notify(self, message):
        self.said.append(message)

    def advance(self, step):
        if step in self._deeds:
            deadline = time.monotonic() + 120
            while not (self._directory / "last").exists() or list(self._directory.glob(".*")):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            self._deeds[step]()


def fill(disk, leave: int) -> Path:
    """Fill a disk up to a number of free bytes."""
    path = disk.place / "filling"
    with path.open("wb", buffering=0) as file:
        while (room := disk.free() - leave) > 0:
            file.write(bytes(min(room, MEGABYTE)))
    return path


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_nothing_else(settings, disk):
    disk.mount(16 * MEGABYTE)
    config = settings(run__runs_dir=str(disk.place / "runs"), train__max_steps=12)
    whole = settings(run__run_name="whole", train__max_steps=12)
    display = Listening(config, {3: lambda: fill(disk, 0), 8: (disk.place / "filling").unlink})
    assert train_run(config, display).status == "finished"
    train_run(whole, Quiet())

    events = read_events(config.directory)
    assert {event["step"] for event in events if event["kind"] == "checkpoint_failed"} >= {4, 6}
    assert {event["step"] for event in events if event["kind"] == "checkpoint"} >= {2, 10, 12}
    assert any("NOT saved" in text and "No space left" in text for text in display.said)
    # Numbers were held in memory while there was no room, and none is missing or torn.
    assert [point.step for point in read_metrics(config.directory)] == [
        point.step for point in read_metrics(whole.directory)
    ]
    last = find_checkpoint(config.directory, which="last").load_model().state_dict()
    right = find_checkpoint(whole.directory, which="last").load_model().state_dict()
    assert all(torch.equal(last[name], right[name]) for name in right)
    assert not [path for path in config.directory.rglob(".*") if path.is_file()]


def test_a_disk_that_stays_full_leaves_the_last_good_checkpoint_and_an_ended_run(settings, disk):
    disk.mount(16 * MEGABYTE)
    config = settings(run__runs_dir=str(disk.place / "runs"), train__max_steps=10)
    display = Listening(config, {3: lambda: fill(disk, 0)})
    assert train_run(config, display).status == "finished"
    checkpoint, problems = newest(config.directory / "ckpt")
    assert (checkpoint.state.step, problems) == (2, [])
    assert any("journal cannot be written" in text for text in display.said)
    # With room again, the same command goes on from there.
    (disk.place / "filling").unlink()
    assert train_run(config, Quiet()).status == "finished"
    assert newest(config.directory / "ckpt")[0].state.step == 10


# By default what stands at the ends and in the midst of every file; every page, and fifty limits, with -m slow.
@pytest.mark.parametrize("pages", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_wherever_the_room_ends_within_a_save_the_checkpoint_before_is_whole(settings, disk, pages):
    disk.mount(8 * MEGABYTE)
    config = settings(run__runs_dir=str(disk.place / "runs"), train__max_steps=2)
    train_run(config, Quiet())
    size = sum(path.stat().st_size for path in (config.directory / "ckpt" / "step-00000002").iterdir())
    config = settings(run__runs_dir=str(disk.place / "runs"), run__run_name="other", **FOUR)
    page = os.sysconf("SC_PAGE_SIZE")
    outcomes = set()
    for leave in range(0, 2 * size, pages * page):
        train_run(config, filling := Listening(config, {3: lambda leave=leave: fill(disk, leave)}))
        checkpoint, problems = newest(config.directory / "ckpt")
        assert problems == []
        assert checkpoint.state.step in (2, 4)
        outcomes.add(checkpoint.state.step)
        failed = any("checkpoint of step 4 NOT saved" in text for text in filling.said)
        assert failed == (checkpoint.state.step == 2)
        assert not list((config.directory / "ckpt").glob(".*"))
        (disk.place / "filling").unlink()
        shutil.rmtree(config.directory)
    assert outcomes == {2, 4}


@pytest.mark.parametrize("limits", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_limit_on_file_sizes_at_any_offset_never_costs_what_was_saved(settings, memory, limits):
    """RLIMIT_FSIZE needs no rights, and stops a write at an exact byte, not at a page."""
    config = settings(run__runs_dir=str(memory), train__max_steps=2, run__run_name="measured")
    train_run(config, Quiet())
    largest = max(path.stat().st_size for path in (config.directory / "ckpt" / "step-00000002").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = settings(run__runs_dir=str(memory), **FOUR)
    try:
        for turn in range(limits):
            limit = 1 + turn * (largest + 1) // (limits - 1)
            display = Listening(
                config, {3: lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))}
            )
            try:
                result = train_run(config, display)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert result.status == "finished"
            checkpoint, problems = newest(config.directory / "ckpt")
            assert problems == []
            saved = checkpoint.state.step == 4
            assert saved != any("checkpoint of step 4 NOT saved" in text for text in display.said), limit
            acknowledged = [event["step"] for event in read_events(config.directory) if event["kind"] == "checkpoint"]
            assert max(acknowledged, default=0) <= checkpoint.state.step
            shutil.rmtree(config.directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_run_directory_that_turns_read_only_costs_checkpoints_and_not_the_run(settings, disk):
    disk.mount(16 * MEGABYTE)
    config = settings(run__runs_dir=str(disk.place / "runs"))
    # Open files keep a disk writable, so that the whole of it cannot turn: its directory does.
    display = Listening(config, {3: lambda: make_immutable(config.directory / "ckpt")})
    try:
        assert train_run(config, display).status == "finished"
    finally:
        make_immutable(config.directory / "ckpt", on=False)
    assert newest(config.directory / "ckpt")[0].state.step == 2
    assert any("NOT saved" in text for text in display.said)


def make_immutable(directory: Path, *, on: bool = True) -> None:
    """Let nobody, root included, change what is in a directory: the flag of `chattr +i`."""
    import array
    import fcntl

    get, put, flag = 0x80086601, 0x40086602, 0x10
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        flags = array.array("l", [0])
        fcntl.ioctl(descriptor, get, flags)
        flags[0] = flags[0] | flag if on else flags[0] & ~flag
        fcntl.ioctl(descriptor, put, flags)
    except OSError as error:
        pytest.skip(f"no immutable directories here: {error.strerror}")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("place", ["runs", "new/runs"])
def test_a_place_that_cannot_be_written_is_told_before_training(settings, disk, vgpt, place):
    disk.mount(MEGABYTE)
    disk.make_read_only()
    words = ["--data", settings().train.data, "--runs-dir", disk.place / place, "--run-name", "run", "--device", "cpu"]
    result = vgpt("train", "--tracker", "journal", *words)
    assert result.code == 1
    assert "Read-only file system" in " ".join(result.err.replace("│", " ").split())
    assert "Traceback" not in result.err


def test_a_finished_run_on_a_disk_that_is_read_only_now_can_still_be_read(settings, disk, vgpt):
    disk.mount(16 * MEGABYTE)
    config = settings(run__runs_dir=str(disk.place / "runs"))
    train_run(config, Quiet())
    disk.make_read_only()
    open_checkpoint(steps(config.directory / "ckpt")[-1])
    assert vgpt("eval", config.directory, "--device", "cpu").code == 0


def test_a_place_under_a_file_or_a_missing_parent(settings, tmp_path, vgpt):
    (tmp_path / "file").write_text("")
    words = ["--data", settings().train.data, "--run-name", "run", "--device", "cpu", "--tracker", "journal"]
    result = vgpt("train", *words, "--runs-dir", tmp_path / "file" / "runs")
    assert result.code == 1
    assert "Not a directory" in " ".join(result.err.replace("│", " ").split())
    config = settings(run__runs_dir=str(tmp_path / "not" / "yet" / "there"))
    assert train_run(config, Quiet()).status == "finished"


@pytest.mark.parametrize("kilobytes", [16, 64, 256, 512, 16_384])
def test_preparing_on_a_disk_without_room_is_a_clear_error_and_leaves_nothing(disk, kilobytes):
    disk.mount(kilobytes * 1024)
    source = str(Path(vgpt.__file__).parent)
    config = PrepareConfig(out=disk.place / "data", vocab_size=300, workers=1)
    if kilobytes == 16_384:
        prepare([source], config)
        assert (disk.place / "data" / "manifest.json").exists()
        return
    with pytest.raises(DataError, match="No space left"):
        prepare([source], config)
    assert list(disk.place.iterdir()) == []


def test_preparing_at_any_limit_of_file_sizes_is_an_error_or_a_whole_data_set(memory):
    source = str(Path(vgpt.__file__).parent / "text")
    prepare([source], PrepareConfig(out=memory / "whole", vocab_size=300, workers=1))
    largest = max(path.stat().st_size for path in (memory / "whole").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for limit in range(1, largest, largest // 12):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(VgptError, match=r"too large|no room"):
                prepare([source], PrepareConfig(out=memory / "out", vocab_size=300, workers=1))
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert [path.name for path in memory.iterdir()] == ["whole"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_without_a_home_directory_a_run_trains_all_the_same(settings, tmp_path):
    import subprocess

    config = settings(train__max_steps=2)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    program = (
        "import sys; from pathlib import Path; from vgpt.settings.train import TrainConfig\n"
        "from vgpt.training.display import Quiet; from vgpt.training.run import train_run\n"
        "print(train_run(TrainConfig.model_validate_json(Path(sys.argv[1]).read_bytes()), Quiet()).status)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "finished", done.stderr
