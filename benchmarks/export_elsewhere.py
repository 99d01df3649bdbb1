"""Every variant exported here and loaded by another Python that has transformers and no vgpt: logits, ids, greedy text.

    python -m venv clean && clean/bin/pip install torch transformers pydantic
    python benchmarks/export_elsewhere.py clean/bin/python

Models are small, and every tensor of theirs is filled with numbers that show. Prints a row of Markdown for each.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from vgpt.interchange.export import export_run
from vgpt.model.config import GPT2Config
from vgpt.model.generation import generate
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.settings.train import TrainConfig
from vgpt.text.bpe import train_bpe
from vgpt.text.tokenizer import Tokenizer
from vgpt.training.checkpoints.checkpoint import TrainingState, find_checkpoint, save_checkpoint

CASES = ("mha", "mqa", "gqa:n_kv_head=2", "local:window_size=5", "sparse:sparse_block_size=4", "linear")
CASES += ("mla:kv_lora_rank=12", "2xlocal:window_size=5+linear")
SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 32, "block_size": 96}
TEXT = "The quick brown fox jumps over the lazy dog; it doesn't mind 12,345 naïve dogs. "
NEW_TOKENS = 64

ELSEWHERE = """
import json, sys
try:
    import vgpt
except ImportError:
    pass
else:
    sys.exit("vgpt is installed there")
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
asked = json.load(sys.stdin)
prompts = torch.tensor(asked["prompts"])
for place in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=True).eval()
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=True)
    with torch.no_grad():
        logits = model(prompts).logits.tolist()
    text = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=asked["new_tokens"]
    )
    told = {"text": text[:, prompts.shape[1]:].tolist(), "ids": tokenizer(asked["text"])["input_ids"], "logits": logits}
    print(json.dumps({**told, "class": type(model).__name__, "transformers": transformers.__version__}))
"""


def make_run(runs: Path, attn: str, number: int, tokenizer: Tokenizer) -> Path:
    """Write a run with one checkpoint, without training."""
    name = f"run-{number}"
    settings = TrainConfig.model_validate({"model": {"attn": attn, **SIZES}, "run": {"run_name": name}})
    config = GPT2Config(**settings.model.concrete(), vocab_size=tokenizer.vocab_size)
    model, draws = GPT2Model(config), torch.Generator().manual_seed(number)
    initialize(model, number)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.1 if parameter.ndim > 1 else 0.01  # biases are small beside weights, as in trained models
            parameter.add_(torch.randn(parameter.shape, generator=draws) * size)
    save_checkpoint(
        runs / name / "ckpt",
        model=config,
        weights=dict(model.state_dict()),
        optimizer={},
        state=TrainingState(finished=True),
        settings=settings,
        tokenizer=tokenizer,
    )
    return runs / name


def main(python: str) -> None:
    """Export all, load them elsewhere, and print what came of it."""
    with tempfile.TemporaryDirectory() as temporary:
        place, tokenizer = Path(temporary), train_bpe([TEXT * 20], 300)
        runs = [make_run(place / "runs", attn, number, tokenizer) for number, attn in enumerate(CASES)]
        outs = [place / f"out-{number}" for number in range(len(CASES))]
        for run, out in zip(runs, outs, strict=True):
            export_run(str(run), out, runs_dir=place / "runs")
        prompts = torch.randint(tokenizer.vocab_size, (2, 20), generator=torch.Generator().manual_seed(5))
        asked = {"prompts": prompts.tolist(), "text": TEXT, "new_tokens": NEW_TOKENS}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [python, "-c", ELSEWHERE, *map(str, outs)],
            input=json.dumps(asked),
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=place,
            check=True,
        )
        print("| attention | class | largest difference of logits | greedy text of 64 tokens | ids | transformers |")
        print("|---|---|---|---|---|---|")
        for attn, run, line in zip(CASES, runs, done.stdout.splitlines(), strict=True):
            theirs, ours = json.loads(line), find_checkpoint(run).load_model().eval()
            with torch.no_grad():
                difference = (torch.tensor(theirs["logits"]) - ours(prompts)).abs().max().item()
            mine = generate(ours, prompts, max_new_tokens=NEW_TOKENS, temperature=0, seed=0).tokens
            text, ids = (
                "same" if one else "OTHER" for one in (theirs["text"] == mine, theirs["ids"] == tokenizer.encode(TEXT))
            )
            print(f"| {attn} | {theirs['class']} | {difference:.1e} | {text} | {ids} | {theirs['transformers']} |")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).absolute()))
