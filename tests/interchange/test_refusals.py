"""What an export refuses, with one message, and what it leaves: nothing."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from vgpt.errors import CheckpointError, UsageError
from vgpt.files.digests import file_digest
from vgpt.interchange import check, directory
from vgpt.interchange.check import require_transformers
from vgpt.interchange.export import export_run
from vgpt.interchange.stock import stock_form, stock_obstacle
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.training.checkpoints.checkpoint import find_checkpoint, save_checkpoint

SMALL = {"vocab_size": 61, "n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attn": "linear"}, "none has the attention of linear"),
        ({"attn": "mla+mha"}, "none has the attention of mla"),
        ({"pos": "rope"}, "none has --pos rope"),
        ({"sinks": True}, "none has --sinks --pos learned"),
        ({"attn": "local:window_size=4+local:window_size=8"}, "one window"),
    ],
)
def test_why_no_class_of_transformers_computes_a_model_is_said(changes, said):
    config = GPT2Config.model_validate({**SMALL, **changes})
    assert said in stock_obstacle(config)
    with pytest.raises(CheckpointError, match="no class of transformers computes this model"):
        stock_form(GPT2Model(config))


@pytest.mark.parametrize("attn", ["sparse:sparse_block_size=8", "local:window_size=24"])
def test_what_sees_all_of_the_context_is_plain_attention(attn):
    assert stock_form(GPT2Model(GPT2Config.model_validate({**SMALL, "attn": attn}))).architecture == "GPT2LMHeadModel"


def strong(run, factor):
    """Make the queries' weights of a run's first layer almost blind to one direction, and say how large a shift is."""
    net = find_checkpoint(run).load_model()
    with torch.no_grad():
        rows = net.h[0].attn.c_attn.weight[:32]
        u, scales, v = torch.linalg.svd(rows)
        scales[-1] = 1.0 / factor
        rows.copy_(u @ scales.diag() @ v)
        net.h[0].attn.c_attn.bias[:32] = u[:, -1]
    return net


def test_how_far_a_norm_is_shifted_to_hold_biases_is_known(make_run):
    for factor in (1.0, 100.0):
        form = stock_form(strong(make_run("local:window_size=5"), factor))
        assert form.shift is not None
        assert 0.1 * factor < form.shift < 10 * factor
    assert stock_form(GPT2Model(GPT2Config.model_validate(SMALL))).shift is None


@pytest.mark.slow
@pytest.mark.oracle
def test_a_window_whose_biases_cannot_be_folded_gets_code_of_its_own(make_run, tmp_path):
    pytest.importorskip("transformers")
    run = make_run("local:window_size=5")
    checkpoint, said = find_checkpoint(run), []
    save_checkpoint(
        run / "ckpt",
        model=checkpoint.model,
        weights=dict(strong(run, 100.0).state_dict()),
        optimizer={},
        state=checkpoint.state,
        settings=checkpoint.settings,
        tokenizer=checkpoint.tokenizer(),
    )
    found = export_run(str(run), tmp_path / "out", runs_dir=tmp_path, notify=said.append)
    assert (found.architecture, found.difference <= 1e-5) == ("VgptForCausalLM", True)
    assert any("cannot be folded into GPTNeoForCausalLM" in line for line in said)
    forced = export_run(str(run), tmp_path / "stock", runs_dir=tmp_path, classes="stock")
    assert (forced.architecture, forced.difference <= 1e-4) == ("GPTNeoForCausalLM", True)


def test_a_directory_that_is_not_empty_is_left_alone(vgpt, make_run, tmp_path):
    pytest.importorskip("transformers")
    run, out = make_run(), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    done = vgpt("export", run, out)
    assert done.code == 2
    assert "is not empty" in done.err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    shutil.rmtree(out)
    out.write_text("a file")
    assert "is a file" in vgpt("export", run, out).err
    assert out.read_text() == "a file"


def test_without_transformers_one_message_says_how_to_get_it(vgpt, make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    done = vgpt("export", make_run(), tmp_path / "out")
    assert done.code == 2
    assert "pip install 'vgpt[hf]'" in done.err
    with pytest.raises(UsageError, match="transformers is not installed"):
        require_transformers()


def test_a_run_whose_plug_in_is_gone_is_one_message(vgpt, make_run, tmp_path):
    pytest.importorskip("transformers")
    run = make_run("mha")
    step = next((run / "ckpt").glob("step-*"))
    plugins = '[{"kind": "gone", "source": "/nowhere/gone.py", "distribution": "", "sha256": "00"}]'
    (step / "plugins.json").write_text(plugins)
    manifest = step / "manifest.json"

    table = json.loads(manifest.read_text())
    table["files"]["plugins.json"] = {"bytes": len(plugins), "sha256": file_digest(step / "plugins.json")}
    manifest.write_text(json.dumps(table))
    done = vgpt("export", run, tmp_path / "out")
    assert done.code == 1
    assert "comes from a plug-in that is not loaded" in " ".join(done.err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.oracle
def test_a_directory_that_is_another_model_when_loaded_again_is_not_written(make_run, tmp_path, monkeypatch):
    pytest.importorskip("transformers")

    def spoiled(weights, path, **options):
        save_file({**weights, "transformer.wpe.weight": weights["transformer.wpe.weight"] * 1.01}, path, **options)

    monkeypatch.setattr(directory, "save_file", spoiled)
    with pytest.raises(CheckpointError, match="its logits differ by"):
        export_run(str(make_run()), tmp_path / "out", runs_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
