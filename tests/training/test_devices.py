"""Which GPU, which precision and which peak: decided by plain functions, which need no GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vgpt.conformance import check_variant
from vgpt.errors import UsageError
from vgpt.evaluation.loss import exact
from vgpt.settings.train import SystemSettings
from vgpt.training.hardware.devices import (
    amd_multiplies_bfloat16,
    gpu_dtype,
    own_gpu,
    refuse_too_many_processes,
    resolve,
    sum_device,
)
from vgpt.training.hardware.peak import peak_flops, published


@pytest.mark.parametrize(
    ("local_rank", "visible", "index"),
    [(0, 8, 0), (7, 8, 7), (3, 1, 0), (0, 1, 0)],  # the third sees its own alone, as under srun --gpus-per-task=1
)
def test_each_process_takes_a_gpu_of_its_own_among_those_it_sees(local_rank, visible, index):
    assert own_gpu(local_rank, visible) == index


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(UsageError, match="process 2 of this machine has no GPU of its own: it sees 2"):
        own_gpu(2, 2)


def test_a_gpus_number_is_refused_where_several_processes_train():
    """Whether or not this machine has a GPU: by the launcher, and by a process that torchrun or srun started."""
    settings = SystemSettings(device="cuda:3", dtype="float32")
    for refused in (lambda: refuse_too_many_processes(settings, 2), lambda: resolve(settings, local_rank=1)):
        with pytest.raises(UsageError, match="--device cuda:3 names one CUDA device"):
            refused()
    refuse_too_many_processes(settings, 1)
    refuse_too_many_processes(SystemSettings(device="cpu"), 64)


@pytest.mark.parametrize(
    ("capability", "bfloat16", "dtype", "reason"),
    [
        ((9, 0), True, torch.bfloat16, "natively"),  # H100
        ((8, 0), True, torch.bfloat16, "natively"),  # A100
        ((7, 5), False, torch.float16, "7.5"),  # T4
        ((7, 0), False, torch.float16, "7.0"),  # V100
        ((9, 0), False, torch.float16, "9.0"),  # AMD's MI50 counts its versions otherwise
        ((6, 1), False, torch.float32, "6.1"),  # GTX 1080, whose float16 is slow
    ],
)
def test_precision_follows_what_a_gpu_computes_natively_and_not_its_number(capability, bfloat16, dtype, reason):
    found, why = gpu_dtype(capability, bfloat16=bfloat16)
    assert found is dtype
    assert reason in why


def test_amd_chips_without_matrix_units_for_bfloat16_are_known():
    have = {"gfx906:sramecc+:xnack-", "gfx90a:sramecc+:xnack-", "gfx942", "gfx1030", "gfx1100", "gfx908", "gfx900"}
    assert {chip for chip in have if amd_multiplies_bfloat16(chip)} == {
        "gfx90a:sramecc+:xnack-",
        "gfx942",
        "gfx1100",
        "gfx908",
    }


@pytest.mark.parametrize(
    ("name", "half", "tf32", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7, 66.9),
        ("NVIDIA H100 PCIe", 756, 378, 51.2),
        ("NVIDIA H200", 989.4, 494.7, 66.9),
        ("NVIDIA H200 NVL", 835.5, 417.7, 60),
        ("A100-SXM4-40GB", 312, 156, 19.5),
        ("NVIDIA L4", 121, 60, 30.3),
        ("NVIDIA L40", 181, 90.5, 90.5),
        ("NVIDIA L40S", 362, 183, 91.6),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
    ],
)
def test_published_peaks_are_those_of_the_board_and_of_the_mode_that_runs(name, half, tf32, single):
    """Dense rates of NVIDIA's data sheets, halved where a sheet gives those with sparsity."""
    assert published(name, torch.bfloat16, tf32=False) == published(name, torch.float16, tf32=True) == half * 1e12
    assert published(name, torch.float32, tf32=True) == tf32 * 1e12
    assert published(name, torch.float32, tf32=False) == single * 1e12


@pytest.mark.parametrize(
    "name",
    ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA L400", "Tesla T4", "NVIDIA"],
)
def test_a_device_with_any_other_name_is_measured(name):
    assert published(name, torch.bfloat16, tf32=False) is None


class _WithoutFloat64(TorchDispatchMode):
    """Refuses float64 where Apple's GPU does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and (found.device.type, found.dtype) == ("mps", torch.float64):
            raise TypeError("MPS has no float64")
        return found


def test_sums_of_what_a_device_without_float64_computes_are_kept_elsewhere():
    assert sum_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    with FakeTensorMode(), _WithoutFloat64():
        losses = torch.rand(3, 4, device="mps")
        with pytest.raises(TypeError):
            losses.double()
        total = torch.zeros((), dtype=torch.float64, device=sum_device(losses.device))
        total += losses.mean().to(total.device).double()
        assert exact(losses).dtype is total.dtype is torch.float64


def test_checks_are_refused_on_a_device_without_float64():
    with pytest.raises(UsageError, match="float64"):
        check_variant("mha", device="mps")


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
def test_no_product_on_this_gpu_is_faster_than_its_peak(tf32):
    from vgpt.training.hardware.peak import _best_rate

    compute = resolve(SystemSettings(device="cuda", dtype="float32", tf32=tf32))
    assert compute.tf32 is tf32
    assert _best_rate(compute, 0.5) < 1.05 * peak_flops(compute).flops
