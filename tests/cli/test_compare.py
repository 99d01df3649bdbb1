"""`vgpt compare` from the command to the numbers, with runs that are really trained."""

import json

import pytest

from vgpt.data.prepare import prepare
from vgpt.settings.commands import PrepareConfig


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    from pathlib import Path

    import vgpt

    monkeypatch.chdir(tmp_path)
    prepare([str(Path(vgpt.__file__).parent / "text")], PrepareConfig(out="data", vocab_size=300, workers=1))


@pytest.mark.slow
def test_missing_runs_are_trained_at_matched_widths_and_compared_window_by_window(vgpt, monkeypatch):
    words = "compare mha mqa --run-missing --match params --data data --tracker journal --device cpu --dtype float32"
    words += " --n-layer 1 --n-head 2 --n-embd 32 --block-size 16 --max-steps 3 --batch-size 2 --eval-windows 16"
    result = vgpt(*words.split(), "--json")
    assert result.code == 0, result.err
    table = json.loads(result.out)
    assert table["conditions"]["equal"]
    assert table["match"] == {"rule": "params", "to": "mha", "multiple": 8}
    mha, mqa = table["rows"]
    assert mqa["budget"]["width"] == int(mqa["runs"][0]["tags"]["vgpt.mlp_hidden"]) == 144
    assert mha["budget"]["width"] == 128
    found = mqa["statistics"]["difference"]
    assert (found["verdict"], found["method"], found["p_t"]) == ("n=1: no verdict", "single", None)
    assert found["delta"] == pytest.approx(
        mqa["runs"][0]["metrics"]["val/loss"] - mha["runs"][0]["metrics"]["val/loss"]
    )
    assert found["evaluation_noise"]["windows"] == 16
    assert found["evaluation_noise"]["delta"] == pytest.approx(found["delta"], abs=1e-5)
    assert 0 < found["evaluation_noise"]["se"] < 0.1
    assert found["evaluation_noise"]["kind"] in ("documents", "blocks")  # the runs record them
    text = vgpt(*words.split(), "--force").out
    assert "MLP width matched: params, to mha" in text
    assert "n=1: no" in text
    assert table["speeds"] is None
    monkeypatch.setattr("vgpt.api.speeds.ROUNDS", 2)
    monkeypatch.setattr("vgpt.api.speeds.SECONDS", 0.002)
    monkeypatch.setattr("vgpt.bench.run._LEAST_PATIENCE", 0.0)
    measured = vgpt(*words.split(), "--json", "--bench")
    assert "measuring speeds side by side" in measured.err
    speeds = json.loads(measured.out)["speeds"]
    assert list(speeds["rows"]) == [mha["label"], mqa["label"]]
    assert all(row["train"]["tokens_per_second"] > 0 for row in speeds["rows"].values())
    # The record is found again, without --run-missing too.
    again = vgpt(*words.replace("--run-missing ", "").split(), "--json")
    assert "measuring" not in again.err
    assert json.loads(again.out)["speeds"] == speeds


def test_the_cost_of_a_matched_run_is_shown_before_it_is_trained(vgpt):
    words = "train --attn mqa --match flops --data data --n-layer 2 --n-head 4 --n-embd 64 --dry-run --json"
    figures = json.loads(vgpt(*words.split()).out)
    assert (figures["hidden width of the MLP"], figures["hidden width before matching"]) == (304, 256)
    assert figures["FLOPs against mha in %"] == 0
    assert -0.2 < figures["parameters against mha in %"] < 0


@pytest.mark.slow
def test_rates_are_chosen_with_some_seeds_and_reported_with_others_in_one_command(vgpt):
    words = "compare mha mqa --run-missing --sweep-lr 3 --data data --tracker journal --device cpu --dtype float32"
    words += " --n-layer 1 --n-head 2 --n-embd 32 --block-size 16 --max-steps 3 --batch-size 2 --eval-windows 16"
    plan = json.loads(vgpt(*words.split(), "--plan", "--json").out)
    assert (plan["exist"], plan["missing"], plan["second_stage"]) == (0, 6, [2, 4])
    result = vgpt(*words.split(), "--json")
    assert result.code == 0, result.err
    table = json.loads(result.out)
    assert table["missing"] == []
    assert [[run["seed"] for run in row["runs"]] for row in table["rows"]] == [["1337"], ["1337"]]
    assert table["sweep"]["tuning_seeds"] == ["2337"]
    assert all(one["loss_at_common"] is not None for one in table["sweep"]["variants"])
    assert table["rows"][1]["statistics"]["difference"]["evaluation_noise"]["windows"] == 16
