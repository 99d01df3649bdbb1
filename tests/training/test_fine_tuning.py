"""Weights and whole states of other runs, and of GPT-2, as the start of a run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vgpt
from vgpt.data.dataset import open_dataset
from vgpt.data.prepare import prepare
from vgpt.errors import CheckpointError, DivergedError, SettingsError, UsageError
from vgpt.files.digests import file_digest
from vgpt.interchange.stock import to_hf
from vgpt.model.init import initialize
from vgpt.settings.commands import PrepareConfig
from vgpt.settings.train import TrainConfig
from vgpt.tracking.journal import read_metrics
from vgpt.tracking.record import read_record
from vgpt.training import run
from vgpt.training.build import build_model
from vgpt.training.checkpoints.checkpoint import find_checkpoint, steps
from vgpt.training.display import Quiet
from vgpt.training.optimizer import AdamW
from vgpt.training.run import train_run


class StopAt(Quiet):
    """Ends the run as a kill would when a step is done."""

    def __init__(self, step):
        self.step = step

    def advance(self, step):
        if step == self.step:
            raise RuntimeError("killed")


class Heard(Quiet):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def notify(self, message):
        self.said.append(message)


def curve(config: TrainConfig, name: str) -> dict[int, float]:
    return {point.step: point.metrics[name] for point in read_metrics(config.directory) if name in point.metrics}


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoint(config.directory, which="last").directory / "model.safetensors")


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def conditions(config: TrainConfig) -> dict:
    return json.loads((config.directory / "conditions.json").read_text())


@pytest.fixture
def source(settings) -> TrainConfig:
    """A run that has learned something."""
    config = settings(run__run_name="source", train__max_steps=40)
    train_run(config, Quiet())
    return config


@pytest.fixture(scope="session")
def other_data(tmp_path_factory, corpus) -> Path:
    """Other text by the same tokenizer."""
    place = tmp_path_factory.mktemp("other") / "data"
    prepare(
        [str(Path(vgpt.__file__).parent / "text")],
        PrepareConfig(out=place, tokenizer=str(corpus / "tokenizer.json"), workers=1),
    )
    return place


def test_fine_tuning_starts_at_the_sources_loss_on_a_schedule_of_its_own(settings, source):
    tuned = settings(run__run_name="tuned", train__init_from="source", train__lr=1e-3, train__max_steps=6)
    train_run(tuned, Quiet())
    assert curve(tuned, "val/loss")[0] == min(curve(source, "val/loss").values())
    rates = curve(tuned, "train/lr")
    assert max(rates.values()) == pytest.approx(1e-3)
    first = curve(source, "train/loss")[1]
    assert curve(tuned, "train/loss")[1] < first - 0.3
    digest = file_digest(find_checkpoint(source.directory).directory / "model.safetensors")
    assert read_record(tuned.directory).tags["vgpt.init_digest"] == digest == conditions(tuned)["init"]
    assert "vgpt.init_digest" not in read_record(source.directory).tags


def test_the_place_of_the_weights_is_no_condition_but_their_content_is(settings, source, tmp_path):
    shutil.copytree(source.directory, tmp_path / "elsewhere")
    places = {"a": "source", "b": str(tmp_path / "elsewhere"), "c": str(steps(source.directory / "ckpt")[-2])}
    recorded = {}
    for name, place in places.items():
        config = settings(run__run_name=name, train__init_from=place, train__max_steps=1)
        train_run(config, Quiet())
        recorded[name] = conditions(config)
    assert recorded["a"] == recorded["b"] != recorded["c"]


def test_new_data_is_welcome_where_the_tokenizer_is_the_same(settings, source, other_data):
    tuned = settings(run__run_name="tuned", train__init_from="source", train__data=str(other_data), train__max_steps=2)
    assert train_run(tuned, Quiet()).status == "finished"


def test_data_of_another_tokenizer_is_refused(settings, source, tmp_path):
    place = tmp_path / "data"
    prepare([str(Path(vgpt.__file__).parent / "text")], PrepareConfig(out=place, vocab_size=280, workers=1))
    with pytest.raises(UsageError, match=r"but source at step \d+ was trained with bpe-300"):
        train_run(settings(train__init_from="source", train__data=str(place)), Quiet())


def test_another_architecture_is_refused_with_the_difference_shown(settings, source):
    with pytest.raises(UsageError) as caught:
        train_run(settings("mqa", train__init_from="source", model__n_layer=3), Quiet())
    assert "--attn: mha there, mqa asked" in caught.value.message
    assert "--n-layer: 2 there, 3 asked" in caught.value.message
    assert "n-embd" not in caught.value.message


def test_a_shorter_context_takes_the_first_positions_and_a_longer_one_is_refused(settings, source):
    short = settings(train__init_from="source", model__block_size=8, train__max_steps=1, train__lr=1e-9)
    train_run(short, Quiet())
    start = load_file(steps(short.directory / "ckpt")[0] / "model.safetensors")
    best = load_file(find_checkpoint(source.directory).directory / "model.safetensors")
    assert torch.equal(start["wpe.weight"], best["wpe.weight"][:8])
    with pytest.raises(UsageError, match="16 learned positions"):
        train_run(settings(train__init_from="source", model__block_size=32), Quiet())


def test_a_name_whose_source_was_refused_is_still_free(settings, source):
    with pytest.raises(UsageError):
        train_run(settings(run__run_name="tuned", train__init_from="source", model__n_layer=3), Quiet())
    with pytest.raises(CheckpointError, match="no checkpoint at nowhere"):
        train_run(settings(run__run_name="tuned", train__init_from="nowhere"), Quiet())
    train_run(settings(run__run_name="tuned", train__init_from="source", train__max_steps=1), Quiet())


@pytest.mark.parametrize("stop", [1, 4])
def test_a_fine_tuned_run_resumes_exactly_and_without_its_source(settings, source, stop):
    changes = {"train__init_from": "source", "train__max_steps": 7, "model__dropout": 0.1}
    whole, parts = (settings(run__run_name=name, **changes) for name in ("whole", "parts"))
    train_run(whole, Quiet())
    with pytest.raises(RuntimeError, match="killed"):
        train_run(parts, StopAt(stop))
    shutil.rmtree(source.directory)
    train_run(parts, Quiet())
    assert equal(weights(whole), weights(parts))
    assert curve(whole, "val/loss") == curve(parts, "val/loss")
    assert conditions(parts) == conditions(whole)
    assert read_record(parts.directory).tags["vgpt.init_digest"]


def test_where_nothing_better_comes_the_best_checkpoint_is_the_sources(settings, source):
    spoiled = settings(
        run__run_name="spoiled", train__init_from="source", train__lr=1.0, train__max_steps=4, train__weight_decay=0.0
    )
    train_run(spoiled, Quiet())
    best = find_checkpoint(spoiled.directory, which="best")
    assert best.state.step == 0
    assert equal(load_file(best.directory / "model.safetensors"), load_file(source_best(source)))


def source_best(source: TrainConfig) -> Path:
    return find_checkpoint(source.directory, which="best").directory / "model.safetensors"


def published(place: Path, corpus: Path, settings, *, tokenizer: bool) -> Path:
    """A directory like a snapshot of GPT-2, of a tiny model."""
    net = build_model(settings(), open_dataset(corpus).tokenizer.vocab_size)
    initialize(net, 99)
    place.mkdir()
    save_file({name: tensor.clone() for name, tensor in to_hf(net).items()}, place / "model.safetensors")
    sizes = {"vocab_size": net.config.vocab_size, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    (place / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    if tokenizer:
        shutil.copy(corpus / "tokenizer.json", place / "tokenizer.json")
    return place


def test_gpt2s_published_files_are_a_start_too(settings, corpus, tmp_path):
    place = published(tmp_path / "hub", corpus, settings, tokenizer=True)
    tuned = settings(train__init_from=f"hf:{place}", train__max_steps=2, model__block_size=8)
    train_run(tuned, Quiet())
    start = load_file(steps(tuned.directory / "ckpt")[0] / "model.safetensors")
    net = build_model(settings(), open_dataset(corpus).tokenizer.vocab_size)
    initialize(net, 99)
    want = net.state_dict()
    want["wpe.weight"] = want["wpe.weight"][:8]
    assert equal(start, want)
    assert read_record(tuned.directory).tags["vgpt.init_digest"] == file_digest(place / "model.safetensors")


def test_published_files_without_a_tokenizer_want_gpt2s_where_they_have_its_ids(settings, tmp_path):
    place = tmp_path / "hub"
    place.mkdir()
    for rows, sentence in ((50_304, "with gpt2"), (512, "is not known")):  # padded, as trainers do; and not GPT-2's
        net = build_model(settings(), rows)
        save_file({name: tensor.clone() for name, tensor in to_hf(net).items()}, place / "model.safetensors")
        sizes = {"vocab_size": rows, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
        (place / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
        with pytest.raises(UsageError, match=sentence) as caught:
            train_run(settings(train__init_from=f"hf:{place}"), Quiet())
        assert ("--tokenizer gpt2" in caught.value.hint) == (rows == 50_304)
        assert ("tokenizer.json" in caught.value.hint) == (rows == 512)


def test_of_padded_rows_those_that_have_an_id_are_taken_and_that_is_said(settings, corpus, tmp_path):
    place = published(tmp_path / "hub", corpus, settings, tokenizer=True)
    stored = load_file(place / "model.safetensors")
    for name in ("transformer.wte.weight", "lm_head.weight"):
        stored[name] = torch.cat([stored[name], torch.full((84, 16), 7.0)])
    sizes = {"vocab_size": 384, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    (place / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    save_file(stored, place / "model.safetensors")
    display = Heard()
    padded = settings(run__run_name="padded", train__init_from=f"hf:{place}", train__max_steps=1)
    train_run(padded, display)
    start = load_file(steps(padded.directory / "ckpt")[0] / "model.safetensors")
    assert torch.equal(start["wte.weight"], stored["transformer.wte.weight"][:300])
    assert any("the first 300 are used" in said for said in display.said)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_before_anything_is_trained(settings, corpus, source, tmp_path, value):
    place = published(tmp_path / "hub", corpus, settings, tokenizer=True)
    stored = load_file(place / "model.safetensors")
    stored["transformer.h.1.mlp.c_fc.weight"][3, 4] = value
    save_file(stored, place / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 of 1,024 numbers in h\.1\.mlp\.c_fc\.weight"):
        train_run(settings(run__run_name="a", train__init_from=f"hf:{place}"), Quiet())
    assert not steps(settings(run__run_name="a").directory / "ckpt")
    best = find_checkpoint(source.directory, which="best").directory
    spoilt = load_file(best / "model.safetensors")
    spoilt["ln_f.weight"][0] = value
    save_file(spoilt, best / "model.safetensors")
    listing = json.loads((best / "manifest.json").read_text())
    listing["files"]["model.safetensors"]["sha256"] = file_digest(best / "model.safetensors")
    listing["files"]["model.safetensors"]["bytes"] = (best / "model.safetensors").stat().st_size
    (best / "manifest.json").write_text(json.dumps(listing))
    for start in ("init_from", "fork"):
        changes = {f"train__{start}": str(best), "train__max_steps": 99}
        with pytest.raises(CheckpointError, match=r"1 of 16 numbers in ln_f\.weight"):
            train_run(settings(run__run_name="b", **changes), Quiet())


def test_a_run_whose_weights_end_as_no_numbers_has_diverged_and_keeps_none_of_them(settings, monkeypatch):
    config = settings(train__lr=1.0, train__max_steps=1, train__warmup_steps=0, train__grad_clip=0.0)

    original = AdamW.step

    def spoilt(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(float("nan"))
        return result

    monkeypatch.setattr(AdamW, "step", spoilt)
    with pytest.raises(DivergedError, match="validation loss is nan at step 1") as caught:
        train_run(config, Quiet())
    assert "There is no checkpoint yet" in caught.value.hint
    assert steps(config.directory / "ckpt") == []


def test_a_fork_under_equal_settings_ends_in_the_same_bits(settings):
    old = settings(run__run_name="old", model__dropout=0.1, run__keep_last=9)
    train_run(old, Quiet())
    middle = old.directory / "ckpt" / "step-00000006"
    fork = settings(run__run_name="new", model__dropout=0.1, train__fork=str(middle))
    train_run(fork, Quiet())
    assert equal(weights(old), weights(fork))
    later = {step: loss for step, loss in curve(old, "train/loss").items() if step > 6}
    assert curve(fork, "train/loss") == later
    assert read_record(fork.directory).tags["vgpt.forked_from"] == "old/step-00000006"
    assert conditions(fork)["init"] == file_digest(middle / "model.safetensors")


def test_the_data_of_a_run_is_opened_once(settings, monkeypatch):
    opened = []

    def counted(place):
        opened.append(place)
        return open_dataset(place)

    monkeypatch.setattr(run, "open_dataset", counted)
    train_run(settings(run__run_name="old", train__max_steps=1), Quiet())
    train_run(settings(run__run_name="new", train__fork="old", train__max_steps=2), Quiet())
    assert len(opened) == 2


def test_a_fork_goes_on_from_the_newest_state_under_a_longer_schedule_and_resumes(settings):
    old = settings(run__run_name="old")
    train_run(old, Quiet())
    changes = {"train__fork": "old", "train__max_steps": 20, "train__lr": 5e-3}
    whole, parts = (settings(run__run_name=name, **changes) for name in ("whole", "parts"))
    train_run(whole, Quiet())
    assert list(curve(whole, "train/loss")) == list(range(13, 21))
    assert find_checkpoint(whole.directory, which="last").state.tokens == 20 * 4 * 16
    with pytest.raises(RuntimeError, match="killed"):
        train_run(parts, StopAt(16))
    shutil.rmtree(old.directory)
    train_run(parts, Quiet())
    assert equal(weights(whole), weights(parts))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model__n_layer": 3, "train__max_steps": 20}, "--n-layer: 2 there, 3 asked"),
        ({"model__dropout": 0.1, "train__max_steps": 20}, "--dropout: 0.0 there, 0.1 asked"),
        ({}, "stands at step 12, and 12 steps are asked"),
        ({"train__fork": "nothing"}, "no checkpoint at nothing"),
    ],
)
def test_forks_that_cannot_go_on_are_refused(settings, changes, complaint):
    train_run(settings(run__run_name="old"), Quiet())
    with pytest.raises((UsageError, CheckpointError), match=complaint):
        train_run(settings(**{"run__run_name": "new", "train__fork": "old"} | changes), Quiet())


def test_a_fork_onto_other_data_is_refused(settings, other_data):
    train_run(settings(run__run_name="old"), Quiet())
    asked = settings(run__run_name="new", train__fork="old", train__data=str(other_data), train__max_steps=20)
    with pytest.raises(UsageError, match="other data"):
        train_run(asked, Quiet())


def test_a_run_has_one_start(settings):
    with pytest.raises((SettingsError, ValueError), match="choose one of them"):
        settings(train__fork="a", train__init_from="b")
