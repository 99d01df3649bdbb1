"""Write fla_linear.safetensors: inputs and outputs of the naive references of flash-linear-attention.

Run again only when a format changes: pip install --no-deps fla-core einops && python tests/golden/make_fla_linear.py
"""

import importlib.util
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch.nn import functional as F


def load(name: str) -> ModuleType:
    """Load `fla/ops/NAME/naive.py` without importing fla, which needs triton."""
    package = importlib.util.find_spec("fla")
    assert package is not None
    path = Path(package.origin).parent / "ops" / name / "naive.py"
    spec = importlib.util.spec_from_file_location(f"fla_naive_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference_outputs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what each reference makes of raw queries, keys and values (B, H, T, D), as (B, H, T, D)."""
    linear, retention, based = (load(name) for name in ("linear_attn", "retention", "based"))
    by_token = [x.transpose(1, 2) for x in (F.elu(q) + 1, F.elu(k) + 1, v)]
    return {
        "normalized": linear.naive_recurrent_linear_attn(*by_token, normalize=True)[0].transpose(1, 2),
        "unnormalized": linear.naive_recurrent_linear_attn(*by_token)[0].transpose(1, 2),
        "retention": retention.naive_retention(q, k, v),
        "based": based.naive_parallel_based(q, k, v),
    }


def main() -> None:
    """Draw inputs, ask the references, store both."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 100, 4) for _ in range(3))
    tensors = {"q": q, "k": k, "v": v, **reference_outputs(q, k, v)}
    metadata = {"fla-core": version("fla-core"), "torch": torch.__version__}
    save_file(
        {n: t.contiguous() for n, t in tensors.items()}, Path(__file__).with_name("fla_linear.safetensors"), metadata
    )


if __name__ == "__main__":
    main()
