"""Random configurations and mutated files: whatever they hold, a person gets an error of vgpt's, never a traceback."""

import json
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vgpt.cli.app import build_app
from vgpt.data.dataset import open_dataset
from vgpt.errors import SettingsError, UsageError, VgptError
from vgpt.settings.commands import EvalConfig, PrepareConfig, SampleConfig
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import leaves
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.presets import Preset, load_preset
from vgpt.settings.train import TrainConfig

COMMANDS = {
    "train": TrainConfig,
    "prepare": PrepareConfig,
    "compare": CompareConfig,
    "eval": EvalConfig,
    "sample": SampleConfig,
}
WORDS = [
    *("", " ", "none", "None", "null", "true", "0", "-1", "1", "2", "3", "7", "16", "64", "1e3", "1e400", "-1e-400"),
    *("nan", "inf", "-inf", "1_000", "0x10", "1.5", "9" * 400, "9" * 5000, "18446744073709551616", "\x00", "\x1b[31m"),
    *("a" * 10_000, "../../etc/passwd", "/dev/null", "~", "$HOME", "%s%n", "{0.__class__}", "[red]", "<script>"),
    *("\ud800", "\u202e", "\U0001f600", "\n", "\r\n", "a=b", "=", ":", ",", ",,,", "--", "-", "*", "[", "(((", "\\"),
    *("mha", "mqa", "gqa", "mix", "gqa:n_kv_head=2", "gqa:n_kv_head=x", "gqa:", "gqa:=", "gqa:n_kv_head", "mha,mqa"),
    *("5xmha+gqa", "0xmha", "999999999xmha", "mha+", "+", "xmha", "5x", "-3xmha", "mix:pattern=mha", "(2xmha+gqa)"),
    *("float32", "bfloat16", "cuda:0", "cuda:-1", "cpu", "learned", "rope", "gelu", "ddp", "documents"),
]
VALUES = [None, True, False, 0, -1, 3, 2**70, 1.5, float("nan"), float("inf"), [], [1, [2]], {}, {"kind": "mha"}, b"x"]


def word(chance: random.Random) -> str:
    """Return a value as somebody, or something, might type it."""
    if chance.random() < 0.8:
        return chance.choice(WORDS)
    alphabet = string.printable if chance.random() < 0.7 else "".join(map(chr, range(0x80, 0x500)))
    return "".join(chance.choices(alphabet, k=chance.randrange(30)))


def table(chance: random.Random, depth: int = 0) -> object:
    """Return what a preset might hold: anything that TOML can say, under known and unknown names."""
    kind = chance.random()
    if depth > 2 or kind < 0.3:
        return chance.choice([*VALUES, word(chance)])
    sections = ["model", "train", "system", "workers", "run", "attn", "kind", "mha", "gqa", "mix", "pattern", "lr", ""]
    known = [*sections, *leaves(TrainConfig)]
    names = [chance.choice(known) if chance.random() < 0.9 else word(chance) for _ in range(chance.randrange(5))]
    return {name: table(chance, depth + 1) for name in names}


