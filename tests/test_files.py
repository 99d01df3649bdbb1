"""One rule for what a person names: paths, text, JSON, TOML, and what may be replaced."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vgpt.files.digests import digest_if_there, file_digest, json_digest, size_and_digest
from vgpt.files.paths import access_hint, format_name, may_replace, near_place, plain_place, typed_name, user_path
from vgpt.files.text import parse_json, parse_toml, read_text, wide_encoding
from vgpt.files.writing import draft_of, replace_bytes, replace_json
from vgpt.settings.commands import EvalConfig, PrepareConfig, RunsConfig
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.train import TrainConfig


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_is_the_home_directory_and_a_name_that_only_begins_with_one_stays(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert user_path("~/a b") == home / "a b"
    assert user_path("~") == home
    assert user_path("~draft.txt") == Path("~draft.txt")
    with pytest.raises(ValueError, match=r"nobody here is called 'no-such-person'.*\./~no-such-person/d"):
        user_path("~no-such-person/d")


@pytest.mark.parametrize(
    ("model", "name", "read"),
    [
        (PrepareConfig, "out", lambda s: s.out),
        (PrepareConfig, "vocab_dir", lambda s: s.vocab_dir),
        (RunsConfig, "runs_dir", lambda s: s.runs_dir),
        (TrainConfig, "runs_dir", lambda s: s.run.runs_dir),
        (TrainConfig, "data", lambda s: Path(s.train.data)),
        (TrainConfig, "init_from", lambda s: Path(s.train.init_from)),
        (EvalConfig, "data", lambda s: Path(s.data)),
    ],
)
@pytest.mark.parametrize("source", ["command_line", "environment"])
def test_every_setting_that_is_a_path_knows_the_home_directory(home, model, name, read, source):
    key = name if source == "command_line" else f"VGPT_{name.upper()}"
    values = {key: "~/d"} | ({"tokenizer": "gpt2"} if name == "vocab_dir" and source == "command_line" else {})
    if name == "vocab_dir" and source == "environment":
        values["VGPT_TOKENIZER"] = "gpt2"
    assert read(load_settings(model, Sources(**{source: values})).settings) == home / "d"


def test_places_that_are_the_same_have_one_spelling_and_the_demo_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {plain_place(text) for text in ("d", "d/", "./d", "d//", "./x/../d")} == {"d"}
    assert (plain_place("demo"), plain_place("./demo")) == ("demo", "./demo")
    assert near_place(tmp_path / "a" / "b") == "a/b"
    assert near_place(Path("a/../b")) == "b"
    assert near_place(tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")


def test_a_name_of_any_bytes_can_be_shown(tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    assert format_name(name) == "caf\\xe9.txt"
    assert format_name("café.txt") == "café.txt"


@pytest.mark.parametrize("name", [b"a b.txt", b"it's.txt", b"caf\xe9's $x.txt", "ü.txt".encode(), b"\xff"])
def test_a_name_that_is_typed_from_a_hint_is_that_file(tmp_path, name):
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_text("found")
    command = f"cat {typed_name(os.fsdecode(name))}"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True).stdout == "found"


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "marked"
    path.write_bytes(b"\xef\xbb\xbf[a]\nb = 1\n")
    assert read_text(path) == "[a]\nb = 1\n"
    assert parse_toml(path) == {"a": {"b": 1}}
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == parse_json('\ufeff{"a": 1}') == {"a": 1}


def test_integers_of_any_length_are_json():
    found = parse_json('{"text": "a", "n": ' + "7" * 5000 + ', "m": -12}')
    assert found == {"text": "a", "n": float("inf"), "m": -12}
    assert isinstance(found["m"], int)
    assert json.loads('{"n": 3}') == parse_json('{"n": 3}')


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_told_from_text_and_from_what_is_none(encoding):
    text = "It was the best of times.\n" * 3
    name = wide_encoding(text.encode(encoding))
    assert name is not None
    assert text.encode(encoding).decode(name) == text
    assert wide_encoding(text.encode()) is None
    assert wide_encoding(bytes(range(256))) is None
    assert wide_encoding(np.arange(65, dtype="<u2").tobytes() * 9) is None, "token ids of single letters"
    assert wide_encoding(b"") is None


def test_what_is_not_permitted_is_no_damage():
    assert "chmod" in access_hint(PermissionError(13, "Permission denied"), "prepare again")
    assert access_hint(FileNotFoundError(2, "none"), "prepare again") == "prepare again"


@pytest.mark.parametrize(
    ("kind", "own"), [(".png", b"\x89PNG\r\n"), (".svg", b"<?xml version"), (".html", b"<!DOCTYPE html>")]
)
def test_a_picture_or_a_page_replaces_its_own_kind_alone(tmp_path, kind, own):
    path = tmp_path / f"a{kind}"
    assert may_replace(path, kind)
    path.write_bytes(own)
    assert may_replace(path, kind)
    path.write_bytes(b"import os\n")
    assert not may_replace(path, kind)
    assert not may_replace(tmp_path, kind)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "record.json"
    replace_json(file, {"n": 1}, sync=True)

    def fill() -> None:
        with draft_of(file) as draft:
            draft.write_text("half of")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fill()
    with pytest.raises(TypeError):
        replace_json(file, {"n": object()})
    with pytest.raises(OSError, match="nowhere"):
        replace_bytes(tmp_path / "nowhere" / "record.json", b"")
    assert json.loads(file.read_text()) == {"n": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_never_finds_half_a_file(tmp_path):
    file = tmp_path / "record.json"
    replace_bytes(file, b"old")
    with file.open("rb") as reader:
        replace_bytes(file, b"new", sync=True)
        assert (reader.read(), file.read_bytes()) == (b"old", b"new")


def test_digests_are_those_of_sha256sum(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(bytes(range(256)) * 9000)
    told = subprocess.run(["sha256sum", str(file)], capture_output=True, text=True, check=True).stdout.split()[0]
    assert size_and_digest(file) == (256 * 9000, told)
    assert file_digest(file) == digest_if_there(file) == told
    assert digest_if_there(tmp_path / "b") == ""
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1}) != json_digest({"a": 1, "b": [3]})
