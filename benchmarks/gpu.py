"""What vgpt does on a GPU, in stages that each end within minutes and write their JSON at once.

    python benchmarks/gpu.py --stages ceilings,correctness,runs,training,cores,decoding --out benchmarks/results/gpu

| stage       | what it shows                                                                                         |
|-------------|-------------------------------------------------------------------------------------------------------|
| ceilings    | the card: a large product, a copy, the output layer at 50,257 and 50,304 rows, flash beside cuDNN     |
| correctness | the tests that need a GPU, and `vgpt verify` of every variant, a mix and the example plug-in          |
| runs        | whole runs of every variant through the command line, eager and compiled, float16, resumed, continued |
| training    | 124M in bfloat16 beside a plain PyTorch GPT-2 and transformers, all compiled, interleaved             |
| cores       | attention alone, forward and backward, from 1k to 32k tokens beside SDPA, FlexAttention, fla          |
| decoding    | 124M at batch 1 and 16 beside a plain step with a static cache in one CUDA graph                      |

Exits with 1 where a number is wrong (a loss, a test, a run), never because one is slow. `--toy` shrinks everything, so
that a CPU can try the script. Packages that are not installed are left out and named.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from _gpu_time import Turns, median_ms, on_gpu
from _hardware import hardware
from _plain_gpt import PlainGPT, copy_weights
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from vgpt.model.config import GPT2Config
from vgpt.model.costs import palm_flops_per_token, train_flops_per_token
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.training.hardware.devices import Compute
from vgpt.training.hardware.peak import peak_flops
from vgpt.training.optimizer import build_optimizer
from vgpt.training.step import TrainStep

ROOT = Path(__file__).parents[1]
VARIANTS = ["mha", "gqa", "mqa", "local", "linear", "sparse", "mla"]
MIX = ["--attn", "mix", "--pattern", "local+mha"]
LR = 6e-4


class Stage:
    """Figures and faults of one stage, written whenever one of them is known.

    Args:
        name: of the stage.
        out: directory of the results.
        toy: whether everything is to be small.
    """

    def __init__(self, name: str, out: Path, *, toy: bool) -> None:
        self.toy = toy
        self.device = "cuda" if on_gpu() else "cpu"
        self.file = out / f"{name}.json"
        self.result: dict[str, Any] = {"stage": name, "hardware": hardware("transformers", "triton", "fla-core")}
        self.result |= {"driver": _driver(), "commit": _commit(), "figures": {}, "wrong": []}
        self.begun = time.perf_counter()

    def note(self, name: str, figure: Any) -> None:
        """Record a figure."""
        self.result["figures"][name] = figure
        print(f"  {name}: {figure}", flush=True)
        self._write()

    def check(self, what: str, right: bool, told: str = "") -> None:
        """Record a fault where something is not right."""
        if not right:
            self.result["wrong"].append(f"{what}: {told}"[-3000:])
            print(f"  WRONG {what}: {told[-800:]}", flush=True)
        self._write()

    def _write(self) -> None:
        self.result["seconds"] = round(time.perf_counter() - self.begun, 1)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")


def ceilings(stage: Stage) -> None:
    """Measure what no program gets past on this card."""
    _product_and_copy(stage)
    rows, C = (64, 64) if stage.toy else (32_768, 768)
    for V in (50_257, 50_304):
        stage.note(f"output layer of {V} rows, ms", _output_layer(rows, V, C, stage.device))
    B, H, T = (1, 2, 64) if stage.toy else (32, 12, 1024)
    q, k, v, dy = (torch.randn(B, H, T, 64, device=stage.device, dtype=torch.bfloat16) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    choices: dict[str, list[SDPBackend]] = {"flash": [SDPBackend.FLASH_ATTENTION]}
    if stage.device == "cuda":
        choices["cuDNN"] = [SDPBackend.CUDNN_ATTENTION]
    choices["torch's choice"] = [backend for name, backend in SDPBackend.__members__.items() if name != "ERROR"]
    for name, backends in choices.items():

        def both(backends: list[SDPBackend] = backends) -> None:
            with sdpa_kernel(backends):
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            torch.autograd.grad(y, leaves, dy)

        stage.note(f"SDPA {name}, B {B}, T {T}, forward and backward, ms", round(median_ms(both), 2))


def _product_and_copy(stage: Stage) -> None:
    n = 256 if stage.toy else 8192
    a, b = (torch.randn(n, n, device=stage.device, dtype=torch.bfloat16) for _ in range(2))
    stage.note(f"product {n}^3, TFLOP/s", round(2e-9 * n**3 / median_ms(lambda: a @ b), 1))
    x = torch.randn(1 << (20 if stage.toy else 30), device=stage.device, dtype=torch.bfloat16)
    y = torch.empty_like(x)
    stage.note("copy, TB/s read and written", round(4e-9 * x.numel() / median_ms(lambda: y.copy_(x)), 2))


def _output_layer(rows: int, V: int, C: int, device: str) -> dict[str, float]:
    h, w = (torch.randn(n, C, device=device, dtype=torch.bfloat16) for n in (rows, V))
    logits = h @ w.T
    ways: dict[str, Callable[[], Any]] = {
        "forward": lambda: h @ w.T,
        "by hidden": lambda: logits @ w,
        "by weight": lambda: logits.T @ h,
    }
    return {way: round(median_ms(work), 2) for way, work in ways.items()}


def correctness(stage: Stage) -> None:
    """Run the tests that need a GPU, and the conformance kit over everything."""
    python = [sys.executable, "-m"]
    words = ["-p", "no:cacheprovider", "-W", "ignore", "-rfE", "--tb=short", "-n", "12"]
    plugin = str(ROOT / "tests/plugin")
    commands = {"tests that need a GPU": [*python, "pytest", "-m", "gpu", *words, *(["--co"] if stage.toy else [])]}
    few = ["--checks", "pairs,decoding"] if stage.toy else []
    # The tests verify every built-in variant.
    commands["verify a mix"] = [*python, "vgpt", "verify", "local+mha", "--device", stage.device, *few]
    commands["verify a plug-in"] = [*python, "vgpt", "verify", "decay", "--device", stage.device, *few]
    path = os.pathsep.join(filter(None, [str(ROOT), plugin, os.environ.get("PYTHONPATH")]))
    _run_all(stage, commands, {"PYTHONPATH": path, "VGPT_PLUGINS": "decayed_average"})


def runs(stage: Stage) -> None:
    """Train every variant through the command line as a person would, to the summary, and go on from there."""
    folder = Path(tempfile.mkdtemp(prefix="vgpt-gpu-"))
    common = ["--preset", "demo", "--device", stage.device, "--tracker", "journal", "--runs-dir", str(folder)]
    common += ["--max-steps", "4" if stage.toy else "60", "--dtype", "bfloat16"]
    train = [sys.executable, "-m", "vgpt", "train", *common]
    first: dict[str, list[str]] = {}
    for kind in ["mqa"] if stage.toy else VARIANTS:
        first[f"{kind} eager"] = [*train, "--attn", kind, "--run-name", f"{kind}-eager"]
        first[f"{kind} compiled"] = [*train, "--attn", kind, "--compile", "--run-name", f"{kind}-compiled"]
    if not stage.toy:
        first["mix compiled"] = [*train, *MIX, "--compile", "--run-name", "mix"]
        first["float16"] = [*train, "--attn", "gqa", "--dtype", "float16", "--run-name", "float16"]
        first["fp32"] = [*train, "--attn", "gqa", "--dtype", "float32", "--run-name", "fp32"]
        first["local recomputed"] = [*train, "--attn", "local", "--compile", "--recompute", "--run-name", "recomputed"]
    _run_all(stage, first)
    name = "mqa-eager"
    longer = ["--init-from", str(folder / name), "--run-name", "further"]
    second = {
        "the same command again": first["mqa eager"],
        "trained further": [*train, "--attn", "mqa", *longer],
        "sample": [sys.executable, "-m", "vgpt", "sample", str(folder / name), "--max-tokens", "40"],
        "eval": [sys.executable, "-m", "vgpt", "eval", str(folder / name), "--device", stage.device],
    }
    _run_all(stage, second)
    losses: dict[str, float] = {}
    for summary in sorted(folder.glob("*/summary.json")):
        losses[summary.parent.name] = json.loads(summary.read_text())["metrics"]["val/loss"]
        stage.note(f"validation loss of {summary.parent.name}", round(losses[summary.parent.name], 4))
    for run, loss in losses.items():
        kind, _, way = run.rpartition("-")
        if way == "compiled":
            eager = losses.get(f"{kind}-eager", float("nan"))
            stage.check(f"{run} against eager", abs(loss - eager) < 0.02, f"{loss} against {eager}")
    shutil.rmtree(folder, ignore_errors=True)


def training(stage: Stage) -> None:
    """Measure steps of GPT-2 small: micro-batch 32 of 1,024 tokens, one micro-step and the optimizer."""
    L, H, C, T, B, V = (2, 2, 32, 16, 2, 97) if stage.toy else (12, 12, 768, 1024, 32, 50_257)
    device = torch.device(stage.device)
    config = GPT2Config(vocab_size=V, n_layer=L, n_head=H, n_embd=C, block_size=T)
    ids = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(0)).to(device)
    inputs, targets = ids[:, :-1], ids[:, 1:]

    def ours(**changes: Any) -> Callable[[], float]:
        model = GPT2Model(config.model_copy(update=changes))
        initialize(model, 0)
        model.to(device).compile_blocks(not stage.toy)
        step = TrainStep(model, build_optimizer(model, lr=LR, device=device), dtype=torch.bfloat16)
        return lambda: step([(inputs, targets)], LR).loss

    def theirs(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

        def step() -> torch.Tensor:
            with torch.autocast(device.type, torch.bfloat16):
                value = loss()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return value.detach()

        return step

    def plain(rows: int) -> Callable[[], float]:
        start = GPT2Model(config)
        initialize(start, 0)
        model = PlainGPT(V, L, H, C, T, rows=rows)
        copy_weights(model, start)
        model.to(device)
        compiled = model if stage.toy else torch.compile(model)
        return theirs(model, lambda: compiled(inputs, targets))

    subjects = {"vgpt": ours(), "plain": plain(V), "plain, vocabulary padded": plain(-(-V // 128) * 128)}
    try:
        subjects["transformers"] = _transformers(config, device, inputs, theirs, compiled=not stage.toy)
    except ImportError as error:
        stage.note("transformers", f"left out: {error}")
    first = {name: float(step()) for name, step in subjects.items()}
    for name in ("vgpt", "plain"):
        stage.note(f"first loss of {name}", first[name])
    stage.check("first loss", abs(first["vgpt"] - first["plain"]) < 0.01, str(first))
    rates = Turns(subjects, rounds=2 if stage.toy else 10, steps=1 if stage.toy else 3).rates(B * T)
    peak = 1.0 if stage.toy else peak_flops(Compute(device, torch.bfloat16, "")).flops
    for name, rate in rates.items():
        mfu = rate["median"] * train_flops_per_token(config) / peak
        palm = rate["median"] * palm_flops_per_token(config) / peak
        stage.note(f"{name}, tokens/s", {**rate, "MFU": round(mfu, 4), "MFU as PaLM": round(palm, 4)})
    if stage.device == "cuda":
        stage.note("most memory, GiB", round(torch.cuda.max_memory_allocated() / 2**30, 1))
    subjects.clear()
    for kind in ["mqa"] if stage.toy else VARIANTS[1:]:
        settings = GPT2Config(**{**dict(config), "attn": {"kind": kind}}).attn
        try:
            step = ours(attn=settings)
            rate = Turns({kind: step}, rounds=2 if stage.toy else 4, steps=1 if stage.toy else 3).rates(B * T)[kind]
            stage.note(f"vgpt {kind}, tokens/s", rate)
        except RuntimeError as error:
            stage.check(f"training {kind}", False, str(error))
        step = None


def _transformers(
    config: GPT2Config, device: torch.device, inputs: torch.Tensor, theirs: Callable[..., Any], *, compiled: bool
) -> Callable[[], float]:
    from transformers import GPT2Config as HFConfig
    from transformers import GPT2LMHeadModel

    settings = HFConfig(
        vocab_size=config.vocab_size,
        n_positions=config.block_size,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        attn_implementation="sdpa",
        use_cache=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(settings).train().to(device)
    forward = torch.compile(model) if compiled else model
    return theirs(model, lambda: forward(input_ids=inputs, labels=inputs).loss)


def _run_all(stage: Stage, commands: dict[str, list[str]], environment: dict[str, str] | None = None) -> None:
    """Run commands side by side; whoever ends with another code than 0 is wrong."""
    surroundings = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": _with_root()} | (environment or {})

    def run(command: list[str]) -> tuple[int, str, float]:
        begun = time.perf_counter()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=480, check=False
            )
        except subprocess.TimeoutExpired as error:
            output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else str(error.stdout)
            return -1, f"still running after 480 s\n{output}", time.perf_counter() - begun
        return done.returncode, done.stdout + done.stderr, time.perf_counter() - begun

    with ThreadPoolExecutor(1 if stage.toy else 8) as pool:
        for name, (code, told, seconds) in zip(commands, pool.map(run, commands.values()), strict=True):
            stage.check(name, code == 0, told)
            stage.note(name, {"exit code": code, "seconds": round(seconds, 1), "last line": _last_line(told)})


def _with_root() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:200]


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or os.environ.get("VGPT_COMMIT", "unknown")


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total,clocks.sm", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return "none"
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def cores(stage: Stage) -> None:
    """Measure attention alone; each script first holds its results against the formula or a slower form."""
    if stage.toy:
        _run_all(stage, {"flex": _script("flex_gpu.py", "--toy", "--out", str(stage.file.with_name("flex.json")))})
        return
    for name, more in (("linear", ["--no-fla"]), ("flex", ["--seconds", "60"])):
        _run_all(stage, {name: _script(f"{name}_gpu.py", *more, "--out", str(stage.file.with_name(f"{name}.json")))})


def decoding(stage: Stage) -> None:
    """Measure steps of decoding; the plain step's logits and vgpt's must be the same."""
    if stage.toy:
        stage.note("decoding", "left out: it needs a GPU")
        return
    done = subprocess.run(
        _script("decode_gpu.py", "--seconds", "75"),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": _with_root()},
        capture_output=True,
        text=True,
        check=False,
    )
    stage.check("decode_gpu.py", done.returncode == 0, done.stderr)
    for line in done.stderr.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            way = "" if row.get("graphs", True) else ", without graphs"
            stage.note(f"{row.pop('who')}{way}, batch {row.get('batch')}, prompt {row.get('prompt')}", row)
            stage.check("logits", row.get("same", True), line)


def _script(name: str, *more: str) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name(name)), *more]


STAGES = {
    "ceilings": ceilings,
    "correctness": correctness,
    "runs": runs,
    "training": training,
    "cores": cores,
    "decoding": decoding,
}


def main() -> None:
    """Run the stages that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default=",".join(STAGES), help=f"of {', '.join(STAGES)}, by comma")
    parser.add_argument("--out", type=Path, required=True, help="directory that gets a JSON file per stage")
    parser.add_argument("--toy", action="store_true", help="everything small, on whatever device there is")
    args = parser.parse_args()
    if not args.toy and not on_gpu():
        parser.error("torch finds no CUDA device here; --toy tries the script on a CPU")
    wrong = 0
    for name in args.stages.split(","):
        print(f"\n{name}", flush=True)
        stage = Stage(name, args.out, toy=args.toy)
        try:
            STAGES[name](stage)
        except Exception as error:  # noqa: BLE001  # the next stage may still tell something
            stage.check(name, False, f"{type(error).__name__}: {error}")
        if on_gpu():
            torch.cuda.empty_cache()
        wrong += len(stage.result["wrong"])
        print(f"  {stage.result['seconds']} s, {len(stage.result['wrong'])} wrong", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
