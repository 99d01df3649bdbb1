"""`vgpt convert`: a run of a trained one's weights, to be evaluated, trained on and compared."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vgpt
from vgpt.data.prepare import prepare
from vgpt.files.digests import file_digest
from vgpt.settings.commands import PrepareConfig
from vgpt.training.checkpoints.checkpoint import find_checkpoint

MODEL = "--n-layer 2 --n-head 4 --n-embd 32 --block-size 32"
LINE = (
    f"{MODEL} --batch-size 8 --lr 1e-2 --eval-windows 16 --eval-interval 1000 --tracker journal --device cpu "
    "--dtype float32"
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small prepared corpus of real text: this project's own sources."""
    place = tmp_path_factory.mktemp("corpus") / "data"
    prepare([str(Path(vgpt.__file__).parent)], PrepareConfig(out=place, vocab_size=300, workers=1))
    return place


@pytest.fixture(scope="module")
def trained(tmp_path_factory, vgpt, corpus):
    """A directory with a run that has learned something, and the command's words but for its name."""
    place = tmp_path_factory.mktemp("converted") / "runs"
    words = ["train", *shlex.split(LINE), "--data", corpus, "--runs-dir", place, "--warmup-steps", 5]
    done = vgpt(*words, "--run-name", "mha", "--max-steps", 60)
    assert done.code == 0, done.err
    return place


@pytest.fixture
def convert(vgpt, trained):
    """Convert the trained run, or another, and return what is printed as JSON."""

    def run(attn, name, *words, source="mha"):
        done = vgpt("convert", source, "--attn", attn, "--run-name", name, "--runs-dir", trained, "--json", *words)
        assert done.code == 0, done.err
        return json.loads(done.out)

    return run


def evaluated(vgpt, trained, name, windows=16):
    return json.loads(
        vgpt("eval", name, "--runs-dir", trained, "--windows", windows, "--json", "--dtype", "float32").out
    )["loss"]


def plain(panel):
    return " ".join(panel.replace("│", " ").split())


def journal(directory, metric):
    points = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return {one["step"]: one["metrics"][metric] for one in points if metric in one.get("metrics", {})}


def test_the_losses_before_and_after_are_those_that_eval_measures(vgpt, trained, convert):
    made = convert("gqa:n_kv_head=2", "pooled")
    assert made["loss_before"] == pytest.approx(evaluated(vgpt, trained, "mha"), abs=1e-5)
    assert made["loss_after"] == pytest.approx(evaluated(vgpt, trained, "pooled"), abs=1e-5)
    assert made["loss_after"] != made["loss_before"]
    assert made["source"] == {"run": "mha", "id": record(trained / "mha")["id"], "step": 60, "attention": "mha"}
    weights = find_checkpoint("mha", runs_dir=trained).directory / "model.safetensors"
    assert made["weights"] == file_digest(weights)


def record(directory):
    return json.loads((directory / "tracking.json").read_text())


def test_the_command_that_is_printed_trains_it_on_from_the_converted_weights(vgpt, trained, convert):
    made = convert("gqa:n_kv_head=2", "trained-on")
    words = shlex.split(made["train"])
    assert words[:2] == ["vgpt", "train"]
    assert words[words.index("--max-steps") + 1] == "3"  # of 60
    done = vgpt(*words[1:])
    assert done.code == 0, done.err
    losses = journal(trained / "trained-on", "val/loss")
    assert losses[0] == pytest.approx(made["loss_after"], abs=1e-5)
    assert sorted(losses) == [0, 3]
    tags = record(trained / "trained-on")["tags"]
    told = json.loads(tags["vgpt.converted"])
    assert (told["run"], told["step"], told["attn"], told["weights"]) == ("mha", 60, "mha", made["weights"])
    assert (told["loss_before"], told["loss_after"]) == (made["loss_before"], made["loss_after"])
    assert tags["vgpt.init_digest"] == made["weights"]


