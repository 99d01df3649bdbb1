import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file

from vgpt.errors import CheckpointError
from vgpt.training.checkpoints.checkpoint import find_checkpoint, newest, open_checkpoint, rotate, steps
from vgpt.training.checkpoints.files import write_directory
from vgpt.training.display import Quiet
from vgpt.training.run import train_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus):
    from vgpt.settings.train import TrainConfig

    config = TrainConfig.model_validate(
        {
            "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
            "train": {"data": str(corpus), "batch_size": 2, "max_steps": 6, "eval_interval": 2, "eval_windows": 4},
            "system": {"device": "cpu", "dtype": "float32"},
            "run": {
                "run_name": "one",
                "runs_dir": str(tmp_path_factory.mktemp("runs")),
                "tracker": "journal",
                "save_interval": 2,
            },
        }
    )
    train_run(config, Quiet())
    return config


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run to damage."""
    place = tmp_path / "runs" / "one"
    shutil.copytree(trained.directory, place)
    return place


def test_a_checkpoint_holds_safetensors_and_json_alone(run):
    files = {path.name for path in steps(run / "ckpt")[-1].iterdir()}
    assert {"model.safetensors", "optimizer.safetensors", "state.json", "settings.json", "model.json"} <= files
    assert {path.suffix for path in steps(run / "ckpt")[-1].iterdir()} <= {".safetensors", ".json", ".model", ".vocab"}


def test_the_newest_and_the_best_are_kept(run):
    names = [path.name for path in steps(run / "ckpt")]
    best = json.loads((run / "ckpt" / "best").read_text())
    assert set(names) == {"step-00000004", "step-00000006", best}


@pytest.mark.parametrize("part", ["", "ckpt", "ckpt/last", "ckpt/step-00000006"])
def test_a_run_is_found_by_directory_checkpoint_directory_and_pointer(run, part):
    assert find_checkpoint(run / part, which="last").state.step == 6


def test_a_run_is_found_by_name(run):
    assert find_checkpoint("one", runs_dir=run.parent, which="last").state.step == 6


def test_a_missing_run_names_those_that_are_there(run):
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("two", runs_dir=run.parent)
    assert "Runs here: one." in caught.value.hint


def test_every_single_flipped_bit_is_detected(run):
    directory = steps(run / "ckpt")[-1]
    chooser = random.Random(0)
    files = sorted(directory.iterdir())
    for _ in range(100):
        path = chooser.choice(files)
        content = bytearray(path.read_bytes())
        where = chooser.randrange(len(content))
        content[where] ^= 1 << chooser.randrange(8)
        before = path.read_bytes()
        path.write_bytes(content)
        if path.name == "manifest.json":
            # A flip in the list itself either breaks it or contradicts the files; white space may change harmlessly.
            try:
                open_checkpoint(directory)
                assert json.loads(bytes(content))["files"] == json.loads(before)["files"]
            except CheckpointError:
                pass
        else:
            with pytest.raises(CheckpointError):
                open_checkpoint(directory)
        path.write_bytes(before)
    open_checkpoint(directory)


def test_truncation_is_detected_and_the_one_before_is_used(run):
    path = steps(run / "ckpt")[-1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    checkpoint, problems = newest(run / "ckpt")
    assert checkpoint is not None
    assert checkpoint.state.step == 4
    assert len(problems) == 1
    assert "truncated" in problems[0]


def test_a_manifest_that_names_files_elsewhere_is_refused(run):
    directory = steps(run / "ckpt")[-1]
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"]["../../settings.json"] = {"bytes": 1, "sha256": ""}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        open_checkpoint(directory)


def test_an_interrupted_write_leaves_the_target_as_it_was(tmp_path):
    target = tmp_path / "step"
    write_directory(target, lambda place: (place / "a").write_text("first") and None)

    def fail(place):
        (place / "a").write_text("second")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_directory(target, fail)
    assert (target / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["step"]


def test_rotation_removes_nothing_that_is_not_a_checkpoint(run, tmp_path):
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    (run / "ckpt" / "step-00000001").symlink_to(elsewhere)
    (run / "ckpt" / "step-notes").mkdir()
    rotate(run / "ckpt", 1, steps(run / "ckpt")[-1])
    assert elsewhere.exists()
    assert (run / "ckpt" / "step-notes").exists()
    assert [path.name for path in steps(run / "ckpt")][-1] == "step-00000006"


def test_weights_come_back_as_they_were_saved(run):
    checkpoint = find_checkpoint(run, which="last")
    stored = load_file(checkpoint.directory / "model.safetensors")
    model = checkpoint.load_model()
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in model.state_dict().items())
