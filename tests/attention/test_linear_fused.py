"""The kernels of linear attention compute what the formula does, in Triton's interpreter; compilers take them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).with_name("interpreted.py")
LIMITS = {"bfloat16": 0.012, "float16": 5e-4}  # the interpreter cuts numbers to bfloat16, GPUs round

CASES = {
    "bfloat16": {"dtype": "bfloat16", "T": 70, "D": 8, "DV": 5},
    "float16": {"dtype": "float16", "T": 70, "D": 8, "DV": 5},
    "decay": {"dtype": "float16", "T": 70, "D": 24, "DV": 16, "decay": True, "H": 2},
    "decay, bfloat16": {"dtype": "bfloat16", "T": 40, "D": 8, "DV": 8, "decay": True, "chunks": 1},
    "relu": {"dtype": "float16", "T": 40, "D": 16, "DV": 8, "feature_map": "relu"},
    "relu without denominators": {
        "dtype": "float16", "T": 40, "D": 8, "DV": 8, "feature_map": "relu", "normalize": False, "decay": True,
    },
    "identity": {
        "dtype": "float16", "T": 40, "D": 8, "DV": 8, "feature_map": "identity", "normalize": False, "chunks": 1,
    },
    "elu1 without denominators": {"dtype": "bfloat16", "T": 40, "D": 8, "DV": 1, "normalize": False, "decay": True},
    "one token": {"dtype": "float16", "T": 1, "D": 8, "DV": 8},
    "whole chunks": {"dtype": "float16", "T": 32, "D": 8, "DV": 8, "chunks": 1},
    "one segment": {"dtype": "float16", "T": 45, "D": 8, "DV": 8, "chunks": 8},
    "strides": {"dtype": "float16", "T": 20, "D": 8, "DV": 8, "odd": True, "B": 2, "H": 2, "chunks": 1},
}  # fmt: skip
WIDE = {
    f"{dtype}, D={D}, DV={DV}, T={T}{', decay' if decay else ''}": {
        "dtype": dtype, "T": T, "D": D, "DV": DV, "decay": decay,
    }
    for dtype in LIMITS
    for D, DV, T in [(64, 64, 130), (80, 80, 75), (128, 128, 50), (24, 100, 33), (128, 8, 65)]
    for decay in (False, True)
}  # fmt: skip
BUGS = {
    "causal": {"dtype": "float16", "T": 20, "D": 8, "DV": 8},
    "fading": {"dtype": "float16", "T": 40, "D": 8, "DV": 8, "decay": True},
    "through": {"dtype": "float16", "T": 20, "D": 8, "DV": 8},
    "load_features": {"dtype": "float16", "T": 20, "D": 8, "DV": 8},
}
EXTREMES = {f"inputs * {size}": {"dtype": "bfloat16", "T": 20, "D": 8, "DV": 8, "size": size} for size in (0.0, 1e4)}


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
@pytest.mark.timeout(900)
def test_every_width_gives_the_outputs_and_gradients_of_the_formula():
    found = dict(zip(WIDE, interpret([["errors", case] for case in WIDE.values()]), strict=True))
    assert {name: x for name, x in found.items() if not close(x, WIDE[name]["dtype"])} == {}


COMPILERS = [(80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)]
"""GPUs, by the number of their instruction set, and the KiB of shared memory that a program may take there."""


def compiled(tasks: list) -> list[dict[str, int]]:
    """Return the bytes of shared memory of each kernel for each task."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = SCRIPT.with_name("compiled_ahead.py")
    run = subprocess.run(
        [sys.executable, script], input=json.dumps(tasks), capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_the_compiler_for_hopper_takes_every_kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (found,) = compiled([{"capability": 90, "dtype": "bfloat16", "width": 64, "normalize": True, "decay": False}])
    assert len(found) == 6
    assert max(found.values()) <= 113 * 1024  # two programs at a time


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("capability", "kib"), COMPILERS)
def test_every_compiler_takes_every_kernel(monkeypatch, tmp_path, capability, kib):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shapes = [(dtype, width, True, True) for dtype in LIMITS for width in (64, 128)] + [("bfloat16", 16, False, False)]
    names = ("dtype", "width", "normalize", "decay")
    tasks = [{"capability": capability, **dict(zip(names, shape, strict=True))} for shape in shapes]
    for task, found in zip(tasks, compiled(tasks), strict=True):
        assert max(found.values()) <= kib * 1024, (task, found)
