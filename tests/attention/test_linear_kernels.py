"""The kernels of linear attention compute what the formula does, in Triton's interpreter; compilers take them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vgpt.attention.linear import fused
from vgpt.attention.linear.features import FEATURE_MAPS

triton = pytest.importorskip("triton")

SCRIPT = Path(__file__).with_name("interpreted.py")
LIMITS = {"bfloat16": 0.012, "float16": 5e-4}  # the interpreter cuts numbers to bfloat16, GPUs round

CASES = {
    "bfloat16": {"dtype": "bfloat16", "T": 75, "D": 8, "DV": 5, "H": 2},
    "float16": {"dtype": "float16", "T": 75, "D": 8, "DV": 5},
    "decay": {"dtype": "float16", "T": 70, "D": 24, "DV": 16, "decay": True, "H": 2},
    "decay, bfloat16": {"dtype": "bfloat16", "T": 50, "D": 8, "DV": 8, "decay": True, "chunks": 1},
    "relu": {"dtype": "float16", "T": 40, "D": 16, "DV": 8, "feature_map": "relu"},
    "relu without denominators": {
        "dtype": "float16", "T": 40, "D": 16, "DV": 8, "feature_map": "relu", "normalise": False, "decay": True,
    },
    "identity": {"dtype": "float16", "T": 70, "D": 8, "DV": 8, "feature_map": "identity", "normalise": False},
    "elu1 without denominators": {"dtype": "bfloat16", "T": 40, "D": 8, "DV": 1, "normalise": False, "decay": True},
    "one token": {"dtype": "float16", "T": 1, "D": 8, "DV": 8},
    "whole chunks": {"dtype": "float16", "T": 32, "D": 8, "DV": 8, "chunks": 1},
    "one segment": {"dtype": "float16", "T": 45, "D": 8, "DV": 8, "chunks": 8},
    "strides": {"dtype": "float16", "T": 40, "D": 8, "DV": 8, "odd": True, "B": 2, "H": 2},
}  # fmt: skip
WIDE = {
    f"{dtype}, D={D}, DV={DV}, T={T}{', decay' if decay else ''}": {
        "dtype": dtype, "T": T, "D": D, "DV": DV, "decay": decay, "B": 2, "H": 3,
    }
    for dtype in LIMITS
    for D, DV, T in [(64, 64, 130), (80, 80, 75), (128, 128, 50), (24, 100, 33), (128, 8, 65)]
    for decay in (False, True)
}  # fmt: skip
BUGS = {
    "causal": {"dtype": "float16", "T": 20, "D": 8, "DV": 8},
    "fading": {"dtype": "float16", "T": 70, "D": 8, "DV": 8, "decay": True},
    "through": {"dtype": "float16", "T": 20, "D": 8, "DV": 8},
    "load_features": {"dtype": "float16", "T": 20, "D": 8, "DV": 8},
}
EXTREMES = {f"inputs * {size}": {"dtype": "bfloat16", "T": 40, "D": 8, "DV": 8, "size": size} for size in (0.0, 1e4)}


def interpret(tasks: list) -> list:
    """Run tasks in a process whose Triton interprets."""
    run = subprocess.run([sys.executable, SCRIPT], input=json.dumps(tasks), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def answers() -> dict[str, dict]:
    """What the interpreter finds for all that the default run asks, in one process: starting it takes seconds."""
    tasks = {name: ["errors", case] for name, case in (CASES | EXTREMES).items()}
    tasks |= {f"planted {name}": ["planted", {"name": name, **case}] for name, case in BUGS.items()}
    tasks |= {"future": ["future", {}], "operation": ["operation", {}]}
    return dict(zip(tasks, interpret(list(tasks.values())), strict=True))


def close(found: dict, dtype: str) -> bool:
    return all(found[name] < LIMITS[dtype] for name in ("y", "q", "k", "v"))


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_give_the_outputs_and_gradients_of_the_formula(answers, name):
    found = answers[name]
    assert close(found, CASES[name]["dtype"]), found
    assert found["finite"]


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_keep_the_heads_of_a_token_together(answers, name):
    assert answers[name]["as_heads"]


@pytest.mark.parametrize("name", BUGS)
def test_a_wrong_part_of_the_kernels_is_noticed(answers, name):
    assert not close(answers[f"planted {name}"], "float16")


@pytest.mark.parametrize("name", EXTREMES)
def test_zero_and_large_inputs_give_finite_numbers(answers, name):
    assert answers[name]["finite"]


def test_not_even_an_overflow_reaches_the_past_in_the_kernels(answers):
    assert answers["future"]["equal"]


def test_torch_finds_no_fault_in_the_operation(answers):
    found = dict(answers["operation"])
    assert found.pop("inference")
    assert "linear_attention_backward" in found.pop("twice")
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.slow
def test_every_width_gives_the_outputs_and_gradients_of_the_formula():
    found = dict(zip(WIDE, interpret([["errors", case] for case in WIDE.values()]), strict=True))
    assert {name: x for name, x in found.items() if not close(x, WIDE[name]["dtype"])} == {}


class Launches:
    """Stands in for a kernel and keeps what it would be launched with."""

    def __init__(self):
        self.made = []

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self.made.append((arguments, constants))


def shared_memory(kernel, arguments, constants, capability) -> int:
    """Compile a kernel for a GPU that need not be there; return the bytes of shared memory it takes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {name: constants[name] for name in ("num_warps", "num_stages") if name in constants}
    fixed = {name: value for name, value in constants.items() if name not in options}
    signature = dict.fromkeys(kernel.arg_names, "constexpr")
    attributes = {}
    for i, value in enumerate(arguments):
        parameter = kernel.params[i]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}[
                str(value.dtype).removeprefix("torch.")
            ]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            fixed[parameter.name] = 1
        else:
            signature[parameter.name] = "i32"
        if isinstance(value, torch.Tensor) or (value % 16 == 0 and not parameter.do_not_specialize):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).metadata.shared


def check_compilation(monkeypatch, tmp_path, capability, dtype, width, normalise, decay, limit):
    from vgpt.attention.linear import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = ["key_sums", "accumulate", "attend", "query_sums", "query_gradients", "key_gradients"]
    launches = {name: Launches() for name in names}
    originals = {name: getattr(kernels, name) for name in names}
    for name, launch in launches.items():
        monkeypatch.setattr(kernels, name, launch)
    monkeypatch.setattr(
        fused, "planned", lambda q, v: fused.plan(64, 4096, width, q.dtype != torch.bfloat16, capability // 10, 132)
    )
    x = torch.zeros(1, 4096, 2, 3 * width, dtype=dtype)
    inputs = [part.transpose(1, 2).requires_grad_() for part in x.split(width, -1)]
    slopes = torch.ones(2) if decay else None
    y = fused.fused(*inputs, slopes, FEATURE_MAPS["elu1"], normalise)
    y.backward(torch.zeros_like(y))
    for name, launch in launches.items():
        assert launch.made, name
        for arguments, constants in launch.made[-1:]:
            assert shared_memory(originals[name], arguments, constants, capability) <= limit, name


def test_the_compiler_for_hopper_takes_every_kernel(monkeypatch, tmp_path):
    check_compilation(monkeypatch, tmp_path, 90, torch.bfloat16, 64, True, False, 227 * 1024)


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "kib"), [(80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [16, 64, 128])
@pytest.mark.parametrize("normalise", [True, False])
def test_every_compiler_takes_every_kernel(monkeypatch, tmp_path, capability, kib, dtype, width, normalise):
    check_compilation(monkeypatch, tmp_path, capability, dtype, width, normalise, True, kib * 1024)
