"""Finding the run of some settings: by hash, by what they mean, by the data's digest; those of earlier versions too."""

import json
from dataclasses import replace

import pytest

from vgpt.compare.known import KnownRuns, settings_of
from vgpt.data.manifest import Manifest
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.presets import load_preset
from vgpt.settings.train import TrainConfig


def config_of(attn="mha", **words) -> TrainConfig:
    return load_settings(TrainConfig, Sources(load_preset("demo"), command_line={"attn": attn, **words})).settings


def as_earlier(run, config: TrainConfig):
    """Return a run as a version recorded it that hashed settings as they were spelled."""
    return replace(run, tags={**run.tags, "vgpt.settings_hash": config.spelled_hash})


SPELLED = [
    {"min_lr": "2e-4"},
    {"mlp_hidden": "512"},
    {"min_lr": "2e-4", "mlp_hidden": "512"},
    {"data": "./d/"},
]


@pytest.mark.parametrize("words", SPELLED)
def test_runs_of_earlier_versions_are_found_from_both_spellings(make_run, words):
    plain = {"data": "d"} if "data" in words else {}
    old = as_earlier(make_run(settings=words), config_of(**words))
    plain_old = as_earlier(make_run(settings=plain), config_of(**plain))
    for run, asked in ((old, words), (old, plain), (plain_old, plain), (plain_old, words)):
        assert KnownRuns([run]).find(config_of(**asked)) is run


def test_other_settings_are_not_found(make_run):
    run = make_run(settings={"min_lr": "2e-4"})
    for words in ({"min_lr": "3e-4"}, {"mlp_hidden": "504"}, {"seed": "7"}, {"attn": "mqa"}, {"data": "d"}):
        assert KnownRuns([run]).find(config_of(**words)) is None


def test_the_newest_of_equal_runs_is_found(make_run):
    first, second = make_run(), make_run()
    assert KnownRuns([first, second]).find(config_of()) is second
    assert KnownRuns([first, second]).find_all(config_of()) == [second, first]


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """A data set at another place than a run was trained on, by its manifest alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved").mkdir()
    counts = {"documents": 1, "tokens": 1, "bytes": 1}
    table = {
        "vgpt_version": "0",
        "dtype": "uint16",
        "vocab_size": 300,
        "tokenizer_name": "t",
        "tokenizer_fingerprint": "f",
        "splits": {"train": counts, "val": counts},
        "files": {name: {"size": 2, "sha256": name} for name in ("train.bin", "val.bin")},
        "source": {
            "inputs": ["a"],
            "files": 1,
            "skipped_files": 0,
            "documents": 1,
            "empty_documents": 0,
            "digest": "x",
        },
        "split": {"rule": "tail", "val_fraction": 0.1},
        "cleaning": [],
        "settings": {},
    }
    (tmp_path / "moved" / "manifest.json").write_text(json.dumps(table))
    return Manifest.load(tmp_path / "moved").digest


def test_data_is_told_by_its_digest_wherever_it_lies(make_run, moved):
    run = make_run(settings={"data": "where/it/was"}, tags={"vgpt.data_digest": moved})
    other = make_run(settings={"data": "where/it/was"}, tags={"vgpt.data_digest": "another"})
    assert KnownRuns([run, other]).find(config_of(data="moved")) is run
    assert KnownRuns([other]).find(config_of(data="moved")) is None
    old = as_earlier(run, config_of(data="where/it/was"))
    assert KnownRuns([old]).find(config_of(data="./moved/")) is old


def test_a_device_and_a_precision_are_what_they_come_to(make_run):
    from vgpt.settings.train import SystemSettings
    from vgpt.training.hardware.devices import resolve

    compute = resolve(SystemSettings())
    tags = {"vgpt.device": compute.device_name, "vgpt.dtype": compute.dtype_name}
    run = make_run(tags=tags)
    named = {"device": str(compute.device), "dtype": compute.dtype_name}
    assert KnownRuns([run]).find(config_of(**named)) is run
    assert KnownRuns([make_run(settings=named, tags=tags)]).find(config_of()) is not None
    other = make_run(tags={**tags, "vgpt.device": "Another Machine (2 threads)"})
    assert KnownRuns([other]).find(config_of(**named)) is None
    assert KnownRuns([run]).find(config_of(**named, tf32=True)) is None


def test_a_record_that_this_version_cannot_read_is_no_run_of_anything(make_run):
    run = replace(make_run(), params={"n_layer": "many"}, tags={"vgpt.attn": "mha", "vgpt.seed": "1337"})
    assert settings_of(run) is None
    assert KnownRuns([run]).find(config_of()) is None
