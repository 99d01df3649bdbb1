"""Tokens per second of greedy decoding on a GPU: each variant by single steps and by graphs, beside a plain step.

GPT-2 small (124M) in bfloat16 with random weights. The plain step is the simplest one that GPUs like: the same weights,
a static cache, torch's fused attention with a mask, all in one CUDA graph; its logits must be ours. transformers' GPT-2
with a static cache and its own compilation runs where it is installed and time is left. Prints one JSON object.

    python benchmarks/decode_gpu.py --seconds 85
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vgpt.attention.kernels.scores import ScoreMods
from vgpt.attention.kernels.single_query import attend_by_products
from vgpt.attention.place import Place
from vgpt.bench.work import weight_bytes
from vgpt.interchange.stock import to_hf
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_read_bytes
from vgpt.model.decoding import Decoder
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.model.steps import cuda_recorder

VARIANTS = ["mha", "gqa:n_kv_head=4", "mqa", "local:window_size=256", "linear", "mla", "sparse"]
DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16
CASES = [(1, 16), (1, 896), (16, 16), (16, 896)]
NEW = 128

NextLogits = Callable[[Tensor], Tensor]


def model_of(attn: str) -> GPT2Model:
    """Return a model of the size of GPT-2 small."""
    settings = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50_257}
    model = GPT2Model(GPT2Config.model_validate({**settings, "attn": attn}))
    initialize(model, 0)
    return model.to(DEVICE)


class PlainStep:
    """One step of GPT-2 over a static cache of `rows` rows, as simple as can be, in one CUDA graph.

    Args:
        model: with attention mha and learned positions.
        batch: sequences.
        rows: of the cache, all of which every step reads.
    """

    def __init__(self, model: GPT2Model, batch: int, rows: int) -> None:
        with torch.no_grad():
            self.weights = {name: value.to(DTYPE) for name, value in model.state_dict().items()}
        c = model.config
        self.heads, self.width, self.layers, self.rows = c.n_head, c.n_embd // c.n_head, c.n_layer, rows
        shape = (c.n_layer, batch, c.n_head, rows, self.width)
        self.keys, self.values = (torch.zeros(shape, dtype=DTYPE, device=DEVICE) for _ in range(2))
        self.ids = torch.zeros(batch, 1, dtype=torch.int64, device=DEVICE)
        self.position = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        self.logits = torch.zeros(batch, c.vocab_size, device=DEVICE)
        with torch.inference_mode():
            self.replay = cuda_recorder(DEVICE)(self.run)

    def run(self) -> None:
        """Do one step."""
        w, B = self.weights, self.ids.shape[0]
        x = w["wte.weight"][self.ids] + w["wpe.weight"].index_select(0, self.position)
        places = torch.arange(self.rows, device=DEVICE)
        mask = torch.zeros(1, 1, 1, self.rows, dtype=DTYPE, device=DEVICE)
        mask = mask.masked_fill_(places > self.position, -torch.inf).expand(B, self.heads, 1, -1)
        for i in range(self.layers):
            h = f"h.{i}."
            y = F.layer_norm(x, x.shape[-1:], w[h + "ln_1.weight"], w[h + "ln_1.bias"])
            heads = F.linear(y, w[h + "attn.c_attn.weight"], w[h + "attn.c_attn.bias"])
            q, k, v = heads.view(B, 3, self.heads, 1, self.width).unbind(1)
            keys = self.keys[i].index_copy_(2, self.position, k)
            values = self.values[i].index_copy_(2, self.position, v)
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).transpose(1, 2).reshape(B, 1, -1)
            x = x + F.linear(y, w[h + "attn.c_proj.weight"], w[h + "attn.c_proj.bias"])
            y = F.layer_norm(x, x.shape[-1:], w[h + "ln_2.weight"], w[h + "ln_2.bias"])
            y = F.gelu(F.linear(y, w[h + "mlp.c_fc.weight"], w[h + "mlp.c_fc.bias"]), approximate="tanh")
            x = x + F.linear(y, w[h + "mlp.c_proj.weight"], w[h + "mlp.c_proj.bias"])
        x = F.layer_norm(x, x.shape[-1:], w["ln_f.weight"], w["ln_f.bias"])
        self.logits.copy_(F.linear(x[:, -1], w["wte.weight"]))
        self.position.add_(1)

    def start(self, prompts: Tensor) -> None:
        """Read prompts token by token: how fast is not measured."""
        self.position.zero_()
        for at in range(prompts.shape[1]):
            self.next_logits(prompts[:, at : at + 1])

    def next_logits(self, ids: Tensor) -> Tensor:
        """Return the logits (B, V) after one more token (B, 1)."""
        self.ids.copy_(ids)
        self.replay()
        return self.logits


def timed(start: Callable[[], Tensor], next_logits: NextLogits, rounds: int = 3) -> float:
    """Return the seconds of a step of NEW greedy steps after a prompt, the median of rounds; the first round warms."""
    taken: list[float] = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            chosen = start().argmax(-1, True)
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for _ in range(NEW - 1):
                chosen = next_logits(chosen).argmax(-1, True)
            torch.cuda.synchronize()
            taken.append((time.perf_counter() - begun) / (NEW - 1))
    return median(taken[1:])


def line(config: GPT2Config, seconds: float, batch: int, prompt: int, **more: Any) -> dict[str, Any]:
    """Return the figures of one measurement."""
    middle = prompt + NEW // 2
    moved = weight_bytes(config, 2) + batch * cache_read_bytes(config, middle, 2)
    figures = {
        "tokens_per_second": batch / seconds,
        "ms_per_step": 1000 * seconds,
        "gb_per_second": moved / seconds / 1e9,
    }
    return {"batch": batch, "prompt": prompt, **{name: round(value, 3) for name, value in figures.items()}, **more}


def prompts_of(batch: int, tokens: int) -> Tensor:
    """Return random prompts (B, T)."""
    return torch.randint(50_257, (batch, tokens), generator=torch.Generator().manual_seed(1)).to(DEVICE)


def ours(attn: str, batch: int, prompt: int, model: GPT2Model, *, graphs: bool) -> dict[str, Any]:
    """Measure a variant."""
    steps = Decoder(model, DTYPE, graphs=graphs).steps(batch, prompt + NEW)
    given = prompts_of(batch, prompt)

    def start() -> Tensor:
        steps.reset()
        return steps.next_logits(given)

    seconds = timed(start, steps.next_logits, rounds=3 if graphs else 1)
    return line(model.config, seconds, batch, prompt, who=attn, graphs=graphs, note=steps.note)


def plain(batch: int, prompt: int, model: GPT2Model) -> dict[str, Any]:
    """Measure the plain step, and how far its logits are from ours and from those of a prefill."""
    step, given = PlainStep(model, batch, 1024), prompts_of(batch, prompt + 4)
    steps = Decoder(model, DTYPE).steps(batch, prompt + NEW)
    with torch.inference_mode():
        step.start(given[:, :-4])
        steps.next_logits(given[:, :-4])
        pairs = [(step.next_logits(t).clone(), steps.next_logits(t).clone()) for t in given[:, -4:].split(1, 1)]
        truth = model(given)[:, -1].float()
    apart = max(float((a - b).abs().max()) for a, b in pairs) / float(truth.abs().max())
    errors = [float((one - truth).abs().max() / truth.abs().max()) for one in pairs[-1]]

    def start() -> Tensor:
        step.position.fill_(prompt)  # what the rows hold changes no time
        return step.logits

    figures = timed(start, step.next_logits)
    more = {"apart_from_ours": apart, "error_of_plain": errors[0], "error_of_ours": errors[1], "same": apart < 0.03}
    return line(model.config, figures, batch, prompt, who="plain step, 1024 rows", graphs=True, **more)


def attention_ways() -> list[dict[str, Any]]:
    """Return microseconds of one attention by the fused kernel and by products: what `fused_pays` rests on."""
    found: list[dict[str, Any]] = []
    for batch, groups in ((1, 12), (1, 4), (1, 1), (16, 12), (16, 1)):
        for rows in (256, 1024, 4096):
            shape = (batch, groups, rows, 64)
            k, v = (torch.randn(shape, device=DEVICE, dtype=DTYPE) for _ in range(2))
            q = torch.randn(batch, groups, 12 // groups, 64, device=DEVICE, dtype=DTYPE)
            position = torch.full((1,), rows - 1, device=DEVICE)
            place = Place(position, rows)

            def fused(q: Tensor = q, k: Tensor = k, v: Tensor = v, place: Place = place) -> None:
                mask = place.bias(k.shape[2], None, DTYPE).expand(*q.shape[:3], k.shape[2])
                F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

            def products(q: Tensor = q, k: Tensor = k, v: Tensor = v, place: Place = place) -> None:
                attend_by_products(place, q, k, v, ScoreMods(0.125))

            with torch.inference_mode():
                both = {way.__name__: _microseconds(way) for way in (fused, products)}
            found.append({"batch": batch, "groups": groups, "rows": rows, **both})
    return found


def _microseconds(work: Callable[[], None], times: int = 50) -> float:
    def many() -> None:
        for _ in range(times):
            work()

    replay = cuda_recorder(DEVICE)(many)
    replay()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(4):
        replay()
    torch.cuda.synchronize()
    return round((time.perf_counter() - begun) / 4 / times * 1e6, 2)


def transformers_step(model: GPT2Model, batch: int, prompt: int) -> dict[str, Any]:
    """Measure a step of transformers' GPT-2 with a static cache, compiled with its graphs."""
    from transformers import GPT2Config as HFConfig
    from transformers import GPT2LMHeadModel, StaticCache

    peer: Any = GPT2LMHeadModel(HFConfig(attn_implementation="sdpa", bos_token_id=0, eos_token_id=None, pad_token_id=0))
    peer.load_state_dict(to_hf(model))
    peer = peer.to(DEVICE, DTYPE).eval()
    cache = StaticCache(config=peer.config, max_cache_len=1024)
    given = prompts_of(batch, prompt)
    forward = torch.compile(peer.forward, mode="reduce-overhead", fullgraph=True)
    at = torch.zeros(1, dtype=torch.int64, device=DEVICE)

    def start() -> Tensor:
        cache.reset()
        at.fill_(prompt)
        places = torch.arange(prompt, device=DEVICE)
        return peer(given, past_key_values=cache, cache_position=places, use_cache=True).logits[:, -1]

    def next_logits(ids: Tensor) -> Tensor:
        logits = forward(ids, past_key_values=cache, cache_position=at, use_cache=True).logits[:, -1].clone()
        at.add_(1)
        return logits

    with torch.no_grad():
        return line(model.config, timed(start, next_logits, rounds=2), batch, prompt, who="transformers", graphs=True)


