"""Copies in the host's memory hold what was there when they were asked for."""

import pytest
import torch

from vgpt.training.checkpoints.saver import HostCopies


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_copies_hold_the_bytes_of_their_moment_while_training_goes_on(device):
    room = HostCopies()
    tensors = {
        "matrix": torch.randn(2048, 2048, device=device),
        "turned": torch.randn(300, 200, device=device).t(),
        "half": torch.randn(77, device=device).bfloat16(),
        "count": torch.tensor(3.0),
    }
    for _ in range(3):
        want = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
        if device == "cuda":  # much to compute before, and after
            busy = torch.randn(4096, 4096, device=device)
            for _ in range(20):
                busy = busy @ busy / 64
        copies = room.take(tensors)
        for tensor in tensors.values():
            tensor.mul_(-2).add_(1)
        got = copies.wait()
        assert all(torch.equal(got[name], value) and got[name].is_contiguous() for name, value in want.items())
        assert {name: tensor.dtype for name, tensor in got.items()} == {
            name: tensor.dtype for name, tensor in tensors.items()
        }


@pytest.mark.gpu
def test_pinned_memory_is_made_once_per_tensor():
    room, tensors = HostCopies(), {"matrix": torch.randn(100, 100, device="cuda")}
    first = room.take(tensors).wait()["matrix"]
    assert first.is_pinned()
    assert room.take(tensors).wait()["matrix"].data_ptr() == first.data_ptr()
    assert room.take({"matrix": torch.randn(50, 100, device="cuda")}).wait()["matrix"].shape == (50, 100)