def test_other_training_than_was_proposed_is_taken_until_it_has_begun(vgpt, trained, convert):
    words = shlex.split(convert("mqa", "free")["train"])[1:]
    longer = [*words, "--max-steps", "6", "--lr", "1e-3"]
    assert vgpt(*longer).code == 0
    assert max(journal(trained / "free", "train/lr").values()) <= 1e-3
    refused = vgpt(*words, "--max-steps", "9")
    assert refused.code == 2
    assert "max_steps: 6 there, 9 asked" in refused.err


def test_a_converted_run_is_not_trained_with_another_model(vgpt, trained, convert):
    words = shlex.split(convert("mqa", "held")["train"])[1:]
    refused = vgpt(*words, "--n-layer", "3")
    assert refused.code == 2
    assert "n_layer: 2 there, 3 asked" in refused.err


def test_what_starts_from_converted_weights_is_marked_as_well(vgpt, trained, convert, corpus):
    convert("gqa:n_kv_head=2", "middle")
    words = [*shlex.split(LINE), "--data", corpus, "--runs-dir", trained, "--max-steps", 1, "--warmup-steps", 0]
    done = vgpt("train", *words, "--attn", "gqa", "--init-from", "middle", "--run-name", "grandchild")
    assert done.code == 0, done.err
    assert json.loads(record(trained / "grandchild")["tags"]["vgpt.converted"])["run"] == "mha"
    again = convert("mqa", "twice", source="middle")
    assert again["source"]["attention"] == "gqa:n_kv_head=2"
    state = json.loads((trained / "twice/ckpt/step-00000000/state.json").read_text())
    assert state["converted"]["before"]["attn"] == "mha"


def test_compare_marks_a_converted_run_and_does_not_call_the_comparison_fair(vgpt, trained, convert):
    assert vgpt(*shlex.split(convert("mqa", "compared")["train"])[1:]).code == 0
    shown = vgpt("compare", "mha", "compared", "--runs-dir", trained)
    assert shown.code == 0, shown.err
    assert "converted" in shown.out.split("Conditions")[0]
    text = " ".join(shown.out.split())
    assert "converted, not trained from scratch: compared (mqa) from mha" in text
    assert "arXiv 2305.13245" in text
    assert "Conditions: NOT equal" in text


def test_beside_the_source_trained_on_for_as_long_conditions_are_equal_and_the_mark_stays(vgpt, trained, convert):
    words = shlex.split(convert("mqa", "uptrained")["train"])[1:]
    assert vgpt(*words).code == 0
    words[words.index("--init-from") + 1] = "mha"
    assert vgpt(*words, "--attn", "mha", "--run-name", "tuned").code == 0
    shown = vgpt("compare", "tuned", "uptrained", "--runs-dir", trained)
    assert "Conditions: equal" in shown.out
    assert "converted, not trained from scratch: uptrained (mqa) from mha" in " ".join(shown.out.split())


def test_a_converted_run_does_not_stand_for_its_variant(vgpt, trained, convert):
    assert vgpt(*shlex.split(convert("local:window_size=8", "narrow")["train"])[1:]).code == 0
    shown = vgpt("compare", "mha", "local:window_size=8", "--runs-dir", trained)
    assert "missing: local:window_size=8" in plain(shown.err)


def test_a_run_that_was_only_converted_is_listed_as_one_that_never_trained(vgpt, trained, convert):
    convert("mqa", "listed")
    listed = json.loads(vgpt("runs", "--runs-dir", trained, "--json").out)
    assert [one["state"] for one in listed if one["name"] == "listed"] == ["empty"]


def test_every_map_gives_a_run_that_evaluates_and_samples(vgpt, trained, convert):
    for attn in (
        "mqa",
        "local:window_size=8",
        "sparse:sparse_block_size=4",
        "linear",
        "mla:kv_lora_rank=8",
        "3xlocal+mqa",
    ):
        name = f"as-{attn.split(':')[0].replace('+', '-')}"
        made = convert(attn, name)
        assert made["loss_after"] == pytest.approx(evaluated(vgpt, trained, name), abs=1e-5)
    done = vgpt("sample", "as-mla", "--runs-dir", trained, "--max-tokens", 4, "--device", "cpu", "--dtype", "float32")
    assert done.code == 0, done.err


