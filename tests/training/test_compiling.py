"""`compile` that nobody set: large models on CUDA are compiled, all else is not, and old runs are found as before."""

import json
from pathlib import Path

import pytest
import torch

from vgpt.compare.request import make_request, planned_runs, settings_of_first
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.train import TrainConfig
from vgpt.training.display import Quiet
from vgpt.training.hardware import compiling
from vgpt.training.hardware.compiling import Target, block_parameters, by_default, pays, settle, settle_loaded
from vgpt.training.run import train_run

OLD = Path(__file__).parents[1] / "golden" / "before_seals" / "runs" / "old-mha"
LARGE = {"n_layer": "12", "n_head": "12", "n_embd": "768"}
H100 = Target("cuda")


def loaded(**words):
    return load_settings(TrainConfig, Sources(command_line=words))


@pytest.fixture
def on_cuda(monkeypatch):
    monkeypatch.setattr(compiling, "_target", lambda system: Target("cpu" if system.device == "cpu" else "cuda"))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Target("cpu"), "no gain was measured on CPU"),
        (Target("mps"), "no gain was measured on MPS"),
        (Target("cuda", rocm=True), "ROCm"),
        (Target("cuda", "float16"), "loss scaling"),
        (Target("cuda", "float32", capability=(6, 1)), "Triton"),
        (Target("cuda", triton=False), "Triton"),
    ],
)
def test_a_large_model_is_compiled_on_cuda_alone(target, reason):
    assert pays(85_000_000, [], lambda: H100)[0]
    compile, why = pays(85_000_000, [], lambda: target)
    assert not compile
    assert reason in why


def test_small_models_and_plug_ins_are_not_compiled_and_ask_for_no_device():
    def asked():
        raise AssertionError

    assert pays(29_999_999, [], asked)[1].startswith("a model with 30M parameters in its blocks takes longer")
    assert "plug-in of mine" in pays(85_000_000, ["mine"], asked)[1]


def test_the_size_that_decides_is_that_of_the_built_trunk():
    from vgpt.model.config import GPT2Config
    from vgpt.model.gpt2 import GPT2Model

    model = loaded(n_layer="3", n_head="2", n_embd="32", bias="false").settings.model
    with torch.device("meta"):
        built = GPT2Model(GPT2Config(**model.concrete(), vocab_size=61))
    matrices = sum(value.numel() for block in built.h for value in block.parameters() if value.ndim == 2)
    assert block_parameters(model) == matrices


def test_every_variant_of_a_comparison_comes_to_the_same_whatever_its_batch_or_its_processes(on_cuda):
    for words in ({"attn": "linear"}, {"batch_size": "1"}, {"nproc": "4"}, {"match": "params", "attn": "mqa"}):
        assert settle(loaded(**LARGE, **words).settings)[0].system.compile is True
    assert settle(loaded(n_layer="4", n_embd="128", n_head="4").settings)[0].system.compile is False


@pytest.mark.parametrize(("typed", "recorded"), [("true", True), ("false", False)])
def test_what_a_person_typed_wins(on_cuda, typed, recorded):
    for words in (LARGE, {}):
        settled = settle_loaded(loaded(**words, compile=typed))
        assert settled.settings.system.compile is recorded
        assert settled.origins["compile"] == "command line"


def test_what_it_came_to_is_recorded_hashed_and_read_back(on_cuda):
    plain = loaded(**LARGE).settings
    config = settle(plain)[0]
    assert config.flat()["compile"] is True
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert config.conditions()["system"]["compile"] is True
    assert config.settings_hash == loaded(**LARGE, compile="true").settings.settings_hash
    assert config.settings_hash != loaded(**LARGE, compile="false").settings.settings_hash
    on_cpu = settle(loaded(**LARGE, device="cpu").settings)[0]
    assert on_cpu.settings_hash == loaded(**LARGE, device="cpu", compile="false").settings.settings_hash


def test_a_run_recorded_by_an_earlier_version_is_the_one_that_the_default_asks_for():
    table = json.loads((OLD / "settings.json").read_text())
    assert table["system"].pop("compile") is False
    asked = settle(TrainConfig.model_validate(table))[0]
    assert asked.settings_hash == json.loads((OLD / "tracking.json").read_text())["tags"]["vgpt.settings_hash"]


def test_asking_again_for_a_finished_run_finds_it(settings):
    before = settings(system__compile=False)
    train_run(before, Quiet())
    again = train_run(settings(), Quiet())
    assert again.status == "already"
    assert json.loads((before.directory / "settings.json").read_text())["system"]["compile"] is False


def test_a_named_run_goes_on_as_it_was_begun(on_cuda, tmp_path):
    words = {**LARGE, "runs_dir": str(tmp_path), "run_name": "mine"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.json").write_text(loaded(**words, compile="false").settings.model_dump_json())
    assert settle(loaded(**words).settings) == (loaded(**words, compile="false").settings, "as the run was begun")
    assert settle(loaded(**{**words, "run_name": "new"}).settings)[0].system.compile is True


def test_the_missing_runs_of_a_comparison_are_told_what_it_came_to(on_cuda):
    def commands(*words, **typed):
        request = make_request(words, Sources(command_line=typed))
        return [run.arguments for one in request.selectors for run in planned_runs(request, one, [1])]

    assert all("--compile" in words for words in commands("mha", "linear", **LARGE))
    shown = settings_of_first(make_request(["mla"], Sources(command_line=LARGE)))
    assert shown.settings.system.compile is True
    assert shown.origins["compile"].startswith("default: a CUDA device")
    assert not any("--compile" in words or "--no-compile" in words for words in commands("mha", "mla", n_layer="2"))
    assert all("--no-compile" in words for words in commands("mha", "mla", **LARGE, compile="false"))


def test_one_plug_in_leaves_a_whole_comparison_uncompiled(on_cuda, monkeypatch):
    monkeypatch.setattr(compiling, "plugin_record", lambda attn, n_layer: [{"kind": "mla"}] * (attn.kind == "mla"))
    request = make_request(["mha", "mla"], Sources(command_line=LARGE))
    words = [run.arguments for one in request.selectors for run in planned_runs(request, one, [1])]
    assert all("--no-compile" in one for one in words)
    assert "plug-in of mla" in request.origins["compile"]


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_dry_run_and_the_shown_settings_say_what_it_comes_to_and_why(vgpt, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    shape = ("--n-layer", 12, "--n-head", 12, "--n-embd", 768, "--device", "cpu")
    shown = vgpt("train", *shape, "--show-settings", *flags)
    assert "no gain was measured on" in shown.out
    typed = vgpt("train", *shape, "--compile", "--show-settings", "--json")
    assert json.loads(typed.out)["compile"] == {"value": "true", "origin": "command line"}


def test_the_rule_answers_for_this_machine():
    compile, why = by_default(loaded(**LARGE).settings.model, loaded(**LARGE).settings.system)
    assert compile == (torch.cuda.is_available() and not torch.version.hip), why
