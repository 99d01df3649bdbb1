"""What a dry run promises, held against what training keeps and takes."""

import json

import pytest
import torch

from vgpt.model.gpt2 import GPT2Model
from vgpt.training.build import build_model
from vgpt.training.display import Quiet
from vgpt.training.estimate import estimate_memory, estimate_time
from vgpt.training.hardware.devices import Compute
from vgpt.training.run import train_run

SIZE = {"model__n_embd": 64, "model__n_head": 4, "model__n_layer": 4, "model__block_size": 64, "train__batch_size": 4}
CPU = torch.device("cpu")


def kept_bytes(model: GPT2Model, dtype: torch.dtype, batch: int) -> int:
    """Bytes of all tensors that the backward pass holds on to, each storage once, without parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    ids = torch.randint(model.config.vocab_size, (batch, model.config.block_size))
    # Casts of weights are counted with the weights.
    small = model.config.n_embd * model.config.hidden * 2
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
            hidden = model.hidden(ids)
        hidden.sum()
    kept = [storage.nbytes() for place, storage in found.items() if place not in parameters]
    return sum(size for size in kept if size > small or dtype is torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"model__flash": False}, {"model__dropout": 0.1}])
def test_activations_are_those_that_the_backward_pass_holds(settings, dtype, changes):
    config = settings(**SIZE | {"train__batch_size": 16} | changes)
    model = build_model(config, 300).train()
    estimate = estimate_memory(config, 300, dtype).activations
    # Dropout masks of the CPU are as wide as what they mask, and its bfloat16 products keep copies of their own.
    exact = dtype is torch.float32 and not config.model.dropout
    assert estimate == pytest.approx(kept_bytes(model, dtype, 16), rel=0.02 if exact else 0.25)


@pytest.mark.parametrize("attn", ["mqa", "gqa:n_kv_head=2"])
def test_other_variants_are_near(settings, attn):
    config = settings(attn, **SIZE)
    assert estimate_memory(config, 300, torch.float32).activations == pytest.approx(
        kept_bytes(build_model(config, 300), torch.float32, 4), rel=0.3
    )


def test_recomputation_keeps_little(settings):
    plain, lean = settings(**SIZE), settings(**SIZE, system__recompute=True)
    model = build_model(lean, 300).train()
    model.recompute = True
    kept = kept_bytes(model, torch.float32, 4)
    plain_estimate, estimate = (estimate_memory(config, 300, torch.float32).activations for config in (plain, lean))
    assert kept < estimate < plain_estimate / 2


def test_shares_of_fsdp_and_copies_of_autocast_are_counted(settings):
    one = estimate_memory(settings(), 300, torch.float32)
    n = sum(p.numel() for p in build_model(settings(), 300).parameters())
    assert (one.weights, one.gradients, one.optimizer) == (4 * n, 4 * n, 8 * n)
    half = estimate_memory(settings(workers__nproc=2, workers__parallel="fsdp"), 300, torch.bfloat16)
    assert (half.weights, half.optimizer) == (3 * n, 4 * n)
    assert estimate_memory(settings(workers__nproc=2), 300, torch.float32).weights == 4 * n


def test_large_vocabularies_are_not_held_whole(settings):
    config = settings(train__batch_size=64, model__block_size=256)
    tokens = 64 * 256
    assert estimate_memory(config, 50_257, torch.float32).logits < tokens * 50_257 * 4 / 5


def test_the_time_of_a_small_run_is_measured_and_near_what_it_takes(settings):
    changes = {"train__max_steps": 40, "train__eval_interval": 40, "run__save_interval": 99, "run__log_interval": 20}
    config = settings(**SIZE | changes)
    promised = estimate_time(config, 300, Compute(CPU, torch.float32, ""))
    assert promised.basis.startswith("measured")
    taken = train_run(config, Quiet()).summary["train/seconds"]
    assert taken / 4 < promised.step * 40 < taken * 4
    assert promised.total >= promised.step * 40


def test_the_time_of_a_large_run_is_assumed_and_says_so(settings):
    config = settings(model__n_embd=4096, model__n_head=32, model__n_layer=32, model__block_size=2048)
    promised = estimate_time(config, 50_257, Compute(CPU, torch.float32, ""))
    assert promised.basis.startswith("assumed: 30% of the measured peak")
    assert promised.total > 1000


def test_a_dry_run_shows_it_and_trains_nothing(vgpt, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --max-steps 100 --device cpu --dry-run"
    figures = json.loads(vgpt("train", "--data", corpus, *words.split(), "--json").out)
    assert figures["memory in bytes (estimate)"] > 16 * figures["parameters"]
    assert figures["seconds in all (estimate)"] > 0
    assert figures["basis of the time"].startswith("measured")
    assert not (tmp_path / "runs").exists()
