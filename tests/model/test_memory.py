"""Memory of the loss and of recomputation, measured as peak resident size in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.model.loss import cross_entropy

# What an allocation of the step itself adds to the peak: the process before it is taken off.
MEASURE = """
import resource, sys, torch
from torch.nn import functional as F
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.model.loss import cross_entropy, linear_cross_entropy

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # libraries load at first use
"""
LOSS = (
    MEASURE
    + """
N, C, V = {N}, 32, 50_257
hidden, weight = torch.randn(N, C, requires_grad=True), torch.randn(V, C, requires_grad=True)
targets = torch.randint(V, (N,))
before = peak()
if {plain}:
    F.cross_entropy((hidden @ weight.T).float(), targets).backward()
else:
    linear_cross_entropy(hidden, weight, targets).backward()
print(peak() - before)
"""
)
STEP = (
    MEASURE
    + """
model = GPT2Model(GPT2Config(n_layer=12, n_head=4, n_embd=128, block_size=256, vocab_size=256))
initialize(model, 0)
model.train()
model.recompute = {recompute}
ids = torch.randint(256, (16, 256))
before = peak()
cross_entropy(model, ids, ids).backward()
print(peak() - before)
"""
)


def measured(program: str) -> int:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    # Freed memory goes back to the system at once, so that the peak is that of what is in use.
    environment["MALLOC_TRIM_THRESHOLD_"] = environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_the_chunked_loss_takes_a_quarter_of_the_plain_ones_memory_at_most():
    tokens = 8192
    plain, chunked = (measured(LOSS.format(N=tokens, plain=plain)) for plain in (True, False))
    assert plain > 2 * tokens * 50_257 * 4
    assert chunked * 4 < plain, f"{plain / 2**20:.0f} MiB plain, {chunked / 2**20:.0f} MiB chunked"


@pytest.mark.slow
def test_recomputation_takes_less_than_half_of_the_memory():
    normal, lean = (measured(STEP.format(recompute=recompute)) for recompute in (False, True))
    assert lean * 2 < normal, f"{normal / 2**20:.0f} MiB kept, {lean / 2**20:.0f} MiB computed again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attn", ["mha", "gqa:n_kv_head=2"])
def test_recomputation_changes_no_bit_of_loss_and_gradients(attn, dtype):
    found = []
    for recompute in (False, True):
        config = GPT2Config(attn=attn, n_layer=3, n_head=4, n_embd=32, block_size=16, vocab_size=61, dropout=0.1)
        model = GPT2Model(config)
        initialize(model, 0)
        model.train().recompute = recompute
        ids = torch.randint(61, (4, 17), generator=torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            loss = cross_entropy(model, ids[:, :-1], ids[:, 1:])
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))
