"""Milliseconds per decoding step of one attention layer, by variant, context length and batch, in one process, in turn.

The layer is that of GPT-2 small (n_embd 768, 12 heads), prepared as `vgpt sample` prepares it. A step reads one new
token per sequence. `mla-expanded` is mla without its absorbed form: it makes the keys and values of the whole context
anew at each step. The second table leaves out what both forms share (projections of the token, norms, rotation), so
that the forms themselves are compared.

A single layer's weights stay in the processor's caches; in a deep model every variant also waits for them. The process
keeps freed memory, as `vgpt sample` has it.

    python benchmarks/decode_variants.py --out benchmarks/results/decode_variants.json
    python benchmarks/decode_variants.py --dtype bf16 --contexts 256,1024 --variants mha mla gqa:n_kv_head=2
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from _hardware import add_out, hardware, interleave, paired_ratio, summary, write
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.attention.cache import Cache
from vgpt.attention.config import AttentionConfig
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.latent.config import MLAConfig
from vgpt.attention.latent.module import LatentAttention
from vgpt.attention.registry import variants
from vgpt.errors import VgptError
from vgpt.model.config import GPT2Config
from vgpt.model.decoding import Decoder
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.training.hardware.memory import keep_freed_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WIDTH, HEADS = 768, 12
# Where a variant's defaults are not those of the literature's tables at this size.
SETTINGS = {"gqa": "gqa:n_kv_head=4", "local": "local:window_size=256"}
CHUNK = 512
"""Tokens by which a cache is filled."""
MOST_STEPS = 64
"""Steps of one measurement of a layer, at most: each may leave a token in the cache."""
EXPANDED = "mla-expanded"


class ExpandingMLA(MLAConfig):
    """mla that never decodes in its absorbed form."""

    def absorbing_pays(self, *_: Any) -> bool:
        """Never."""
        return False


def layer(attn: str, dtype: torch.dtype) -> CausalSelfAttention:
    """Return one layer with initial weights, as a decoder lays it out."""
    config = ExpandingMLA() if attn == EXPANDED else resolve_attention(SETTINGS.get(attn, attn))
    sizes = {"n_layer": 1, "n_head": HEADS, "n_embd": WIDTH, "block_size": 64, "vocab_size": 64}
    model = GPT2Model(GPT2Config.model_validate({**sizes, "attn": config}))
    initialize(model, 0)
    return Decoder(model, dtype)._model.h[0].attn


def noise(batch: int, tokens: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return inputs (B, T, C) as a layer norm gives them."""
    return torch.empty(batch, tokens, WIDTH).normal_(generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(name: str, attn: CausalSelfAttention, dtype: torch.dtype) -> float:
    """Return the largest relative difference of decoding to the full forward; a fast wrong answer is worth nothing.

    Raises:
        SystemExit: it is more than the precision explains.
    """
    x = noise(2, 300, dtype)
    cache = attn.make_cache(2, 300, dtype=dtype, device="cpu")
    with torch.inference_mode():
        full = attn(x).float()
        parts = [attn(piece, cache).float() for piece in x.split([290, *[1] * 10], 1)]
    gap = float((torch.cat(parts, 1) - full).abs().max() / full.abs().max())
    if gap > (1e-4 if dtype == torch.float32 else 0.05):
        raise SystemExit(f"{name}: decoding differs from the full forward by {gap:.2g}: nothing is reported")
    return gap


def filled(attn: CausalSelfAttention, batch: int, context: int, dtype: torch.dtype, spare: int) -> Cache:
    """Return a cache that holds one token less than the context, with room for `spare` more."""
    cache = attn.make_cache(batch, context + spare, dtype=dtype, device="cpu")
    with torch.inference_mode():
        for start in range(0, context - 1, CHUNK):
            attn(noise(batch, min(CHUNK, context - 1 - start), dtype, seed=start), cache)
    return cache


def timed(
    step: Callable[[], object], seconds: float, clock: Callable[[], float], most: int | None = None
) -> Callable[[], float]:
    """Return a measurement of a step in milliseconds, repeated for about `seconds` and at most `most` times."""

    def measure() -> float:
        count, began = 0, clock()
        while (most is None or count < most) and (count == 0 or clock() - began < seconds):
            step()
            count += 1
        return 1000 * (clock() - began) / count

    with torch.inference_mode():
        measure()  # warm
    return torch.inference_mode()(measure)


def layer_step(attn: CausalSelfAttention, cache: Cache, x: Tensor, context: int) -> Callable[[], object]:
    """Return one whole decoding step.

    The context is the same at every step where the cache can go back; a ring or a state cannot, and costs the same at
    any later token.
    """

    def step() -> None:
        attn(x, cache)
        try:
            cache.rewind(context - 1)
        except VgptError:
            return

    return step


def form_steps(attn: LatentAttention, cache: Cache, x: Tensor) -> dict[str, Callable[[], object]]:
    """Return mla's two forms on a full cache, from the projected token to the outputs of the heads."""
    with torch.inference_mode():
        attn(x, cache)
        q_nope, q_rope = attn._queries(x)

    def expanded() -> Tensor:
        latent, k_rope = cache.stored()[0][:, 0].split([attn.rank, attn.rope], -1)
        return attn._expanded(q_nope, q_rope, latent, k_rope[:, :, None])

    return {"absorbed": lambda: attn._absorbed(q_nope, q_rope, cache), "expanded": expanded}


def cell(
    layers: dict[str, CausalSelfAttention], batch: int, context: int, args: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Measure all variants, and mla's forms, at one batch size and context."""
    dtype, clock = DTYPES[args.dtype], CLOCKS[args.clock]
    x = noise(batch, 1, dtype, seed=1)
    spare = MOST_STEPS * (args.rounds + 2)
    subjects: dict[str, Callable[[], float]] = {}
    for name, attn in layers.items():
        if name == EXPANDED and context > args.expand_up_to:
            continue
        cache = filled(attn, batch, context, dtype, spare)
        subjects[name] = timed(layer_step(attn, cache, x, context), args.seconds, clock, MOST_STEPS)
    figures = {"layer": interleave(subjects, args.rounds)}
    mla = layers.get("mla")
    if isinstance(mla, LatentAttention) and context <= args.expand_up_to:
        steps = form_steps(mla, filled(mla, batch, context, dtype, 1), x)
        forms = {name: timed(step, args.seconds, clock) for name, step in steps.items()}
        figures["forms"] = interleave(forms, args.rounds)
    return figures


def show(title: str, rows: dict[int, dict[str, list[float]]], ratio: tuple[str, str] | None) -> None:
    """Print the medians by context, and how much slower the second of `ratio` is than the first."""
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    widths = {name: max(12, len(name)) + 2 for name in names}
    print(f"\n{title}\n{'context':>8}" + "".join(name.rjust(width) for name, width in widths.items()))
    for context, figures in rows.items():
        medians = {name: f"{summary(values)['median']:.3f}" for name, values in figures.items()}
        cells = [medians.get(name, "-").rjust(width) for name, width in widths.items()]
        note = ""
        if ratio and all(name in figures for name in ratio):
            note = f"   {ratio[1]} / {ratio[0]} {paired_ratio(figures[ratio[1]], figures[ratio[0]]):.1f}x"
        print(f"{context:8}" + "".join(cells) + note)


def run(layers: dict[str, CausalSelfAttention], batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one batch size at every context and print its tables."""
    contexts = [int(word) for word in args.contexts.split(",")]
    cells = {context: cell(layers, batch, context, args) for context in contexts}
    show(
        f"batch {batch}: ms per step of the layer",
        {context: figures["layer"] for context, figures in cells.items()},
        ("mla", EXPANDED),
    )
    forms = {context: figures["forms"] for context, figures in cells.items() if "forms" in figures}
    if forms:
        show(f"batch {batch}: ms per step of mla's two forms alone", forms, ("absorbed", "expanded"))
    return {
        str(context): {
            part: {name: summary(values) for name, values in by_name.items()} for part, by_name in figures.items()
        }
        for context, figures in cells.items()
    }


def main() -> None:
    """Parse options, check, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [kind for kind, config in variants().items() if issubclass(config, AttentionConfig)]
    parser.add_argument("--variants", nargs="+", default=known, help="as for --attn; unknown ones are skipped")
    parser.add_argument("--contexts", default="256,512,1024,2048,4096,8192", help="tokens, by comma")
    parser.add_argument("--expand-up-to", type=int, default=4096, help="longest context at which mla also expands")
    parser.add_argument("--batches", default="1,16", help="batch sizes, by comma")
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each subject")
    parser.add_argument("--seconds", type=float, default=0.05, help="length of a measurement, about; one step at least")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, steadier where other work runs beside"
    )
    add_out(parser)
    args = parser.parse_args()
    kept = keep_freed_memory()
    machine = hardware()
    print(machine)
    wanted = [*args.variants, *([EXPANDED] if "mla" in args.variants else [])]
    layers: dict[str, CausalSelfAttention] = {}
    for name in wanted:
        try:
            layers[name] = layer(name, DTYPES[args.dtype])
        except VgptError as error:
            print(f"skipped {name}: {error}")
    gaps = {name: check(name, attn, DTYPES[args.dtype]) for name, attn in layers.items()}
    print("decoding / full forward, largest relative difference:", {name: f"{gap:.1g}" for name, gap in gaps.items()})
    batches = {str(batch): run(layers, batch, args) for batch in map(int, args.batches.split(","))}
    sizes = {"n_embd": WIDTH, "n_head": HEADS}
    case = {**sizes, "dtype": args.dtype, "clock": args.clock, "unit": "ms per step", "memory_kept": kept}
    settings = {name: attn.config.model_dump(mode="json") for name, attn in layers.items()}
    write(
        args.out,
        {
            "benchmark": "decode_variants",
            "hardware": machine,
            "case": case,
            "variants": settings,
            "gaps": gaps,
            "batches": batches,
        },
    )


if __name__ == "__main__":
    main()
