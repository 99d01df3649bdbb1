"""The same weights through lm-eval's own model of a Hugging Face directory."""

import contextlib
import io
import math

import pytest
import torch

from vgpt.data.progress import Silent
from vgpt.evaluation.suites.results import results_of
from vgpt.evaluation.suites.scoring import Scorer
from vgpt.interchange.export import export_run
from vgpt.settings.train import TrainConfig
from vgpt.training.checkpoints.checkpoint import TrainingState, point, save_checkpoint

pytest.importorskip("lm_eval")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def sizes(config, end):
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "bos_token_id": end,
        "eos_token_id": end,
    }


def named(model, *, turned):
    """The weights under the names of transformers; GPT-2's own layers hold them (input, output)."""
    state = {f"transformer.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if turned and tensor.dim() == 2 and (".attn." in name or ".mlp." in name):
            state[name] = tensor.t().contiguous()
    return {**state, "lm_head.weight": model.wte.weight}


def as_gpt2(model, end):
    config = transformers.GPT2Config(**sizes(model.config, end), activation_function="gelu_new")
    return transformers.GPT2LMHeadModel(config), named(model, turned=True)


def as_bigcode(model, end):
    config = transformers.GPTBigCodeConfig(
        **sizes(model.config, end), multi_query=True, activation_function="gelu_pytorch_tanh"
    )
    return transformers.GPTBigCodeForCausalLM(config), named(model, turned=False)


def with_all_heads(model, make_model):
    """The same model with a key and a value for each head: grouped ones repeated."""
    config = model.config
    width, heads, groups = config.n_embd, config.n_head, config.attn.n_kv_head
    size = width // heads
    state = model.state_dict()
    for name in [name for name in state if ".attn.c_attn." in name]:
        query, key, value = state[name].split([width, groups * size, groups * size])
        wide = [
            part.view(groups, size, *part.shape[1:])
            .repeat_interleave(heads // groups, 0)
            .reshape(width, *part.shape[1:])
            for part in (key, value)
        ]
        state[name] = torch.cat([query, *wide])
    whole = make_model("mha")
    whole.load_state_dict(state)
    return whole


def as_neo(model, end):
    """GPTNeo: separate, unbiased projections of queries, keys and values; scores that are not divided."""
    config = model.config
    width = config.n_embd
    neo = transformers.GPTNeoConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.block_size,
        hidden_size=width,
        num_layers=config.n_layer,
        num_heads=config.n_head,
        intermediate_size=config.hidden,
        window_size=config.attn.window_size,
        attention_types=[[["local"], config.n_layer]],
        activation_function="gelu_new",
        bos_token_id=end,
        eos_token_id=end,
    )
    found = {}
    for name, tensor in model.state_dict().items():
        if ".attn.c_attn.weight" in name:
            place = name.split(".attn.")[0]
            query, key, value = tensor.split(width)
            for short, part in (("q", query / math.sqrt(width // config.n_head)), ("k", key), ("v", value)):
                found[f"transformer.{place}.attn.attention.{short}_proj.weight"] = part
        elif ".attn.c_attn.bias" in name:
            assert not tensor.any()
        else:
            found[f"transformer.{name}".replace(".attn.c_proj.", ".attn.attention.out_proj.")] = tensor
    found["lm_head.weight"] = model.wte.weight
    return transformers.GPTNeoForCausalLM(neo), found


def directory(kind, make_model, tokenizer, folder):
    """Write the model as a Hugging Face directory; return it with the model."""
    model = make_model(kind)
    if kind == "local":
        with torch.no_grad():
            for block in model.blocks:
                block.attn.c_attn.bias.zero_()
    make = {"mqa": as_bigcode, "local": as_neo}.get(kind, as_gpt2)
    written = with_all_heads(model, make_model) if kind == "gqa" else model
    foreign, weights = make(written, tokenizer.end_of_text)
    missing, unexpected = foreign.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith((".bias", "masked_bias")) and ".attn." in name for name in missing)
    foreign.save_pretrained(folder)
    tokenizer.save(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    return model


def exported(kind, make_model, tokenizer, folder):
    """Write the model as `vgpt export` does; return it with whether its directory brings code of its own."""
    model = make_model(kind)
    attn = model.config.attn.model_dump()
    size = {name: getattr(model.config, name) for name in ("block_size", "n_layer", "n_head", "n_embd")}
    settings = TrainConfig.model_validate({"model": {**size, "attn": attn}, "run": {"runs_dir": folder / "runs"}})
    target = save_checkpoint(
        folder / "runs" / "one" / "ckpt",
        model=model.config,
        weights=dict(model.state_dict()),
        optimizer={},
        state=TrainingState(step=1, tokens=1, best_loss=1.0, best_step=1, data_digest="0" * 64, finished=True),
        settings=settings,
        tokenizer=tokenizer,
    )
    point(folder / "runs" / "one" / "ckpt", "best", target)
    made = export_run("one", folder / "hf", runs_dir=folder / "runs")
    return model, made.own_code


@pytest.fixture
def compare_with(tokenizer, suites, monkeypatch):
    """Ask a model and lm-eval's own model of a directory the same, and hold their answers against each other."""

    def compare_with(model, folder, **options):
        from lm_eval.models.huggingface import HFLM

        from vgpt.evaluation.suites import adapter

        asked = {"loglikelihood": [], "loglikelihood_rolling": [], "generate_until": []}
        with contextlib.redirect_stderr(io.StringIO()):
            theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=3, **options)

        class Both(adapter.ScoredModel):
            """Asks both, and keeps what both say."""

            def loglikelihood(self, requests):
                ours = super().loglikelihood(requests)
                asked["loglikelihood"] += zip(ours, theirs.loglikelihood(requests, disable_tqdm=True), strict=True)
                return ours

            def loglikelihood_rolling(self, requests):
                ours = super().loglikelihood_rolling(requests)
                asked["loglikelihood_rolling"] += zip(ours, theirs.loglikelihood_rolling(requests), strict=True)
                return ours

            def generate_until(self, requests):
                ours = super().generate_until(requests)
                asked["generate_until"] += zip(ours, theirs.generate_until(requests, disable_tqdm=True), strict=True)
                return ours

        monkeypatch.setattr(adapter, "ScoredModel", Both)
        with contextlib.redirect_stderr(io.StringIO()):
            files = [str(suites / f"{name}.yaml") for name in ("choices", "whole", "goes_on")]
            results_of(files, Scorer(model, tokenizer, torch.float32, Silent()), fewshot=None, limit=None)
        assert len(asked["loglikelihood"]) == 21
        assert len(asked["loglikelihood_rolling"]) == 4
        assert len(asked["generate_until"]) == 7
        assert all(ours == other for ours, other in asked["generate_until"])
        assert any(ours for ours, _ in asked["generate_until"])
        for (ours, best), (other, other_best) in asked["loglikelihood"]:
            assert ours == pytest.approx(other, abs=1e-4, rel=0)
            assert best == other_best
        for ours, other in asked["loglikelihood_rolling"]:
            assert ours == pytest.approx(other, abs=1e-4, rel=0)

    return compare_with


@pytest.mark.parametrize("kind", ["mha", "mqa", "gqa", "local"])
def test_likelihoods_are_those_of_lm_evals_own_model_of_the_same_weights(
    kind, make_model, tokenizer, tmp_path_factory, compare_with
):
    folder = tmp_path_factory.mktemp(kind)
    compare_with(directory(kind, make_model, tokenizer, folder), folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mha", "mqa", "gqa", "local"])
def test_likelihoods_are_those_of_lm_evals_own_model_of_the_exported_directory(
    kind, make_model, tokenizer, tmp_path_factory, compare_with
):
    folder = tmp_path_factory.mktemp(kind)
    model, own_code = exported(kind, make_model, tokenizer, folder)
    compare_with(model, folder / "hf", trust_remote_code=own_code)
