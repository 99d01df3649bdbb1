"""A run is found again by what its settings mean, and nobody else's directory becomes one."""

import json
from pathlib import Path

import pytest

from vgpt.errors import UsageError
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.train import TrainConfig
from vgpt.training.records.same_run import recorded_digest, refuse_foreign, same_settings, under_its_name


def config_of(place: Path, **words) -> TrainConfig:
    return load_settings(TrainConfig, Sources(command_line={"runs_dir": str(place), **words})).settings


def begun(config: TrainConfig, name: str) -> Path:
    """Leave what an earlier version left: a directory called by the hash of the settings as they were spelled."""
    directory = config.run.runs_dir / name
    directory.mkdir(parents=True)
    (directory / "settings.json").write_text(config.model_dump_json())
    (directory / "conditions.json").write_text(json.dumps({"data": "0123456789abcdef"}))
    return directory


@pytest.mark.parametrize("spelled", [{"min_lr": "1e-4"}, {"mlp_hidden": "1536"}, {"data": "./demo/../d"}])
def test_a_run_of_an_earlier_version_is_found_by_either_spelling(tmp_path, spelled):
    old = config_of(tmp_path, **spelled)
    name = f"mha-s1337-{old.spelled_hash[:8]}"
    plain = {"data": "d"} if "data" in spelled else {}
    assert name != config_of(tmp_path, **plain).name
    begun(old, name)
    assert under_its_name(config_of(tmp_path, **plain))[0].name == name
    assert under_its_name(config_of(tmp_path, **spelled))[0].name == name
    assert under_its_name(config_of(tmp_path, **plain, lr="2e-3"))[0].name != name
    assert under_its_name(config_of(tmp_path, **plain, run_name="mine"))[0].name == "mine"


def test_a_run_that_has_its_own_directory_is_not_looked_for_elsewhere(tmp_path):
    plain, spelled = config_of(tmp_path), config_of(tmp_path, min_lr="1e-4")
    begun(spelled, f"mha-s1337-{spelled.spelled_hash[:8]}")
    begun(plain, plain.name)
    assert under_its_name(plain)[0].name == plain.name


def test_damaged_settings_beside_it_are_passed_over(tmp_path):
    (tmp_path / "mha-s1337-00000000").mkdir()
    (tmp_path / "mha-s1337-00000000" / "settings.json").write_text("{")
    config = config_of(tmp_path)
    assert under_its_name(config) == (config, "")


def test_a_device_that_is_not_here_is_not_what_auto_comes_to(tmp_path):
    before, now = config_of(tmp_path, device="cuda:7"), config_of(tmp_path)
    assert not same_settings(before, now)
    assert same_settings(before, config_of(tmp_path, device="cuda:7"))


def test_the_digest_of_a_run_is_read_from_what_it_recorded(tmp_path):
    directory = begun(config_of(tmp_path), "a")
    assert recorded_digest(directory) == "0123456789abcdef"
    (directory / "conditions.json").unlink()
    assert recorded_digest(directory) == ""
    step = directory / "ckpt" / "step-00000002"
    step.mkdir(parents=True)
    (step / "state.json").write_text('{"data_digest": "fedcba9876543210"}')
    assert recorded_digest(directory) == "fedcba9876543210"


def test_a_directory_without_a_run_in_it_is_refused_and_an_unfinished_beginning_is_not(tmp_path):
    refuse_foreign(tmp_path / "new")
    for name in ("run.lock", "launch.json", "launch-node-1.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "logs").mkdir()
    refuse_foreign(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"no part of a run: notes\.txt"):
        refuse_foreign(tmp_path)
    (tmp_path / "settings.json").write_text(config_of(tmp_path).model_dump_json())
    refuse_foreign(tmp_path)
