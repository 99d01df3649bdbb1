"""What sharded weights need besides: an optimizer's state where its kernel reads it, and evaluation before training."""

import numpy as np
import pytest
import torch
from torch import distributed as dist

from vgpt.data.dataset import open_dataset
from vgpt.evaluation.loss import Evaluator
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.training.optimizer import build_optimizer
from vgpt.training.parallel.replica import FSDPReplica, Replica
from vgpt.training.step import TrainStep

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch.*")


def small(**settings):
    sizes = {"attn": "mha", "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 300}
    model = GPT2Model(GPT2Config.model_validate({**sizes, **settings}))
    initialize(model, 1)
    return model


@pytest.fixture
def group(tmp_path):
    """Put this process into a group of its own."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", [Replica, FSDPReplica])
@pytest.mark.parametrize("fused", [False, True])
def test_a_fused_optimizer_finds_its_step_count_on_the_parameters_device(group, kind, fused):
    """On the device without memory, which shows where things would lie on a GPU."""
    model = small().to("meta")
    replica = kind(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for options in optimizer.param_groups:
        options["fused"] = fused
    saved = {f"{name}/{slot}": torch.zeros(p.shape) for name, p in model.named_parameters() for slot in ("exp_avg",)}
    saved |= {f"{name}/step": torch.tensor(3.0) for name, _ in model.named_parameters()}
    replica.load_optimizer(optimizer, saved)
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        assert state["exp_avg"].device.type == "meta"
        assert type(state["exp_avg"]) is type(parameter.data)
        assert state["step"].device.type == ("meta" if fused else "cpu")


def test_sharded_weights_are_evaluated_before_and_after_their_first_step(group, corpus):
    data = open_dataset(corpus)
    evaluator = Evaluator.of(data, 16, 4)
    want = evaluator.evaluate(small(), dtype=torch.float32)
    model = small()
    replica = FSDPReplica(model)

    def loss():
        found = evaluator.token_losses(
            model, dtype=torch.float32, losses=lambda _, ids, targets: replica.token_losses(ids, targets)
        )
        return evaluator.evaluation(found).loss

    assert loss() == pytest.approx(want.loss, abs=1e-6)
    ids = torch.from_numpy(evaluator.rows(np.arange(2)))
    step = TrainStep(model, build_optimizer(model, lr=1e-2), replica=replica)
    step([(ids[:, :-1], ids[:, 1:])], 1e-2)
    assert loss() != pytest.approx(want.loss, abs=1e-6)


VARIANTS = ["mha", "gqa:n_kv_head=1", "local:window_size=5", "sparse:sparse_block_size=2", "linear", "mla"]


@pytest.mark.parametrize("attn", VARIANTS)
def test_blocks_travel_in_bfloat16_and_compute_the_loss_of_a_process_alone(group, attn):
    ids = torch.arange(2 * 16).view(2, 16) * 7 % 300
    traveled = set()
    losses, norms = [], []
    for kind in (Replica, lambda model: FSDPReplica(model, torch.bfloat16)):
        model = small(attn=attn, sinks=attn == "mha", qk_norm=attn == "mha")
        replica = kind(model)
        model.h[1].mlp.c_fc.register_forward_pre_hook(lambda part, _: traveled.add(part.weight.dtype))
        step = TrainStep(model, build_optimizer(model, lr=1e-2), dtype=torch.bfloat16, replica=replica)
        results = [step([(ids, ids)] * 2, 1e-2) for _ in range(3)]
        losses.append([float(result.loss) for result in results])
        norms.append([float(result.grad_norm) for result in results])
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(state["exp_avg"].dtype == torch.float32 for state in step.optimizer.state.values())
    assert traveled == {torch.float32, torch.bfloat16}
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-5)  # norms begin with numbers that bfloat16 has
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    assert norms[0] == pytest.approx(norms[1], rel=2e-2)
