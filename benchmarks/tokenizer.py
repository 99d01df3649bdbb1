"""Time the tokenizer beside Hugging Face's `tokenizers`, in one run, the two sides taking turns.

    python benchmarks/tokenizer.py --out benchmarks/results/tokenizer.json

Training: vgpt's trainer in one thread against the Rust BPE trainer with all cores, on the same text, with the GPT-4
split and the same vocabulary size. The text is Python sources of the standard library and the installed packages.
Encoding: the same text, in documents, with the merges vgpt learned, one thread each.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vgpt.text.bpe import train_bpe
from vgpt.text.patterns import PATTERNS
from vgpt.text.tokenizer import Tokenizer

CASES = {"small": (1_000_000, 4_096), "large": (32_000_000, 32_768)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the small case; the large one is run once")
    parser.add_argument("--text", type=Path, help="a UTF-8 file to use in place of Python sources")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    rows = []
    for case in arguments.cases:
        size, vocab_size = CASES[case]
        documents = take(arguments.text, size)
        rows += run_case(case, documents, vocab_size, arguments.rounds if case == "small" else 1)
    machine = describe_machine()
    show(machine, rows)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def take(path: Path | None, size: int) -> list[str]:
    """Return about `size` bytes of text as documents of at most 64 thousand characters."""
    documents: list[str] = []
    total = 0
    for text in [path.read_text(encoding="utf-8")] if path else python_sources():
        for start in range(0, len(text), 1 << 16):
            documents.append(text[start : start + (1 << 16)])
            total += len(documents[-1].encode())
            if total >= size:
                return documents
    sys.exit(f"only {total:,} bytes of text were found, {size:,} are needed")


def python_sources() -> Iterator[str]:
    for key in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(key)).rglob("*.py")):
            try:
                yield path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def run_case(case: str, documents: list[str], vocab_size: int, rounds: int) -> list[dict]:
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    train_seconds: dict[str, list[float]] = {"vgpt": [], "tokenizers": []}
    encode_speeds: dict[str, list[float]] = {"vgpt": [], "tokenizers": []}
    different = 0
    for _ in range(rounds):
        seconds, ours = timed(partial(train_bpe, documents, vocab_size, pattern="gpt4"))
        train_seconds["vgpt"].append(seconds)
        train_seconds["tokenizers"].append(timed(partial(train_theirs, documents, vocab_size))[0])
        theirs = load_theirs(ours)
        seconds, our_ids = timed(partial(ours.encode_batch, documents))
        encode_speeds["vgpt"].append(megabytes / seconds)
        seconds, their_ids = timed(partial(encode_theirs, theirs, documents))
        encode_speeds["tokenizers"].append(megabytes / seconds)
        different = sum(a.tolist() != b for a, b in zip(our_ids, their_ids, strict=True))
        # Their regular expressions do not know the newest characters of Unicode, which some sources list.
        if different > len(documents) // 100:
            sys.exit(f"the libraries encode {different} of {len(documents)} documents differently: nothing to compare")
    rows = []
    for name in train_seconds:
        rows.append(
            {
                "case": case,
                "library": name,
                "megabytes": round(megabytes, 2),
                "vocab_size": vocab_size,
                "train_seconds": round(statistics.median(train_seconds[name]), 3),
                "train_spread": [round(min(train_seconds[name]), 3), round(max(train_seconds[name]), 3)],
                "documents": len(documents),
                "documents_encoded_differently": different,
                "encode_mb_per_s": round(statistics.median(encode_speeds[name]), 2),
            }
        )
    return rows


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def train_theirs(documents: list[str], vocab_size: int) -> None:
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Theirs

    tokenizer = Theirs(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERNS["gpt4"]), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)


def load_theirs(ours: Tokenizer) -> Any:
    from tokenizers import Tokenizer as Theirs

    with TemporaryDirectory() as folder:
        ours.save(Path(folder))
        return Theirs.from_file(str(Path(folder) / "tokenizer.json"))


def encode_theirs(tokenizer: Any, documents: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text).ids for text in documents]


def describe_machine() -> dict[str, str | int]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    found: dict[str, str | int] = {"cpu": model, "cores": os.cpu_count() or 0, "python": platform.python_version()}
    for package in ("tokenizers", "tiktoken", "regex", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def show(machine: dict[str, str | int], rows: list[dict]) -> None:
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'case':7}{'library':12}{'MB':>7}{'vocab':>8}{'train s':>10}{'min..max':>16}{'encode MB/s':>13}")
    for row in rows:
        low, high = row["train_spread"]
        print(
            f"{row['case']:7}{row['library']:12}{row['megabytes']:7.1f}{row['vocab_size']:8}{row['train_seconds']:10.2f}"
            f"{f'{low:.2f}..{high:.2f}':>16}{row['encode_mb_per_s']:13.2f}"
        )
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        ratio = ours["train_seconds"] / theirs["train_seconds"]
        print(f"{ours['case']}: training takes {ratio:.2f} times as long as tokenizers'")


if __name__ == "__main__":
    main()
