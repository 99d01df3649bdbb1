"""Tokens per second of greedy decoding through the cache: vgpt beside HF GPT-2 and litgpt, in one process, in turn.

GPT-2 small (124M, 12x768, vocabulary 50,257, context 1,024) with the same random weights everywhere; a measurement is
one whole generation, prompt included. HF runs `generate` with its default cache and, as `hf-static`, with a static
one; litgpt runs its model over its own cache, cut to the length needed, with nothing but argmax around it. litgpt has
rotary positions instead of learned ones.

    python benchmarks/decode.py --batches 1,16 --rounds 5 --out benchmarks/results/decode.json
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from _hardware import add_out, add_patience, hardware, interleave, paired_ratio, summary, write
from _quiet import Quiet
from torch import Tensor, nn

from vgpt.interchange.stock import to_hf
from vgpt.model.config import GPT2Config
from vgpt.model.decoding import Decoder
from vgpt.model.generation import generate
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize

CONFIG = GPT2Config(n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50_257)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Subject = Callable[[Tensor, int], Tensor]


def vgpt_subject(model: GPT2Model, dtype: torch.dtype) -> Subject:
    """Return vgpt's generation."""
    decoder = Decoder(model, dtype)

    def run(prompts: Tensor, new: int) -> Tensor:
        return torch.tensor(generate(decoder, prompts, max_new_tokens=new, temperature=0, seed=0).tokens)

    return run


def hf_model(model: GPT2Model, dtype: torch.dtype) -> Any:
    """Return transformers' GPT-2 with the same weights."""
    from transformers import GPT2Config as HFConfig
    from transformers import GPT2LMHeadModel

    peer = GPT2LMHeadModel(HFConfig(attn_implementation="sdpa", bos_token_id=0, eos_token_id=None, pad_token_id=0))
    peer.load_state_dict(to_hf(model))
    return peer.to(dtype).eval()


def hf_subject(model: GPT2Model, dtype: torch.dtype, **options: Any) -> Subject:
    """Return transformers' generation."""
    peer = hf_model(model, dtype)

    def run(prompts: Tensor, new: int) -> Tensor:
        mask = torch.ones_like(prompts)
        out = peer.generate(prompts, attention_mask=mask, max_new_tokens=new, do_sample=False, **options)
        return out[:, prompts.shape[1] :]

    return run


def hf_static_subject(model: GPT2Model, dtype: torch.dtype) -> Subject:
    """Return transformers' generation over a static cache, not compiled."""
    return hf_subject(model, dtype, cache_implementation="static", disable_compile=True)