@pytest.mark.parametrize("cases", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_random_settings_from_all_sources_are_taken_or_refused_and_nothing_else(cases):
    chance = random.Random(cases)
    taken = refused = 0
    for _ in range(cases):
        model = chance.choice(list(COMMANDS.values()))
        known = leaves(model)
        names = list(known)
        line = {name: word(chance) for name in chance.sample(names, min(len(names), chance.choice([0, 1, 1, 2, 5])))}
        environment = {known[name].env: word(chance) for name in chance.sample(names, chance.choice([0, 0, 1, 2]))}
        dotenv = {known[name].env: word(chance) for name in chance.sample(names, chance.choice([0, 0, 1]))}
        content = table(chance) if chance.random() < 0.3 else None
        preset = Preset("fuzz.toml", content) if isinstance(content, dict) else None
        sources = Sources(preset, dotenv, environment, line)
        try:
            loaded = load_settings(model, sources)
            # What is taken can be written down and read back.
            text = loaded.settings.model_dump_json()
            assert model.model_validate_json(text) == loaded.settings
            taken += 1
        except (SettingsError, UsageError) as error:
            assert error.message.strip()  # noqa: PT017 - either way out is fine
            refused += 1
        except Exception as error:
            raise AssertionError(f"{model.__name__} {sources}: {type(error).__name__}: {error}") from error
    assert taken > cases / 20
    assert refused > cases / 20


@pytest.mark.parametrize("cases", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_command_lines_end_with_an_exit_code_and_no_traceback(cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = build_app()
    chance = random.Random(cases)
    for _ in range(cases):
        command = chance.choice(list(COMMANDS))
        flags = [leaf.flag for leaf in leaves(COMMANDS[command]).values()]
        line = [command, "--show-settings"]
        for _ in range(chance.randrange(5)):
            flag = chance.choice(flags) if chance.random() < 0.9 else f"--{word(chance)}"
            line += [flag, word(chance)] if chance.random() < 0.8 else [f"{flag}={word(chance)}"]
        result = CliRunner().invoke(app, line)
        assert result.exception is None or isinstance(result.exception, SystemExit), (line, result.exception)
        assert result.exit_code in (0, 1, 2), line
        assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cases", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_presets_are_toml_or_an_error(tmp_path, cases):
    chance = random.Random(cases)
    path = tmp_path / "fuzz.toml"
    whole = (Path(__file__).parents[2] / "presets" / "demo.toml").read_bytes()
    for _ in range(cases):
        content = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(content))
            content[place : place + chance.randrange(3)] = bytes(chance.choices(range(256), k=chance.randrange(4)))
        path.write_bytes(content)
        try:
            load_settings(TrainConfig, Sources(load_preset(str(path)), {}, {}, {}))
        except UsageError:
            pass
        except Exception as error:
            raise AssertionError(f"{bytes(content)!r}: {type(error).__name__}: {error}") from error
    for text in ("a = " + "[" * 50_000, "[" + "a." * 50_000 + "a]\nb = 1", 'a = "' + "x" * 10**6 + '"'):
        path.write_text(text)
        with pytest.raises(UsageError):
            load_settings(TrainConfig, Sources(load_preset(str(path)), {}, {}, {}))


@pytest.mark.parametrize(
    "name", ["x" * 81, "", ".", "..", ".hidden", "a/b", "a\\b", "a\0b", "a\nb", "a b", "-a", "a\u00e9"]
)
def test_names_that_could_leave_the_runs_directory_are_refused(name):
    with pytest.raises(SettingsError):
        load_settings(TrainConfig, Sources(command_line={"run_name": name}))


@pytest.mark.parametrize("cases", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_names_stay_below_the_runs_directory(tmp_path, cases):
    chance = random.Random(3)
    for _ in range(cases):
        name = "".join(chance.choices("ab./\\~-_ \x00\n:%\u2025\uff0e", k=chance.randrange(1, 12)))
        try:
            loaded = load_settings(TrainConfig, Sources(command_line={"run_name": name, "runs_dir": str(tmp_path)}))
        except SettingsError:
            continue
        assert loaded.settings.directory.resolve().parent == tmp_path.resolve()


MUTATE = """
import random, shutil, sys
from pathlib import Path
from vgpt.data.batches import BatchSource
from vgpt.data.dataset import open_dataset
from vgpt.errors import DataError, VgptError
whole, place, cases, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(seed)
names = ["train.bin", "val.bin", "manifest.json", "manifest.json", "tokenizer.json"]
shutil.copytree(whole, place)
refused = opened = 0
for case in range(cases):
    name = chance.choice(names)
    content = bytearray((whole / name).read_bytes())
    kind = chance.choice(["cut", "grow", "flip", "splice", "empty", "odd", "other"])
    if kind == "cut": del content[chance.randrange(len(content)):]
    elif kind == "grow": content += bytes(chance.choices(range(256), k=chance.randrange(1, 5000)))
    elif kind == "flip":
        for _ in range(chance.randrange(1, 20)): content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == "splice":
        start = chance.randrange(len(content)); del content[start:start + chance.randrange(1, 300)]
    elif kind == "empty": content.clear()
    elif kind == "odd": del content[-1]
    else: content = bytearray(chance.choices(range(256), k=chance.randrange(4000)))
    (place / name).write_bytes(content)
    try:
        data = open_dataset(place)
        # What opens can be read to its last byte.
        assert max(int(data.train.tokens[-1]), int(data.val.tokens.max())) < data.manifest.vocab_size
        BatchSource(data.train.tokens, 16, 2, 1).batch(3)
        opened += 1
    except VgptError as error:
        assert str(error).strip()
        refused += 1
    (place / name).write_bytes((whole / name).read_bytes())
print(refused, opened)
"""


def test_two_hundred_mutated_data_sets_end_in_an_error_of_ours_and_no_signal(corpus, tmp_path):
    """In a process of its own: a map that ends too early would kill it by SIGBUS, as it would a training run."""
    words = [sys.executable, "-c", MUTATE, str(corpus), str(tmp_path / "mutated"), "200", "11"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused, opened = map(int, done.stdout.split())
    assert refused + opened == 200
    assert refused > 150


def test_a_manifest_nested_without_end_is_refused(corpus, tmp_path):
    import shutil

    shutil.copytree(corpus, tmp_path / "data")
    for text in ("[" * 100_000, '{"a":' * 100_000, json.dumps({"files": {}}) + " " * 10 + "[" * 1000):
        (tmp_path / "data" / "manifest.json").write_text(text)
        with pytest.raises(VgptError):
            open_dataset(tmp_path / "data")