def main() -> None:
    """Measure what fits into the time, the most telling first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=85.0, help="begin nothing new after so long")
    parser.add_argument("--transformers", action="store_true", help="also transformers' GPT-2, which compiles for long")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    results: list[dict[str, Any]] = []
    left_out: list[str] = []

    def attempt(what: str, measure: Callable[[], dict[str, Any]]) -> None:
        if time.monotonic() > end:
            left_out.append(what)
            return
        try:
            results.append(measure())
        except Exception as error:  # noqa: BLE001 - one that fails must not take the others' figures along
            results.append({"who": what, "error": f"{type(error).__name__}: {error}"})
        sys.stderr.write(json.dumps(results[-1]) + "\n")

    first = model_of("mha")
    for batch, prompt in CASES:
        attempt("plain step", lambda b=batch, p=prompt: plain(b, p, first))
    for graphs in (True, False):
        for attn in VARIANTS:
            model = first if attn == "mha" else model_of(attn)
            for batch, prompt in CASES if graphs else CASES[1:2]:
                attempt(attn, lambda a=attn, b=batch, p=prompt, m=model, g=graphs: ours(a, b, p, m, graphs=g))
    ways: list[dict[str, Any]] = []
    attempt("attention", lambda: {"who": "attention", "microseconds": ways.extend(attention_ways()) or ways})
    if options.transformers:
        attempt("transformers", lambda: transformers_step(first, 1, 896))
    card = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "new_tokens": NEW, "dtype": "bfloat16"}
    sys.stdout.write(json.dumps({**card, "results": results, "left_out": left_out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