def litgpt_subject(model: GPT2Model, dtype: torch.dtype) -> Subject:
    """Return greedy decoding by litgpt's model."""
    from litgpt.config import Config
    from litgpt.model import GPT

    c = model.config
    shape = {"n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "block_size": c.block_size}
    peer = GPT(
        Config(
            **shape,
            vocab_size=c.vocab_size,
            padded_vocab_size=c.vocab_size,
            parallel_residual=False,
            rotary_percentage=1.0,
            gelu_approximate="tanh",
            bias=True,
        )
    )
    _fill_litgpt(peer, model)
    peer = peer.to(dtype).eval()

    @torch.inference_mode()
    def run(prompts: Tensor, new: int) -> Tensor:
        batch, length = prompts.shape
        peer.max_seq_length = length + new
        peer.set_kv_cache(batch_size=batch, dtype=dtype)
        chosen, positions, made = prompts, torch.arange(length), []
        for end in range(length, length + new):
            chosen = peer(chosen, positions, input_pos_maxp1=end)[:, -1].argmax(-1, keepdim=True)
            positions = torch.tensor([end])
            made.append(chosen)
        peer.clear_kv_cache()
        return torch.cat(made, 1)

    return run


def _fill_litgpt(peer: Any, model: GPT2Model) -> None:
    """Give litgpt's model the same numbers; it has no place for learned positions."""
    pairs: list[tuple[nn.Module, nn.Module]] = [(peer.transformer.wte, model.wte), (peer.transformer.ln_f, model.ln_f)]
    for theirs, ours in zip(peer.transformer.h, model.h, strict=True):
        pairs += [(theirs.norm_1, ours.ln_1), (theirs.norm_2, ours.ln_2)]
        pairs += [(theirs.attn.qkv, ours.attn.c_attn), (theirs.attn.proj, ours.attn.c_proj)]
        pairs += [(theirs.mlp.fc, ours.mlp.c_fc), (theirs.mlp.proj, ours.mlp.c_proj)]
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    peer.lm_head.weight = peer.transformer.wte.weight


SUBJECTS = {"vgpt": vgpt_subject, "hf": hf_subject, "hf-static": hf_static_subject, "litgpt": litgpt_subject}


def check(model: GPT2Model, dtype: torch.dtype) -> float:
    """Compare next-token logits with HF's and return the largest difference; a fast wrong answer is worth nothing.

    Raises:
        SystemExit: they differ by more than the precision explains.
    """
    try:
        peer = hf_model(model, dtype)
    except ImportError:
        return float("nan")
    ids = torch.randint(CONFIG.vocab_size, (2, 65), generator=torch.Generator().manual_seed(1))
    decoder = Decoder(model, dtype)
    caches = decoder.make_caches(2, 65)
    decoder.next_logits(ids[:, :64], caches)
    with torch.inference_mode():
        gap = float((decoder.next_logits(ids[:, 64:], caches) - peer(ids).logits[:, -1].float()).abs().max())
    if gap > (1e-4 if dtype == torch.float32 else 0.1):
        raise SystemExit(f"vgpt's logits differ from HF's by {gap:.2g}: nothing is reported")
    return gap


def measured(subject: Subject, batch: int, prompt: int, new: int) -> Callable[[], float]:
    """Warm a subject up and return a function that gives the tokens/s of one generation."""
    prompts = torch.randint(CONFIG.vocab_size, (batch, prompt), generator=torch.Generator().manual_seed(0))
    subject(prompts, 8)

    def measure() -> float:
        start = time.perf_counter()
        made = subject(prompts, new)
        seconds = time.perf_counter() - start
        assert made.shape == (batch, new)
        return batch * new / seconds

    return measure


def run(subjects: dict[str, Subject], batch: int, args: argparse.Namespace, quiet: Quiet) -> dict[str, Any]:
    """Measure one batch size and print its table."""
    prompt, new = args.prompt, args.new_tokens
    figures = interleave({name: measured(s, batch, prompt, new) for name, s in subjects.items()}, args.rounds, quiet)
    print(f"\nbatch {batch}, prompt {prompt}, {new} new tokens")
    for name, values in figures.items():
        s = summary(values)
        print(f"  {name:10} {s['median']:8.1f} tokens/s  {s['low']:.1f}..{s['high']:.1f}  spread {s['spread']:.0%}")
    ratios = {name: paired_ratio(figures["vgpt"], values) for name, values in figures.items() if name != "vgpt"}
    for name, ratio in ratios.items():
        print(f"  vgpt / {name:10} {ratio:.2f}x")
    return {"figures": {name: summary(values) for name, values in figures.items()}, "ratios": ratios}


def main() -> None:
    """Parse options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,16", help="batch sizes, by comma")
    parser.add_argument("--peers", default="hf,hf-static,litgpt", help="of hf, hf-static, litgpt, by comma")
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES))
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each subject")
    add_out(parser)
    add_patience(parser)
    args = parser.parse_args()
    machine = hardware("transformers", "litgpt")
    print(machine)
    model = GPT2Model(CONFIG)
    initialize(model, 0)
    gap = check(model, DTYPES[args.dtype])
    print(f"largest difference of logits to HF: {gap:.2g}")
    subjects: dict[str, Subject] = {}
    for name in ["vgpt", *filter(None, args.peers.split(","))]:
        try:
            subjects[name] = SUBJECTS[name](model, DTYPES[args.dtype])
        except ImportError as error:
            print(f"skipped {name}: {error}")
    quiet = Quiet(patience=args.patience)
    batches = {str(batch): run(subjects, batch, args, quiet) for batch in map(int, args.batches.split(","))}
    case = {
        "config": CONFIG.model_dump(mode="json"),
        "dtype": args.dtype,
        "prompt": args.prompt,
        "new": args.new_tokens,
    }
    result = {"benchmark": "decode", "hardware": machine, "others": quiet.report(), "case": case, "gap": gap}
    write(args.out, {**result, "batches": batches})


if __name__ == "__main__":
    main()
