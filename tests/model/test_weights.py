"""Weights as other libraries and wrappers leave them: each form gives the logits of the plain one, or a way out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vgpt.errors import CheckpointError
from vgpt.model.interchange import load_gpt2_safetensors

GOLDEN = Path(__file__).parents[1] / "golden" / "hf_gpt2.safetensors"
CONFIG = {"model_type": "gpt2", "vocab_size": 31, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 4}


def plain() -> dict[str, torch.Tensor]:
    stored = load_file(GOLDEN)
    names = [name for name in stored if name.startswith("weights.")]
    return {name.removeprefix("weights.").removeprefix("transformer."): stored[name].clone() for name in names}


@pytest.fixture
def place(tmp_path):
    def write(weights, **config):
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | config), encoding="utf-8-sig")
        if weights is not None:
            save_file(
                {name: tensor.contiguous().clone() for name, tensor in weights.items()}, tmp_path / "model.safetensors"
            )
        return tmp_path

    return write


def logits(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_gpt2_safetensors(directory)(load_file(GOLDEN)["ids"])


WANTED = load_file(GOLDEN)["logits"]


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module.", "model.", "transformer.", "module._orig_mod.transformer.", "model.module.model."],
)
def test_what_wrappers_put_before_names_is_taken_off(place, prefix):
    torch.testing.assert_close(logits(place({prefix + name: tensor for name, tensor in plain().items()})), WANTED)


@pytest.mark.parametrize("kept", ["wte.weight", "lm_head.weight", "both"])
def test_of_a_tied_pair_either_weight_will_do(place, kept):
    weights = plain()
    embedding = weights.pop("wte.weight")
    weights.pop("lm_head.weight", None)
    weights |= {name: embedding for name in ("wte.weight", "lm_head.weight") if kept in (name, "both")}
    torch.testing.assert_close(logits(place(weights)), WANTED)


def test_weights_that_lie_output_first_are_left_as_they_lie(place):
    turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    weights = {name: tensor.t() if name.endswith(turned) else tensor for name, tensor in plain().items()}
    torch.testing.assert_close(logits(place(weights)), WANTED)


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float16, 1e-2), (torch.bfloat16, 1e-1), (torch.float64, 1e-5)])
def test_other_precisions_become_float32(place, dtype, slack):
    directory = place({name: tensor.to(dtype) for name, tensor in plain().items()})
    assert {tensor.dtype for tensor in load_gpt2_safetensors(directory).state_dict().values()} == {torch.float32}
    torch.testing.assert_close(logits(directory), WANTED, rtol=0, atol=slack)


def test_rows_beyond_the_ids_of_the_settings_are_padding(place):
    weights = plain()
    weights.pop("lm_head.weight", None)
    weights["wte.weight"] = torch.cat([weights["wte.weight"], torch.full((33, 16), 9.0)])
    torch.testing.assert_close(logits(place(weights)), WANTED)


def sharded(directory: Path, weights: dict[str, torch.Tensor]) -> None:
    names = sorted(weights)
    table = {name: f"model-0000{1 + index % 3}-of-00003.safetensors" for index, name in enumerate(names)}
    for file in set(table.values()):
        save_file({name: weights[name] for name in names if table[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))


def test_weights_in_several_files_are_found_by_their_index(place):
    directory = place(None)
    sharded(directory, {f"transformer.{name}": tensor for name, tensor in plain().items()})
    torch.testing.assert_close(logits(directory), WANTED)
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors of 3 files missing"):
        load_gpt2_safetensors(directory)
    longer_than_any_file = "a" * 4000
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": longer_than_any_file}}))
    with pytest.raises(CheckpointError, match=r"a{80}\.\.\. of 1 file missing"):
        load_gpt2_safetensors(directory)


def test_an_index_never_leads_out_of_its_directory(place, tmp_path_factory):
    directory = place(None)
    outside = tmp_path_factory.mktemp("outside") / "x.safetensors"
    save_file(plain(), outside)
    for name in (str(outside), f"../{outside.parent.name}/x.safetensors"):
        table = dict.fromkeys(plain(), name)
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
        with pytest.raises(CheckpointError, match="a file elsewhere"):
            load_gpt2_safetensors(directory)


@pytest.mark.parametrize(
    ("file", "message", "hint"),
    [
        ("pytorch_model.bin", "only pytorch_model.bin", "save_pretrained"),
        ("pytorch_model-00001-of-00002.bin", "only pytorch_model-00001-of-00002.bin", "save_pretrained"),
        ("adapter_model.safetensors", "only an adapter", "merge_and_unload"),
        ("gpt2.safetensors", "model.safetensors not found", "mv "),
        ("notes.txt", "model.safetensors not found", "Give a directory"),
    ],
)
def test_what_is_there_instead_of_weights_is_named_with_a_way_out(place, file, message, hint):
    directory = place(None)
    (directory / file).write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_gpt2_safetensors(directory)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ln_f.weight": torch.ones(16, dtype=torch.int8)}, r"ln_f\.weight is of int8"),
        ({"ln_f.weight": torch.full((16,), float("nan"))}, r"16 of 16 numbers in ln_f\.weight are NaN"),
        ({"ln_f.weight": torch.ones(15)}, r"ln_f\.weight is of shape \(15,\), \(16,\) expected"),
        ({"ln_g.weight": torch.ones(16)}, r"ln_g\.weight is unknown"),
        ({"ln_f.weight": None}, r"ln_f\.weight is missing"),
        ({"lm_head.weight": torch.ones(31, 16)}, "the embedding and the output layer differ"),
        ({"module.ln_f.weight": torch.ones(16)}, "two different weights are called"),
    ],
)
def test_weights_that_no_training_can_start_from_are_refused_by_name(place, changes, complaint):
    weights = {name: tensor for name, tensor in (plain() | changes).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=complaint):
        load_gpt2_safetensors(place(weights))


@pytest.mark.parametrize("config", [{"n_layer": 10**9}, {"n_embd": 10**9}, {"n_head": 3}, {"vocab_size": "many"}])
def test_settings_that_are_nonsense_cost_no_memory(place, config):
    with pytest.raises(CheckpointError):
        load_gpt2_safetensors(place(plain(), **config))
