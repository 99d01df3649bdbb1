"""Which data is meant where none is named."""

import json
import os
from pathlib import Path

import pytest

from vgpt.settings.commands import PrepareConfig
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.prepared import POINTER, PREPARED, find_prepared, remember_prepared
from vgpt.settings.presets import load_preset
from vgpt.settings.train import TrainConfig


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data_set(place: str, inputs: tuple[str, ...] = ("a.txt",), age: int = 0) -> Path:
    folder = Path(place)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"format": "vgpt-data", "source": {"inputs": inputs}}))
    os.utime(folder / "manifest.json", (1e9 - age, 1e9 - age))
    return folder


def load(preset=None, **command_line):
    loaded = load_settings(TrainConfig, Sources(preset, command_line=command_line, look_around=True))
    return loaded.settings.train.data, loaded.origins["data"]


def test_nothing_prepared_means_the_demo(here):
    assert load() == ("demo", "default")
    data_set("data/demo", ("demo",))
    assert load() == ("demo", "default"), "what train prepares by itself is not what a person prepared"


def test_the_data_prepared_last_is_meant_wherever_it_lies(here, tmp_path_factory):
    remember_prepared(data_set("data/corpus"))
    assert load() == ("data/corpus", PREPARED)
    elsewhere = data_set(str(tmp_path_factory.mktemp("disk") / "set"))
    remember_prepared(elsewhere)
    assert load() == (str(elsewhere), PREPARED)
    remember_prepared(here / "data" / "corpus")
    assert load() == ("data/corpus", PREPARED)


def test_what_is_said_goes_before_what_is_found(here, monkeypatch):
    remember_prepared(data_set("data/corpus"))
    assert load(data="other") == ("other", "command line")
    assert load(load_preset("demo")) == ("demo", "preset demo")
    monkeypatch.setenv("VGPT_DATA", "third")
    assert load_settings(TrainConfig, Sources.here(None, {})).settings.train.data == "third"


def test_a_folder_that_is_gone_is_still_named_and_said_to_be_gone(here):
    folder = data_set("data/corpus")
    data_set("data/older", age=9)
    remember_prepared(folder)
    folder.rename("moved")
    assert load() == ("data/corpus", f"{PREPARED}, but gone")


def test_without_a_pointer_the_newest_data_set_below_data_counts(here):
    data_set("data/first", age=50)
    data_set("data/second", age=20)
    data_set("data/demo", ("demo",), age=1)
    assert load() == ("data/second", PREPARED)


def test_a_run_that_is_continued_or_forked_keeps_its_data(here):
    directory = Path("runs/mine")
    directory.mkdir(parents=True)
    config = load_settings(TrainConfig, Sources(command_line={"data": "data/first"})).settings
    (directory / "settings.json").write_text(config.model_dump_json())
    remember_prepared(data_set("data/second"))
    assert load(run_name="mine") == ("data/first", "the run mine")
    assert load(run_name="new", fork="mine") == ("data/first", "the run mine")
    assert load(run_name="new", fork="runs/mine/ckpt/step-00000004") == ("data/first", "the run mine")
    assert load(run_name="new") == ("data/second", PREPARED)
    assert load(run_name="new", fork="mine", data="data/second") == ("data/second", "command line")


@pytest.mark.parametrize("content", ["", "{", '{"data": "x"}', "[1]", '{"format": "vgpt-data-pointer", "data": 3}'])
def test_a_file_of_that_name_that_is_not_ours_is_neither_believed_nor_replaced(here, content):
    POINTER.write_text(content)
    assert find_prepared() is None
    with pytest.raises(OSError, match="no file of vgpt's"):
        remember_prepared(data_set("data/corpus"))
    assert POINTER.read_text() == content


def test_commands_that_train_nothing_look_for_no_data(here):
    remember_prepared(data_set("data/corpus"))
    assert "data" not in load_settings(PrepareConfig, Sources(look_around=True)).origins
