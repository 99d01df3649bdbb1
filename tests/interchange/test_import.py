"""Directories of GPT-2 and GPTBigCode as runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vgpt.data.prepare import prepare
from vgpt.errors import CheckpointError, UsageError
from vgpt.interchange.importing import import_run
from vgpt.interchange.own import own_form
from vgpt.interchange.stock import stock_form
from vgpt.model.gpt2 import GPT2Model
from vgpt.settings.commands import PrepareConfig
from vgpt.settings.interchange import ImportConfig
from vgpt.text.bpe import train_bpe
from vgpt.text.gpt2 import load_vocab_files
from vgpt.text.tokenizer_json import BYTE_ALPHABET
from vgpt.tracking.record import read_record
from vgpt.training.checkpoints.checkpoint import find_checkpoint

TEXT = "The quick brown fox jumps over the lazy dog, and comes back. " * 400


@pytest.fixture
def hub(make_run, tmp_path, tokenizer):
    """Make a directory as transformers leaves one, without transformers; returns it and the model in it."""

    def make(attn: str = "mha", *, change=None, beside: bool = True, **model: object) -> tuple[Path, GPT2Model]:
        net = find_checkpoint(make_run(attn, name=f"of-{attn}", **model)).load_model().eval()
        form, place = stock_form(net), tmp_path / f"hub-{attn}"
        place.mkdir()
        weights = {name: tensor.clone() for name, tensor in form.weights.items()}
        config = {"architectures": [form.architecture], **form.config}
        save_file(change(weights, config) if change else weights, place / "model.safetensors")
        (place / "config.json").write_text(json.dumps(config))
        if beside:
            tokenizer.save(place)
        return place, net

    return make


def settings(tmp_path: Path, **more: object) -> ImportConfig:
    return ImportConfig.model_validate(
        {"runs_dir": tmp_path / "runs", "tracker": "journal", "device": "cpu", "dtype": "float32", **more}
    )


def without_prefix(weights, config):
    """As the files of openai-community/gpt2 are: no prefix, no output layer, with masks."""
    plain = {name.removeprefix("transformer."): tensor for name, tensor in weights.items() if "lm_head" not in name}
    return {**plain, "h.0.attn.bias": torch.ones(1, 1, 96, 96).tril()}


def only_the_head(weights, config):
    return {name: tensor for name, tensor in weights.items() if "wte" not in name}


def padded(weights, config):
    config["vocab_size"] = 320
    return {
        name: torch.cat([tensor, torch.full((20, 32), 9.0)]) if "wte" in name or "lm_head" in name else tensor
        for name, tensor in weights.items()
    }


def halved(weights, config):
    return {name: tensor.half() for name, tensor in weights.items()}


@pytest.mark.parametrize("attn", ["mha", "mqa"])
@pytest.mark.parametrize("change", [None, without_prefix, only_the_head, padded, halved])
def test_a_directory_becomes_a_run_with_the_same_logits(hub, tmp_path, attn, change):
    place, net = hub(attn, change=change)
    said: list[str] = []
    found = import_run(f"hf:{place}", settings(tmp_path, run_name="taken-in"), said.append)
    assert (found.name, found.model.attn.kind, found.loss) == ("taken-in", attn, None)
    run = find_checkpoint("taken-in", runs_dir=tmp_path / "runs")
    assert run.tokenizer().fingerprint == find_checkpoint(tmp_path / "runs" / f"of-{attn}").tokenizer().fingerprint
    ids = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        close = 2e-2 if change is halved else 1e-5
        torch.testing.assert_close(run.load_model()(ids), net(ids), rtol=0, atol=close)
    assert any("the first 300 are used" in line for line in said) == (change is padded)
    assert {tensor.dtype for tensor in load_file(run.directory / "model.safetensors").values()} == {torch.float32}


def test_several_files_with_an_index_are_one_model(hub, tmp_path):
    place, net = hub()
    weights = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    table = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(table.values()):
        save_file({name: weights[name] for name in table if table[name] == file}, place / file)
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    import_run(f"hf:{place}", settings(tmp_path), lambda _: None)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        theirs = find_checkpoint("hub-mha", runs_dir=tmp_path / "runs").load_model()(ids)
        torch.testing.assert_close(theirs, net(ids), rtol=0, atol=1e-5)


def test_vocab_json_and_merges_txt_are_a_tokenizer_too(hub, tmp_path, tokenizer):
    place, _ = hub(beside=False)
    spelled = ["".join(BYTE_ALPHABET[byte] for byte in tokenizer.token_bytes(i)) for i in range(299)]
    ids = {token: number for number, token in enumerate([*spelled, "<|endoftext|>"])}
    merges = [f"{spelled[left]} {spelled[right]}" for left, right in tokenizer.merges]
    (place / "vocab.json").write_text(json.dumps(ids))
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    found = import_run(f"hf:{place}", settings(tmp_path), lambda _: None)
    assert found.tokenizer == "bpe-300"
    ours = load_vocab_files(place)
    plain = train_bpe([TEXT], 300, pattern="gpt2")
    assert ours.pattern == plain.pattern
    text = "The quick brown fox"
    assert find_checkpoint(found.directory).tokenizer().decode(ours.encode(text)) == text


def test_an_imported_run_evaluates_samples_compares_tunes_and_leaves_again(vgpt, hub, tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, _ = hub()
    tokenizer.save(tmp_path / "tok")
    (tmp_path / "text.txt").write_text(TEXT)
    prepare([tmp_path / "text.txt"], PrepareConfig(tokenizer=str(tmp_path / "tok"), out=tmp_path / "data"))
    here = ("--tracker", "journal", "--device", "cpu", "--dtype", "float32", "--data", "data")
    done = vgpt("import", f"hf:{place}", "--run-name", "theirs", "--json", *here)
    assert done.code == 0, done.err
    loss = json.loads(done.out)["loss"]
    evaluated = vgpt("eval", "theirs", "--device", "cpu", "--dtype", "float32", "--windows", "128", "--json")
    assert json.loads(evaluated.out)["loss"] == pytest.approx(loss, abs=1e-6)
    assert vgpt("sample", "theirs", "--max-tokens", "4", "--dtype", "float32", "--json").code == 0
    sizes = ("--n-layer", "2", "--n-head", "4", "--n-embd", "32", "--block-size", "96", "--batch-size", "2")
    assert vgpt("train", "--run-name", "ours", "--max-steps", "2", *sizes, *here).code == 0
    tuned = vgpt("train", "--run-name", "tuned", "--max-steps", "1", "--init-from", "theirs", *sizes, *here)
    assert tuned.code == 0, tuned.err
    both = vgpt("compare", "ours", "theirs", "--tracker", "journal")
    assert both.code == 0, both.err
    told = " ".join(both.out.split())
    assert "theirs was imported: how it was trained is not on record" in told
    assert "imported (start): trained by vgpt in ours" in told
    assert "unequal conditions: no verdict" in told
    assert f"{loss:.4f}" in told
    assert "not recorded in theirs" not in told  # said once, not for every setting
    # A variant's row shows runs that were trained here, though the imported one is of the same variant.
    (row,) = json.loads(vgpt("compare", "mha", "--tracker", "journal", "--json").out)["rows"]
    assert "theirs" not in {run["run_name"] for run in row["runs"]}
    assert "finished" in vgpt("runs").out


def damaged(place: Path) -> None:
    (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:200])


def pickled(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def of(**values):
    def change(place: Path) -> None:
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, **values}))

    return change


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damaged, "not a readable GPT-2 model: model.safetensors"),
        (pickled, "only pytorch_model.bin, which can run any program"),
        (of(model_type="llama"), "model type 'llama' cannot be read"),
        (of(activation_function="quick_gelu"), "activation_function = 'quick_gelu'"),
        (of(n_embd=64), "do not fit config.json"),
        (of(layer_norm_epsilon=1e-6), "layer_norm_epsilon = 1e-06"),
        (lambda place: (place / "config.json").write_text("{"), "not a readable GPT-2 model: config.json"),
        (lambda place: (place / "tokenizer.json").write_text("[]"), "tokenizer.json"),
        (shutil.rmtree, "not found"),
    ],
)
def test_what_cannot_be_a_run_is_one_message_and_leaves_none(vgpt, hub, tmp_path, spoil, said):
    place, _ = hub()
    spoil(place)
    done = vgpt("import", f"hf:{place}", "--runs-dir", tmp_path / "runs", "--tracker", "journal")
    assert done.code in (1, 2)
    assert said.replace(" ", "") in "".join(done.err.replace("│", "").split())
    assert done.err.count("╭") == 1
    assert "Traceback" not in done.err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["of-mha"]


def test_names_that_are_taken_and_tokenizers_that_are_missing_are_refused(hub, tmp_path):
    place, _ = hub(beside=False)
    with pytest.raises(UsageError, match="no tokenizer is there"):
        import_run(f"hf:{place}", settings(tmp_path), lambda _: None)
    with pytest.raises(UsageError, match="there is a run of-mha"):
        import_run(f"hf:{place}", settings(tmp_path, run_name="of-mha"), lambda _: None)
    with pytest.raises(UsageError, match="where it is from is not said"):
        import_run(str(place), settings(tmp_path), lambda _: None)


def test_a_record_says_what_is_known_and_nothing_of_training(hub, tmp_path):
    place, net = hub("mqa")
    found = import_run(f"hf:{place}", settings(tmp_path, run_name="known"), lambda _: None)
    record = read_record(found.directory)
    assert record is not None
    assert record.tags["vgpt.imported"].startswith(f"hf:{place}, SHA-256 ")
    assert record.params["n_embd"] == "32"
    assert not {"lr", "max_steps", "seed", "data"} & record.params.keys()
    assert not {"vgpt.conditions", "vgpt.settings_hash", "vgpt.seed"} & record.tags.keys()
    assert found.parameters == sum(parameter.numel() for parameter in net.parameters())


def test_a_directory_with_code_of_its_own_comes_back_without_running_it(make_run, tmp_path, tokenizer):
    run = find_checkpoint(make_run("local:window_size=5+linear", pos="rope", sinks=False, tie_weights=False))
    net, place = run.load_model().eval(), tmp_path / "own"
    place.mkdir()
    form = own_form(net)
    save_file({name: tensor.clone() for name, tensor in form.weights.items()}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(form.config))
    (place / "modeling_vgpt.py").write_text("raise SystemExit('it was run')")
    tokenizer.save(place)
    found = import_run(f"hf:{place}", settings(tmp_path, run_name="back"), lambda _: None)
    assert found.model == run.model
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(find_checkpoint(found.directory).load_model()(ids), net(ids))


def test_without_data_evaluating_asks_for_it(vgpt, hub, tmp_path):
    place, _ = hub()
    import_run(f"hf:{place}", settings(tmp_path, run_name="bare"), lambda _: None)
    done = vgpt("eval", tmp_path / "runs" / "bare", "--device", "cpu")
    assert done.code == 1
    assert "--data DIRECTORY" in done.message


def test_a_failure_while_it_is_recorded_leaves_no_run(hub, tmp_path, monkeypatch):
    place, _ = hub()
    monkeypatch.setattr("vgpt.interchange.importing.open_tracker", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        import_run(f"hf:{place}", settings(tmp_path, run_name="half"), lambda _: None)
    assert not (tmp_path / "runs" / "half").exists()
    with pytest.raises(CheckpointError):
        find_checkpoint("half", runs_dir=tmp_path / "runs")
