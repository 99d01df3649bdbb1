"""Files made to do harm: nothing in them is executed, and nothing outside is written or deleted for them."""

import ast
import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import vgpt
from vgpt.data.dataset import open_dataset
from vgpt.errors import CheckpointError, VgptError
from vgpt.files.digests import file_digest
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.presets import load_preset
from vgpt.settings.train import TrainConfig
from vgpt.text.tokenizer import Tokenizer
from vgpt.training.checkpoints.checkpoint import find_checkpoint, newest, open_checkpoint, read_tensors, rotate, steps
from vgpt.training.checkpoints.files import MANIFEST, sweep
from vgpt.training.display import Quiet
from vgpt.training.run import train_run

SOURCES = sorted(Path(vgpt.__file__).parent.rglob("*.py"))


class Bomb:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """A path that a payload would make; it must not be there at the end."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture
def config(settings, memory):
    made = settings(run__runs_dir=str(memory))
    train_run(made, Quiet())
    return made


def vouch(directory: Path) -> None:
    """Write a manifest that fits the files, as whoever made an evil checkpoint would."""
    files = [path for path in directory.iterdir() if path.name != MANIFEST]
    table = {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in files}
    (directory / MANIFEST).write_text(json.dumps({"version": 1, "files": table}))


def payloads(mark: Path, place: Path) -> list[bytes]:
    torch.save({"model": Bomb(mark)}, place / "torch")
    torch.save({"model": Bomb(mark)}, place / "legacy", _use_new_zipfile_serialization=False)
    made = [pickle.dumps(Bomb(mark), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    made += [(place / name).read_bytes() for name in ("torch", "legacy")]
    size = (1 << 63).to_bytes(8, "little")
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    made += [size + b"{}", bytes(8), b"\xff" * 64, len(header).to_bytes(8, "little") + header]
    loops = b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}'
    made += [len(loops).to_bytes(8, "little") + loops + bytes(4), (1 << 20).to_bytes(8, "little") + b"[" * (1 << 20)]
    return made


def read_all(directory: Path) -> None:
    checkpoint = open_checkpoint(directory)
    checkpoint.load_model()
    checkpoint.tokenizer()
    tensors = read_tensors(directory / "optimizer.safetensors")
    if len(tensors) < 10:
        raise CheckpointError("a resumption would miss some of them")


def test_pickles_under_a_checkpoints_names_are_refused_and_not_executed(config, mark, tmp_path):
    directory = steps(config.directory / "ckpt")[-1]
    whole = {path.name: path.read_bytes() for path in directory.iterdir()}
    for payload in payloads(mark, tmp_path):
        for name in whole.keys() - {MANIFEST}:
            (directory / name).write_bytes(payload)
            vouch(directory)
            # Two of them nothing reads while tokenizer.json is there.
            unread = name in ("tokenizer.model", "tokenizer.vocab")
            with contextlib.nullcontext() if unread else pytest.raises(VgptError):
                read_all(directory)
            (directory / name).write_bytes(whole[name])
    assert not mark.exists()


def test_an_evil_optimizer_ends_a_resumption_with_an_error(config, mark, tmp_path):
    for directory in steps(config.directory / "ckpt"):
        (directory / "optimizer.safetensors").write_bytes(pickle.dumps(Bomb(mark)))
        state = json.loads((directory / "state.json").read_text())
        (directory / "state.json").write_text(json.dumps(state | {"finished": False, "step": 1}))
        vouch(directory)
    with pytest.raises(CheckpointError, match="cannot be read"):
        train_run(config, Quiet())


@pytest.mark.parametrize(
    "state",
    [
        {"step": "many"},
        {"step": -5},
        {"step": 10**400},
        {"best_loss": "low"},
        {"loss_sum": [1]},
        {"scaler": 3},
        {"__class__": 1},
        {"step": True},
        {"batch_hash": 7},
        {"loss_count": -1},
    ],
)
def test_a_state_of_other_types_is_refused(config, state):
    directory = steps(config.directory / "ckpt")[-1]
    whole = json.loads((directory / "state.json").read_text())
    (directory / "state.json").write_text(json.dumps(whole | state))
    vouch(directory)
    with pytest.raises(CheckpointError):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "..", ".", "", "sub/file", "\0"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(config, name):
    directory = steps(config.directory / "ckpt")[-1]
    (directory.parent / "outside").write_text("x")
    table = json.loads((directory / MANIFEST).read_text())
    table["files"][name] = {"bytes": 1, "sha256": file_digest(directory.parent / "outside")}
    (directory / MANIFEST).write_text(json.dumps(table))
    with pytest.raises(CheckpointError):
        open_checkpoint(directory)


@pytest.mark.parametrize("pointer", ['"../../secret"', '"/etc"', '".."', '["step-00000006"]', "[" * 100_000, "\xff"])
def test_a_pointer_that_leads_elsewhere_is_not_followed(config, pointer):
    (config.directory / "ckpt" / "best").write_text(pointer)
    assert find_checkpoint(config.directory).directory.parent == config.directory / "ckpt"


@pytest.fixture
def precious(tmp_path):
    """A folder outside that must be as it was."""
    place = tmp_path / "precious"
    place.mkdir()
    (place / "file").write_text("keep me")
    (place / MANIFEST).write_text("{}")
    yield place
    assert (place / "file").read_text() == "keep me"
    assert {path.name for path in place.iterdir()} == {"file", MANIFEST}


def test_rotation_and_sweeping_follow_no_links(config, precious):
    ckpt = config.directory / "ckpt"
    for name in ("step-00000001", "step-00000002", ".tmp-step-00000009-1", ".del-step-00000009-1"):
        (ckpt / name).symlink_to(precious, target_is_directory=True)
    (ckpt / "step-00000003").mkdir()
    (ckpt / "step-00000003" / "inner").symlink_to(precious, target_is_directory=True)
    (ckpt / "step-1").mkdir()
    (ckpt / "notes").mkdir()
    sweep(ckpt)
    rotate(ckpt, 1, steps(ckpt)[-1])
    assert (ckpt / "notes").exists()
    assert (ckpt / "step-1").exists()
    assert not (ckpt / "step-00000003").exists()


def test_links_in_the_place_of_files_are_not_written_through(settings, tmp_path):
    victim = tmp_path / "victim"
    config = settings(train__max_steps=2)
    config.directory.mkdir(parents=True)
    for name in ("mha.log", "metrics.jsonl", "events.jsonl", "run.lock", "settings.json", "summary.json"):
        victim.write_text("keep me")
        (config.directory / name).symlink_to(victim)
        with contextlib.suppress(OSError, VgptError):
            train_run(config, Quiet())
        assert victim.read_text() == "keep me", name
        shutil.rmtree(config.directory)
        config.directory.mkdir()
    for pid_name in (f".tmp-step-00000002-{os.getpid()}", "last", "best"):
        (config.directory / "ckpt").mkdir(exist_ok=True)
        (config.directory / "ckpt" / pid_name).symlink_to(victim)
    train_run(config, Quiet())
    assert victim.read_text() == "keep me"


def test_a_checkpoint_made_of_links_is_refused(config, tmp_path):
    directory = steps(config.directory / "ckpt")[-1]
    shutil.move(directory / "model.safetensors", tmp_path / "elsewhere")
    (directory / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="no plain file"):
        open_checkpoint(directory)
    assert newest(config.directory / "ckpt")[0].state.step == 6


def bombs(whole: dict) -> dict[str, bytes]:
    """Return texts of tokenizer.json that ask for more than there is, or go round in circles."""

    def changed(**model) -> bytes:
        return json.dumps(whole | {"model": whole["model"] | model}).encode()

    vocab = whole["model"]["vocab"]
    letters = sorted(vocab, key=vocab.get)[:256]
    doubling, token = [], letters[97]
    doubled = dict(list(vocab.items())[:256])
    for _ in range(40):
        doubling.append([token, token])
        token += token if len(token) < 1 << 16 else ""
        doubled[token] = len(doubled)
    first, second = letters[97], letters[98]
    return {
        "merges that double a token forty times": changed(vocab=doubled, merges=doubling),
        "merges of tokens made later": changed(merges=[[first + second, first], [first, second]]),
        "a merge with itself in it": changed(merges=[[first + second, first + second]] * 3),
        "a hundred thousand equal merges": changed(merges=[[first, second]] * 100_000),
        "more than a million merges": b'{"model": {"type": "BPE", "merges": ['
        + b'["a","b"],' * 1_000_001
        + b'["a","b"]]}}',
        "nesting without end": b"[" * 200_000,
        "objects without end": b'{"a":' * 200_000,
        "a number without end": b'{"version": ' + b"9" * 1_000_000 + b"}",
        "sixty-five megabytes": b'{"a": "' + b"x" * (65 << 20) + b'"}',
        "ids in the sky": changed(vocab={name: i * 10**12 for name, i in vocab.items()}),
        "a pattern that backtracks": json.dumps(whole)
        .replace(json.dumps(whole["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]), '"(a|aa)+$"')
        .encode(),
        "special tokens that lie": json.dumps(whole | {"added_tokens": [{"id": -1, "content": "x"}] * 1000}).encode(),
        "a dictionary in place of a list": json.dumps(whole | {"added_tokens": {"a": 1}}).encode(),
        "nothing": b"",
    }


def test_tokenizer_bombs_are_refused_in_time(corpus, tmp_path):
    whole = json.loads((corpus / "tokenizer.json").read_text())
    path = tmp_path / "tokenizer.json"
    for name, content in bombs(whole).items():
        path.write_bytes(content)
        began = time.process_time()
        with pytest.raises(VgptError):
            Tokenizer.load(path)
        assert time.process_time() - began < 15, name


def test_a_data_set_cannot_reach_outside_its_folder(corpus, tmp_path):
    place = tmp_path / "data"
    shutil.copytree(corpus, place)
    table = json.loads((place / MANIFEST).read_text())
    for name in ("../secret", "/etc/passwd", "sub/../../secret"):
        evil = table | {"files": table["files"] | {name: table["files"]["train.bin"]}}
        (place / MANIFEST).write_text(json.dumps(evil))
        with pytest.raises(VgptError):
            open_dataset(place, verify=True)


def test_presets_are_data_and_execute_nothing(mark, tmp_path):
    evil = tmp_path / "evil.toml"
    attempts = [
        f'[run]\nrun_name = "$(mkdir {mark})"',
        f'[run]\nruns_dir = "`mkdir {mark}`"\nrun_name = "../x"',
        f"__import__('os').mkdir('{mark}')",
        f'[model.attn]\nkind = "os:mkdir"\nmodule = "{mark}"',
        f'[plugins]\npaths = ["{tmp_path}/evil.py"]',
        '[model]\nattn = {kind = "mha", __class__ = "os.system"}',
    ]
    (tmp_path / "evil.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    for text in attempts:
        evil.write_text(text)
        with pytest.raises(VgptError):
            load_settings(TrainConfig, Sources(load_preset(str(evil)), {}, {}, {}))


@pytest.mark.slow
def test_a_module_beside_the_user_is_not_imported_in_place_of_a_library(mark, corpus, tmp_path):
    """Started in a folder of unknown origin, vgpt imports nothing that lies there."""
    for name in ("torch", "mlflow", "json", "numpy", "vgpt_plugin", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"import os; os.makedirs({str(mark)!r}, exist_ok=True)")
    program = "from vgpt.cli.app import main; main()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = ["train", "--data", str(corpus), "--max-steps", "1", "--n-layer", "1", "--n-embd", "16", "--n-head", "2"]
    words += ["--device", "cpu", "--dtype", "float32", "--eval-windows", "2", "--block-size", "16", "--batch-size", "2"]
    # As the installed command does: the folder of the script, not the working directory, is on the path.
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *words], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not mark.exists()


UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "torch.distributed.checkpoint.filesystem",
}


def test_the_package_unpickles_and_evaluates_nothing():
    for node in [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]:
        if isinstance(node, ast.Import):
            assert not {name.name for name in node.names} & UNSAFE_MODULES
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in UNSAFE_MODULES
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in UNSAFE_CALLS | {"torch.load", "np.load", "numpy.load", "os.system", "yaml.load"}, name
            for word in node.keywords:
                literal = isinstance(word.value, ast.Constant) and word.value.value
                assert not (word.arg in ("shell", "allow_pickle", "trust_remote_code") and literal), name
                assert not (word.arg == "weights_only" and literal is False), name
