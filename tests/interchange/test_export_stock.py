"""Models that classes of transformers compute: exported, and loaded by transformers itself."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

from vgpt.interchange.export import export_run
from vgpt.interchange.stock import stock_form
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


STOCK = pytest.mark.parametrize(
    ("attn", "changes", "architecture"),
    [
        ("mha", {}, "GPT2LMHeadModel"),
        ("mha", {"tie_weights": False, "activation": "relu2", "bias": False}, "GPT2LMHeadModel"),
        ("mqa", {}, "GPTBigCodeForCausalLM"),
        ("gqa:n_kv_head=2", {}, "GPT2LMHeadModel"),
        ("local:window_size=5", {}, "GPTNeoForCausalLM"),
        ("local:window_size=5", {"bias": False}, "GPTNeoForCausalLM"),
        ("local:window_size=5+gqa:n_kv_head=2", {}, "GPTNeoForCausalLM"),
        ("mqa+mha", {"mlp_hidden": 48, "activation": "silu"}, "GPT2LMHeadModel"),
    ],
)


def same(theirs, ours):
    """Check logits, and 64 tokens of the likeliest text."""
    ids = torch.randint(300, (2, 96), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), rtol=0, atol=1e-5)
    prompt = ids[:, :20]
    theirs.generation_config.eos_token_id = None
    text = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False)
    mine = generate(ours, prompt, max_new_tokens=64, temperature=0, seed=0)
    assert text[:, 20:].tolist() == mine.tokens
    assert text.shape == (2, 84)


@STOCK
def test_a_class_of_transformers_computes_the_same_logits_and_the_same_text(make_run, attn, changes, architecture):
    ours = find_checkpoint(make_run(attn, **changes)).load_model().eval()
    form = stock_form(ours)
    assert form.architecture == architecture
    own_class = getattr(transformers, architecture)
    config = own_class.config_class(**form.config, bos_token_id=299, eos_token_id=299, pad_token_id=299)
    theirs = own_class(config).eval()
    theirs.load_state_dict(form.weights)
    same(theirs, ours)


@pytest.mark.slow
@STOCK
def test_a_directory_of_a_class_of_transformers_is_the_model(make_run, tmp_path, attn, changes, architecture):
    run = make_run(attn, **changes)
    # Filled biases of a window are large: asked for by name, for they would get code of their own by themselves.
    found = export_run(str(run), tmp_path / "out", runs_dir=tmp_path, classes="stock")
    assert (found.architecture, found.own_code) == (architecture, False)
    assert found.difference <= 1e-5
    theirs = load(tmp_path / "out")[0]
    assert type(theirs).__name__ == architecture
    same(theirs, find_checkpoint(run).load_model().eval())


def test_an_exported_directory_is_the_model_with_its_tokenizer_its_settings_and_its_card(
    vgpt, make_run, tmp_path, tokenizer
):
    run = make_run("mqa", name="small", dropout=0.1)
    (run / "summary.json").write_text(
        json.dumps({"metrics": {"val/loss": 3.5, "val/bits_per_byte": 1.75, "train/steps": 9}})
    )
    done = vgpt("export", "small", tmp_path / "deep" / "out", "--to", "hf", "--runs-dir", run.parent, "--json")
    assert done.code == 0, done.err
    told, out = json.loads(done.out), tmp_path / "deep" / "out"
    assert (told["architecture"], told["own_code"], told["step"]) == ("GPTBigCodeForCausalLM", False, 7)
    assert told["difference"] <= 1e-5
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # nothing of the making of it is left

    theirs, theirs_tokenizer = load(out)
    same(theirs, find_checkpoint(run).load_model().eval())
    for text in ("Fox  foxes\n\n12,345 don't\t", "naïve Grüße 你好 \U0001f600", "The dog<|endoftext|>The"):
        wanted = tokenizer.encode(text, allow_special=True)
        assert theirs_tokenizer(text)["input_ids"] == wanted
        assert theirs_tokenizer.decode(wanted, clean_up_tokenization_spaces=False) == text
    assert isinstance(theirs_tokenizer, transformers.PreTrainedTokenizerFast)
    assert theirs_tokenizer.eos_token_id == tokenizer.end_of_text
    assert theirs_tokenizer.model_max_length == 96

    config = json.loads((out / "config.json").read_text())
    for table in (config, json.loads((out / "generation_config.json").read_text())):
        assert table["bos_token_id"] == table["eos_token_id"] == tokenizer.end_of_text
    assert config["tie_word_embeddings"] is True
    assert config["resid_pdrop"] == config["embd_pdrop"] == 0.1
    assert config["attn_pdrop"] == 0

    stored = load_file(out / "model.safetensors")
    own = load_file(next((run / "ckpt").glob("step-*")) / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert all(torch.equal(stored[f"transformer.{name}"], tensor) for name, tensor in own.items())

    card = (out / "README.md").read_text()
    # The best evaluation's loss, and its bits per byte as the last one's stand to its own loss.
    for line in ("| validation loss | 3.2500 nats", "| validation bits per byte | 1.6250 |", "7 steps, 700 tokens"):
        assert line in card
    # One key and one value of width 8 in each of 2 layers for 96 tokens.
    assert "(6,144 bytes)" in card
    assert f"| {sum(tensor.numel() for tensor in own.values()):,} (" in card
    assert "trust_remote_code" not in card
