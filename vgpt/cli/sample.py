"""`vgpt sample`: text from a trained model, streamed, through its attention's own cache."""

import codecs
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vgpt.cli.console import notify, print_json, warn
from vgpt.cli.found import chosen_run, mention_special
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import TokenizerError, UsageError
from vgpt.files.paths import access_hint
from vgpt.files.text import decode_text
from vgpt.settings.loader import Loaded
from vgpt.settings.sample import SampleConfig

if TYPE_CHECKING:
    from vgpt.model.generation import Generation
    from vgpt.text.tokenizer import Tokenizer

ROWS_AT_ONCE = 16


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("sample")(with_settings(SampleConfig, presets=False)(sample))


def sample(
    loaded: Loaded[SampleConfig],
    run: Annotated[
        str | None, typer.Argument(help="run name, run directory or checkpoint directory; none = finished last")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Generate text with a trained model."""
    settings = loaded.settings
    prompt = read_prompt(settings)

    import torch

    from vgpt.model.decoding import Decoder
    from vgpt.model.generation import generate
    from vgpt.settings.train import SystemSettings
    from vgpt.training.checkpoint import find_checkpoint
    from vgpt.training.devices import resolve

    run = chosen_run(run, settings.runs_dir)
    checkpoint = find_checkpoint(run, runs_dir=settings.runs_dir)
    tokenizer = checkpoint.tokenizer()
    compute = resolve(SystemSettings(device=settings.device, dtype=settings.dtype, threads=settings.threads))
    decoder = Decoder(checkpoint.load_model(compute.device, flash=settings.flash), compute.dtype)
    mention_special(tokenizer, prompt, allowed=settings.allow_special)
    ids = tokenizer.encode(prompt, allow_special=settings.allow_special) or [tokenizer.end_of_text]
    parts: list[Generation] = []
    for first in range(0, settings.num_samples, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, settings.num_samples - first)
        printer = Printer(tokenizer, prompt, first, settings.num_samples, silent=json)
        made = generate(
            decoder,
            torch.tensor([ids], device=compute.device).expand(rows, -1),
            max_new_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=settings.seed,
            stop_token=tokenizer.end_of_text,
            use_cache=settings.cache,
            context=settings.context,
            first_row=first,
            on_token=printer.take,
        )
        printer.finish(made.tokens)
        parts.append(made)
    total = Total.of(parts)
    for note in parts[0].notes:
        warn(note)
    if json:
        print_json(
            {
                "run": run,
                "checkpoint": checkpoint.directory,
                "step": checkpoint.state.step,
                "prompt": prompt,
                "samples": [
                    _table(tokenizer, row, stopped)
                    for part in parts
                    for row, stopped in zip(part.tokens, part.stopped, strict=True)
                ],
                "seed": settings.seed,
                **total.table(),
                "device": compute.device_name,
                "dtype": compute.dtype_name,
                "notes": parts[0].notes,
            }
        )
    notify(total.line(settings.cache, f"{compute.dtype_name} on {compute.device.type}"))


def _table(tokenizer: "Tokenizer", ids: list[int], stopped: bool) -> dict[str, Any]:
    text = spelled(tokenizer, ids).decode(errors="replace")
    return {"text": text, "tokens": len(ids), "ids": ids, "end_of_text": stopped}


def read_prompt(settings: SampleConfig) -> str:
    """Return the prompt, or an empty text where none is given.

    Raises:
        UsageError: the prompt's file cannot be read or is no UTF-8 text.
    """
    place = settings.prompt_file
    if place is None:
        return settings.prompt or ""
    name = "stdin" if place == Path("-") else str(place)
    try:
        return decode_text(sys.stdin.buffer.read() if name == "stdin" else place.read_bytes())
    except OSError as error:
        raise UsageError(
            f"--prompt-file {name} cannot be read: {error.strerror}", access_hint(error, "Check the path.")
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--prompt-file {name} is no UTF-8 text: byte {error.start:,} cannot be read", "Convert it to UTF-8 first."
        ) from error


class Printer:
    """Prints a batch of samples: the first as it is made, the others when their turn comes.

    Args:
        tokenizer: turns tokens into bytes.
        prompt: printed before each sample's text.
        first: number of the first sample of this batch.
        total: samples of the whole command; one alone gets no heading.
        silent: print nothing.
    """

    def __init__(self, tokenizer: "Tokenizer", prompt: str, first: int, total: int, *, silent: bool) -> None:
        self._tokenizer, self._prompt, self._first, self._total, self._silent = tokenizer, prompt, first, total, silent
        self._guarded = sys.stdout.isatty()
        # A character may be spread over several tokens; it is held back until its last byte is there.
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._begin(0)

    def take(self, row: int, token: int) -> None:
        """Print a token of the first sample."""
        if row == 0:
            self._write(self._characters.decode(spelled(self._tokenizer, [token])))

    def finish(self, tokens: list[list[int]]) -> None:
        """End the first sample and print the others."""
        self._write(self._characters.decode(b"", final=True) + "\n")
        for row, text in enumerate(tokens[1:], start=1):
            self._begin(row)
            self._write(spelled(self._tokenizer, text).decode(errors="replace") + "\n")

    def _begin(self, row: int) -> None:
        if self._total > 1:
            self._write(f"--- sample {self._first + row + 1} of {self._total} ---\n")
        self._write(self._prompt)

    def _write(self, text: str) -> None:
        if self._silent or not text:
            return
        text = visible(text) if self._guarded else text
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
        sys.stdout.flush()


def spelled(tokenizer: "Tokenizer", ids: list[int]) -> bytes:
    """Return the bytes of ids; one that stands for nothing (a gap before the special tokens) becomes U+FFFD."""
    try:
        return tokenizer.decode_bytes(ids)
    except TokenizerError:
        return "\ufffd".encode() if len(ids) == 1 else b"".join(spelled(tokenizer, [i]) for i in ids)


def visible(text: str) -> str:
    r"""Return the text with control characters spelled out (\x1b), so that a model cannot command the terminal.

    Line breaks and tabs stay; so do characters that only change the direction of writing, which every text may hold.
    """
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


@dataclass(frozen=True)
class Total:
    """Figures of all batches together; the cache's are those of the largest batch."""

    tokens: int
    seconds: float
    rows: int
    cache_tokens: int
    cache_bytes: int
    cache_bytes_analytic: int
    cache_bytes_reserved: int

    @classmethod
    def of(cls, parts: "list[Generation]") -> "Total":
        """Add up what the batches took."""
        largest = max(parts, key=lambda part: part.cache_nbytes)
        return cls(
            tokens=sum(part.count for part in parts),
            seconds=sum(part.prefill_seconds + part.decode_seconds for part in parts),
            rows=len(largest.tokens),
            cache_tokens=largest.cache_tokens,
            cache_bytes=largest.cache_nbytes,
            cache_bytes_analytic=largest.cache_analytic,
            cache_bytes_reserved=largest.cache_reserved,
        )

    def table(self) -> dict[str, Any]:
        """Return the figures for programs."""
        return {
            "new_tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "cache_rows": self.rows,
            "cache_tokens": self.cache_tokens,
            "cache_bytes": self.cache_bytes,
            "cache_bytes_analytic": self.cache_bytes_analytic,
            "cache_bytes_reserved": self.cache_bytes_reserved,
        }

    def line(self, cached: bool, compute: str) -> str:
        """Return the figures for people."""
        speed = f"{self.tokens:,} tokens in {self.seconds:.2f} s: {self.tokens / max(self.seconds, 1e-9):,.1f} tokens/s"
        if not cached:
            return f"{speed}, {compute}, without a cache"
        held = f"{self.rows} x {self.cache_tokens:,} tokens" if self.rows > 1 else f"{self.cache_tokens:,} tokens"
        analytic = self.cache_bytes_analytic
        same = "as its analytic size" if self.cache_bytes == analytic else f"analytic size {analytic:,}"
        return f"{speed}, {compute}; cache {self.cache_bytes:,} bytes for {held} ({same})"
