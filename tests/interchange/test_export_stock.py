"""Models that classes of transformers compute: exported, and loaded by transformers itself."""

import json
import warnings

import pytest
import torch

from vgpt.interchange.export import export_run
from vgpt.model.generation import generate
from vgpt.training.checkpoints.checkpoint import find_checkpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle


def load(place):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(place)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(place)


@pytest.mark.parametrize(
    ("attn", "changes", "architecture"),
    [
        ("mha", {}, "GPT2LMHeadModel"),
        ("mha", {"tie_weights": False, "activation": "relu2", "bias": False}, "GPT2LMHeadModel"),
        ("mqa", {}, "GPTBigCodeForCausalLM"),
        ("gqa:n_kv_head=2", {}, "GPT2LMHeadModel"),
        ("local:window_size=5", {}, "GPTNeoForCausalLM"),
        ("local:window_size=5", {"bias": False}, "GPTNeoForCausalLM"),
        ("local:window_size=5+gqa:n_kv_head=2", {}, "GPTNeoForCausalLM"),
    ],
)
def test_a_class_of_transformers_computes_the_same_logits_and_the_same_text(
    make_run, tmp_path, attn, changes, architecture
):
    run = make_run(attn, **changes)
    found = export_run(str(run), tmp_path / "out", runs_dir=tmp_path)
    assert (found.architecture, found.own_code) == (architecture, False)
    assert found.difference <= 1e-5
    theirs, _ = load(tmp_path / "out")
    ours = find_checkpoint(run).load_model().eval()
    assert type(theirs).__name__ == architecture
    ids = torch.randint(300, (2, 96), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), rtol=0, atol=1e-5)
    prompt = ids[:, :20]
    theirs.generation_config.eos_token_id = None
    text = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False)
    mine = generate(ours, prompt, max_new_tokens=64, temperature=0, seed=0)
    assert text[:, 20:].tolist() == mine.tokens
    assert text.shape == (2, 84)


def test_the_tokenizer_gives_the_same_ids_and_the_same_text(make_run, tmp_path, tokenizer):
    export_run(str(make_run()), tmp_path / "out", runs_dir=tmp_path)
    _, theirs = load(tmp_path / "out")
    for text in ("Fox  foxes\n\n12,345 don't\t", "naïve Grüße 你好 \U0001f600", "The dog<|endoftext|>The"):
        wanted = tokenizer.encode(text, allow_special=True)
        assert theirs(text)["input_ids"] == wanted
        assert theirs.decode(wanted, clean_up_tokenization_spaces=False) == text
    assert theirs.eos_token_id == tokenizer.end_of_text
    assert theirs.model_max_length == 96


def test_settings_name_the_tokens_between_texts(make_run, tmp_path, tokenizer):
    export_run(str(make_run("mqa", dropout=0.1)), tmp_path / "out", runs_dir=tmp_path)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    for table in (config, generation):
        assert table["bos_token_id"] == table["eos_token_id"] == tokenizer.end_of_text
    assert config["tie_word_embeddings"] is True
    assert config["resid_pdrop"] == config["embd_pdrop"] == 0.1
    assert config["attn_pdrop"] == 0
