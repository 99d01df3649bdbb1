"""Damaged checkpoints: whatever happened to their bytes is found before one of them is used."""

import json
import os
import random
import shutil

import pytest
from safetensors.torch import load_file

from vgpt.errors import CheckpointError
from vgpt.tracking.journal import read_metrics
from vgpt.training.checkpoints.checkpoint import find_checkpoint, newest, open_checkpoint, rotate, steps
from vgpt.training.display import Quiet
from vgpt.training.run import train_run


class Listening(Quiet):
    def __init__(self):
        self.said = []

    def notify(self, message):
        self.said.append(message)


@pytest.fixture
def config(settings, memory):
    """A finished run with checkpoints of steps 6 and 8, the best among them."""
    made = settings(run__runs_dir=str(memory))
    train_run(made, Quiet())
    return made


def listing(manifest: bytes) -> object:
    return json.loads(manifest)["files"]


def damaged(directory, path, content: bytes) -> bool:
    """Write other bytes into a file of a checkpoint; tell whether opening it finds them; put the old ones back."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        open_checkpoint(directory)
    except CheckpointError:
        return True
    finally:
        path.write_bytes(before)
    # White space of the manifest is nothing that could be damaged.
    return path.name == "manifest.json" and listing(content) == listing(before)


def test_a_thousand_flipped_bits_are_all_found(config):
    directory = steps(config.directory / "ckpt")[-1]
    chance = random.Random(1)
    files = sorted(directory.iterdir())
    for turn in range(1000):
        path = files[turn % len(files)]
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        assert damaged(directory, path, bytes(content)), (path, turn)
    open_checkpoint(directory)


def test_files_cut_at_a_hundred_places_are_all_found(config):
    directory = steps(config.directory / "ckpt")[-1]
    chance = random.Random(2)
    files = sorted(directory.iterdir())
    for turn in range(100):
        path = files[turn % len(files)]
        content = path.read_bytes()
        assert damaged(directory, path, content[: chance.randrange(len(content) - 1)]), (path, turn)
    open_checkpoint(directory)


def test_a_missing_file_is_found_and_so_is_one_too_many(config):
    directory = steps(config.directory / "ckpt")[-1]
    for path in sorted(directory.iterdir()):
        aside = path.rename(directory.parent / path.name)
        with pytest.raises(CheckpointError):
            open_checkpoint(directory)
        aside.rename(path)
    # What the manifest does not vouch for might be read all the same, such as a tokenizer of another format.
    (directory / "tokenizer.extra").write_text("who wrote this?")
    with pytest.raises(CheckpointError, match=r"tokenizer\.extra"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "{}",
        '{"version": 1, "files": {}}',
        '{"version": 2, "files": {}}',
        "[" * 100_000,
        '{"files": 3}',
        "nan",
    ],
)
def test_a_manifest_that_vouches_for_nothing_is_refused(config, manifest):
    directory = steps(config.directory / "ckpt")[-1]
    (directory / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError):
        open_checkpoint(directory)


def test_a_manifest_without_the_weights_is_refused(config):
    directory = steps(config.directory / "ckpt")[-1]
    table = json.loads((directory / "manifest.json").read_text())
    del table["files"]["model.safetensors"]
    (directory / "manifest.json").write_text(json.dumps(table))
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(directory)


def test_a_checkpoint_of_another_version_is_refused_with_the_way_out(config):
    directory = steps(config.directory / "ckpt")[-1]
    table = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps(table | {"version": 2}))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory)
    assert "version 2" in caught.value.message
    assert "vgpt" in caught.value.hint


def flip(directory) -> None:
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_one_before_takes_the_place_of_a_damaged_one_and_ends_in_the_same_bits(config):
    directory = config.directory / "ckpt"
    # Tensors read from a mapped file would change with it.
    before = {name: tensor.clone() for name, tensor in load_file(steps(directory)[-1] / "model.safetensors").items()}
    flip(steps(directory)[-1])
    display = Listening()
    assert train_run(config, display).status == "finished"
    (told,) = [text for text in display.said if "damaged checkpoint left out" in text]
    assert "step-00000008" in told
    assert any("at step 6" in text for text in display.said)
    after = load_file(find_checkpoint(config.directory, which="last").directory / "model.safetensors")
    assert all((before[name] == after[name]).all() for name in before)


def test_a_run_of_which_no_checkpoint_is_whole_is_not_begun_anew_unasked(config):
    directory = config.directory / "ckpt"
    for path in steps(directory):
        flip(path)
    metrics = (config.directory / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError) as caught:
        train_run(config, Quiet())
    assert "step-00000008" in caught.value.message
    assert "--run-name" in caught.value.hint
    assert (config.directory / "metrics.jsonl").read_bytes() == metrics


def test_pointers_that_a_kill_left_behind_are_mended(config):
    directory = config.directory / "ckpt"
    want = {name: json.loads((directory / name).read_text()) for name in ("last", "best")}
    (directory / "best").unlink()
    (directory / "last").write_text(json.dumps(steps(directory)[0].name))
    train_run(config, Quiet())
    assert {name: json.loads((directory / name).read_text()) for name in ("last", "best")} == want


def test_a_damaged_checkpoint_of_a_later_step_costs_no_new_one_its_place(config):
    """Rotation counts from the checkpoint just written: a leftover of a later step must not push it out."""
    directory = config.directory / "ckpt"
    new = directory / "step-00000007"
    shutil.copytree(steps(directory)[-1], new)
    rotate(directory, 1, new)
    assert new.is_dir()
    assert (directory / "step-00000008").is_dir()


def test_a_run_that_died_before_its_summary_sums_up_once(config):
    before = [(point.step, sorted(point.metrics)) for point in read_metrics(config.directory)]
    (config.directory / "summary.json").unlink()
    assert train_run(config, Quiet()).status == "finished"
    assert [(point.step, sorted(point.metrics)) for point in read_metrics(config.directory)] == before


def test_an_early_end_is_one_even_where_the_process_died_before_its_summary(settings):
    config = settings(train__lr=1.0, train__eval_interval=1, train__patience=2, train__max_steps=60)
    assert train_run(config, Quiet()).status == "early"
    end = find_checkpoint(config.directory, which="last").state.step
    (config.directory / "summary.json").unlink()
    assert train_run(config, Quiet()).status == "early"
    assert find_checkpoint(config.directory, which="last").state.step == end
    assert (config.directory / "summary.json").exists()


def test_a_hole_in_the_middle_is_found_though_the_size_is_right(config):
    """What a crash of the machine leaves of a file that was never flushed: the right length, zeros inside."""
    directory = steps(config.directory / "ckpt")[-1]
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        content = bytearray((directory / name).read_bytes())
        middle = len(content) // 2
        content[middle : middle + 16] = bytes(16)
        assert damaged(directory, directory / name, bytes(content))


def test_a_checkpoint_that_cannot_be_listed_is_an_error_and_no_traceback(config):
    directory = config.directory / "ckpt"
    shutil.rmtree(directory / "step-00000008")
    (directory / "step-00000008").mkdir()
    checkpoint, problems = newest(directory)
    assert checkpoint is not None
    assert checkpoint.state.step == 6
    assert len(problems) == 1
    os.mkfifo(directory / "step-00000008" / "manifest.json")
    assert len(newest(directory)[1]) == 1