def test_conversion_is_a_function_of_the_weights_alone(trained, convert):
    for name in ("one", "two"):
        convert("mla:kv_lora_rank=8,q_lora_rank=8", name)
    one, two = (load_file(trained / name / "ckpt/step-00000000/model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_name_is_made_of_variant_and_source_and_a_name_that_is_taken_is_refused(vgpt, trained):
    words = ("convert", "mha", "--attn", "gqa", "--n-kv-head", 1, "--runs-dir", trained)
    assert vgpt(*words).code == 0
    settings = (trained / "gqa-from-mha/settings.json").read_bytes()
    again = vgpt(*words)
    assert again.code == 2
    assert "gqa-from-mha is there already, and nothing is overwritten" in plain(again.err)
    assert (trained / "gqa-from-mha/settings.json").read_bytes() == settings


def test_what_is_printed_tells_the_source_the_losses_and_what_follows(vgpt, trained):
    done = vgpt("convert", "mha", "--attn", "mqa", "--run-name", "told", "--runs-dir", trained)
    for word in ("mha at step 60", "loss before", "loss after", "each is the mean of 4", "vgpt train --attn mqa"):
        assert word in done.out
    assert "biased proxy for training from scratch" in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("absent", "--attn", "mqa"), "no checkpoint at absent"),
        (("mha",), "nothing says what the attention becomes"),
        (("mha", "--attn", "mha"), "has --attn mha already"),
        (("mha", "--attn", "gqa:n_kv_head=3"), "--n-kv-head 3 must divide --n-head 4"),
        (("mha", "--attn", "mla:v_head_dim=4"), "no map of weights is known"),
        (("mha", "--attn", "mqaa"), "unknown attention 'mqaa'"),
        (("mha", "--attn", "mqa", "--run-name", "../out"), "--run-name"),
        (("mha", "--attn", "mqa", "--data", "nowhere"), "the data of mha cannot be opened"),
        (("mha", "--attn", "gqa", "--window-size", "4"), "--window-size does not apply to --attn gqa"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_panel_and_leaves_nothing(vgpt, trained, words, told):
    before = sorted(path.name for path in trained.iterdir())
    done = vgpt("convert", *words, "--runs-dir", trained)
    assert done.code in (1, 2)
    assert told in plain(done.err)
    assert sorted(path.name for path in trained.iterdir()) == before


def test_a_damaged_checkpoint_is_refused(vgpt, trained, convert):
    convert("mqa", "damaged")
    weights = trained / "damaged/ckpt/step-00000000/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    done = vgpt("convert", "damaged", "--attn", "gqa", "--run-name", "never", "--runs-dir", trained)
    assert done.code == 1
    assert "model.safetensors" in "".join(done.err.replace("│", "").split())  # a long path is broken into lines
    assert not (trained / "never").exists()


def test_a_full_disk_leaves_no_half_of_a_run(vgpt, trained, monkeypatch):
    from vgpt.interchange import convert as module

    def full(*_args, **_settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_checkpoint", full)
    done = vgpt("convert", "mha", "--attn", "mqa", "--run-name", "half", "--runs-dir", trained)
    assert done.code == 1
    assert "No space left on device" in done.err
    assert not (trained / "half").exists()


def test_fine_tuning_with_another_attention_says_that_weights_are_converted_first(vgpt, trained, corpus):
    words = [*shlex.split(LINE), "--data", corpus, "--runs-dir", trained]
    done = vgpt("train", *words, "--attn", "mqa", "--init-from", "mha", "--run-name", "straight")
    assert done.code == 2
    assert "vgpt convert RUN --attn VARIANT" in done.err
