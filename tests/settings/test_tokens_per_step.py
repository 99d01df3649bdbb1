"""--tokens-per-step: one step is the same whatever number of processes computes it."""

import pytest
from pydantic import ValidationError

from vgpt.errors import SettingsError, UsageError
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.presets import load_preset
from vgpt.settings.train import TrainConfig
from vgpt.training.parallel.distributed import World, as_worker


def settings(preset: str = "", **words: str) -> TrainConfig:
    found = load_preset(preset) if preset else None
    return load_settings(TrainConfig, Sources(found, command_line=words)).settings


@pytest.mark.parametrize(
    ("words", "micro_steps"),
    [
        ({}, 16),
        ({"nproc": "8"}, 2),
        ({"nproc": "8", "nnodes": "2", "rdzv_endpoint": "a:1"}, 1),
        ({"batch_size": "8"}, 64),
    ],
)
def test_accumulation_follows_from_processes_and_micro_batch_and_the_run_stays_the_same(words, micro_steps):
    words = {"batch_size": "32", "data": "d", **words}
    config = settings(block_size="1024", tokens_per_step="524288", **words)
    assert config.train.grad_accum == micro_steps
    assert config.tokens_per_step == 524288
    plain = settings(block_size="1024", batch_size="32", grad_accum="16", data="d")
    assert config.settings_hash == plain.settings_hash
    assert config.name == plain.name
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("preset", ["gpt2-small", "gpt2-medium"])
@pytest.mark.parametrize("nproc", ["1", "2", "8"])
def test_the_presets_promise_half_a_million_tokens_on_any_number_of_gpus(preset, nproc):
    config = settings(preset, nproc=nproc)
    assert config.tokens_per_step == 524288
    assert config.steps * config.tokens_per_step == 5000 * 524288


def test_flags_that_contradict_each_other_are_refused():
    words = {"block_size": "64", "batch_size": "4", "tokens_per_step": "1024"}
    assert settings(**words, grad_accum="4").train.grad_accum == 4
    with pytest.raises(SettingsError, match="--grad-accum 2 makes 512 tokens per step, not the 1,024"):
        settings(**words, grad_accum="2")
    with pytest.raises(SettingsError, match="no multiple of the 768 tokens of a micro-step"):
        settings(**words, nproc="3")
    assert settings(**words | {"tokens_per_step": "none"}, grad_accum="2").tokens_per_step == 512
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({"train": {"tokens_per_step": 1}})


def test_processes_of_a_launcher_divide_the_step_too():
    config = settings(block_size="64", batch_size="4", tokens_per_step="1024")
    worker = as_worker(config, World(1, 2, 1))
    assert (worker.train.grad_accum, worker.tokens_per_step) == (2, 1024)
    with pytest.raises(UsageError, match="times 3 processes"):
        as_worker(config, World(1, 3, 1))
    assert as_worker(settings(grad_accum="3"), World(1, 2, 1)).train.grad_accum == 3


def test_more_micro_steps_than_a_step_may_have_are_refused_in_words():
    with pytest.raises(
        SettingsError, match=r"takes 4,503,599,627,370,496 micro-steps of 4096 tokens, more than 1,000,000"
    ):
        settings(tokens_per_step=str(2**64), batch_size="16", block_size="256", data="d")
