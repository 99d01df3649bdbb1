"""A run on a GPU that is stopped and continued: fused optimizer, replayed steps and all."""

import os
import signal

import pytest
import torch

from vgpt.training.checkpoints.checkpoint import find_checkpoint
from vgpt.training.display import Quiet
from vgpt.training.run import train_run

pytestmark = pytest.mark.gpu


class StopAt(Quiet):
    def __init__(self, step):
        self.last = step

    def advance(self, step):
        if step == self.last:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("dtype", "compiled"), [("float32", False), ("bfloat16", True), ("float16", False)])
def test_a_run_continued_on_a_gpu_ends_where_one_without_a_stop_does(settings, dtype, compiled):
    options = {"system__device": "cuda", "system__dtype": dtype, "system__compile": compiled, "train__max_steps": 20}
    whole = settings(**options)
    assert train_run(whole, Quiet()).status == "finished"
    parts = settings(**options, run__run_name="parts")
    assert train_run(parts, StopAt(9)).status == "stopped"
    assert train_run(parts, Quiet()).status == "finished"
    one, other = (find_checkpoint(c.directory, which="last").load_model().state_dict() for c in (whole, parts))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-2, atol=2e-3)
