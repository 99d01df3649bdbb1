"""Other libraries' models compute the same numbers from the same weights."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vgpt.errors import CheckpointError
from vgpt.interchange.stock import to_hf
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.interchange import config_from_hf, from_hf, load_gpt2_safetensors

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = {"vocab_size": 31, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}


def golden(kind: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    stored = load_file(GOLDEN / f"hf_{kind}.safetensors")
    weights = {name.removeprefix("weights."): t for name, t in stored.items() if name.startswith("weights.")}
    return weights, stored["ids"], stored["logits"]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_bigcode"])
def test_recorded_logits_of_gpt2_and_gpt_bigcode_are_met(kind):
    weights, ids, logits = golden(kind)
    config = config_from_hf({"model_type": kind, "activation_function": "gelu_new", **SIZES})
    if kind == "gpt_bigcode":
        config = config_from_hf({"model_type": kind, "activation_function": "gelu_pytorch_tanh", **SIZES})
    net = GPT2Model(config)
    net.load_state_dict(from_hf(weights, kind=config.attn.kind))
    with torch.no_grad():
        torch.testing.assert_close(net(ids), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_bigcode"])
@pytest.mark.parametrize("prefix", [True, False])
def test_a_local_directory_is_read_with_and_without_the_usual_prefix(tmp_path, kind, prefix):
    weights, ids, logits = golden(kind)
    if not prefix:
        weights = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
        weights["h.0.attn.bias"] = torch.ones(1, 1, 12, 12).tril()  # published files store the causal mask
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **SIZES}), encoding="utf-8")
    net = load_gpt2_safetensors(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(net(ids), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attn", ["mha", "mqa"])
def test_weights_go_out_and_come_back_unchanged(model, attn):
    net = model(attn=attn, loud=True)
    back = from_hf(to_hf(net), kind=attn)
    state = net.state_dict()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"model_type": "llama"}, "'llama' cannot be read"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"model_type": "gpt_bigcode", "multi_query": False}, "multi_query = False"),
    ],
)
def test_foreign_options_are_named(values, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        config_from_hf({**SIZES, **values})


def test_missing_damaged_and_unfitting_files_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json: not found"):
        load_gpt2_safetensors(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not a readable GPT-2 model"):
        load_gpt2_safetensors(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **SIZES}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model\.safetensors|not found"):
        load_gpt2_safetensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="not a readable GPT-2 model"):
        load_gpt2_safetensors(tmp_path)
    save_file({"wte.weight": torch.zeros(31, 16)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"do not fit config\.json"):
        load_gpt2_safetensors(tmp_path)


def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers")


@pytest.mark.oracle
@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
@pytest.mark.parametrize("tie", [True, False])
def test_logits_equal_those_of_transformers_gpt2(ids, activation, tie):
    hf = transformers()
    config = hf.GPT2Config(
        **{**SIZES, "vocab_size": 61, "n_positions": 20},
        activation_function=activation,
        tie_word_embeddings=tie,
        attn_implementation="eager",
    )
    theirs = hf.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
        ours = GPT2Model(config_from_hf(config.to_dict()))
        ours.load_state_dict(from_hf(theirs.state_dict(), tie=tie))
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=1e-5)


def test_a_byte_order_mark_before_config_json_is_no_content(tmp_path):
    weights, ids, logits = golden("gpt2")
    save_file(weights, tmp_path / "model.safetensors")
    config = json.dumps({"model_type": "gpt2", "activation_function": "gelu_new", **SIZES})
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + config.encode())
    with torch.no_grad():
        torch.testing.assert_close(load_gpt2_safetensors(tmp_path)(ids), logits, rtol=0, atol=1e-5)
