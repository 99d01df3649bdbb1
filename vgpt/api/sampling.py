"""Text from a trained model, through its attention's own cache: what `vgpt sample` and `vgpt.sample` do."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vgpt.api.display import facts_html
from vgpt.errors import TokenizerError
from vgpt.settings.commands import SampleConfig

if TYPE_CHECKING:
    import pandas as pd

    from vgpt.model.decoding import Decoder
    from vgpt.model.generation import Generation
    from vgpt.text.tokenizer import Tokenizer

ROWS_AT_ONCE = 16


class Listener(Protocol):
    """Hears of a batch of samples while it is made."""

    def take(self, row: int, token: int) -> None:
        """Hear of a new token of a row."""
        ...

    def finish(self, tokens: list[list[int]]) -> None:
        """Hear of all tokens of all rows, at their end."""
        ...


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
    def of(cls, parts: "Sequence[Generation]") -> "Total":
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


@dataclass(frozen=True)
class Samples:
    """Texts that a model made; a sequence of them, each without the prompt.

    Attributes:
        run: the run, as it was named.
        checkpoint: directory of the checkpoint that made them.
        step: its step.
        prompt: what they continue.
        texts: the new text of each.
        ids: the new tokens of each.
        ended: whether each came to the end of a text by itself.
        seed: of the draws.
        total: tokens, seconds, and bytes of the cache.
        device: the device's name.
        device_type: its kind: "cpu", "cuda" or "mps".
        dtype: precision of weights and cache.
        notes: what a reader should know, such as a context that had to slide.
    """

    run: str
    checkpoint: Path
    step: int
    prompt: str
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...] = field(repr=False)
    ended: tuple[bool, ...]
    seed: int
    total: Total = field(repr=False)
    device: str
    device_type: str
    dtype: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __getitem__(self, number: int) -> str:
        return self.texts[number]

    def __str__(self) -> str:
        return "\n---\n".join(self.prompt + text for text in self.texts)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per text: prompt, text, number of tokens, whether it ended by itself."""
        import pandas as pd

        lengths = [len(row) for row in self.ids]
        columns = {"prompt": self.prompt, "text": self.texts, "tokens": lengths, "end_of_text": self.ended}
        return pd.DataFrame(columns, index=range(len(self)))

    def _repr_html_(self) -> str:
        facts = [(str(number), self.prompt + text) for number, text in enumerate(self.texts, start=1)]
        return facts_html(f"Samples of {self.run} at step {self.step:,}", facts)


def sample_run(
    run: str, settings: SampleConfig, prompt: str, listener: "Callable[[Tokenizer, int], Listener] | None" = None
) -> Samples:
    """Generate text with a trained model.

    Args:
        run: name of a run, its directory, or a checkpoint's.
        settings: how many texts, how long, and how tokens are chosen.
        prompt: what they continue; empty begins a new text.
        listener: makes, from the tokenizer and the number of a batch's first sample, what hears of that batch.

    Raises:
        CheckpointError: no such run, or a damaged one.
        UsageError: a setting out of range.
    """
    from vgpt.attention.kernels.backends import use_backend
    from vgpt.model.decoding import Decoder
    from vgpt.settings.train import SystemSettings
    from vgpt.training.checkpoints.checkpoint import find_checkpoint
    from vgpt.training.hardware.devices import resolve

    checkpoint = find_checkpoint(run, runs_dir=settings.runs_dir)
    tokenizer = checkpoint.tokenizer()
    compute = resolve(SystemSettings(device=settings.device, dtype=settings.dtype, threads=settings.threads))
    decoder = Decoder(checkpoint.load_model(compute.device, flash=settings.flash), compute.dtype)
    ids = tokenizer.encode(prompt, allow_special=settings.allow_special) or [tokenizer.end_of_text]
    with use_backend(checkpoint.state.attention_backend):
        parts = list(_batches(decoder, ids, settings, tokenizer, listener))
    tokens = [row for part in parts for row in part.tokens]
    return Samples(
        run=run,
        checkpoint=checkpoint.directory,
        step=checkpoint.state.step,
        prompt=prompt,
        texts=tuple(spelled(tokenizer, row).decode(errors="replace") for row in tokens),
        ids=tuple(map(tuple, tokens)),
        ended=tuple(stopped for part in parts for stopped in part.stopped),
        seed=settings.seed,
        total=Total.of(parts),
        device=compute.device_name,
        device_type=compute.device.type,
        dtype=compute.dtype_name,
        notes=tuple(parts[0].notes),
    )


def _batches(
    decoder: "Decoder",
    ids: list[int],
    settings: SampleConfig,
    tokenizer: "Tokenizer",
    listener: "Callable[[Tokenizer, int], Listener] | None",
) -> "Iterator[Generation]":
    """Yield what the model makes of a prompt, so many samples at once."""
    import torch

    from vgpt.model.generation import generate

    for first in range(0, settings.num_samples, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, settings.num_samples - first)
        heard = listener(tokenizer, first) if listener is not None else None
        made = generate(
            decoder,
            torch.tensor([ids], device=decoder.device).expand(rows, -1),
            max_new_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=settings.seed,
            stop_token=tokenizer.end_of_text,
            use_cache=settings.cache,
            context=settings.context,
            first_row=first,
            on_token=heard.take if heard is not None else None,
        )
        if heard is not None:
            heard.finish(made.tokens)
        yield made


def spelled(tokenizer: "Tokenizer", ids: Sequence[int]) -> bytes:
    """Return the bytes of ids; one that stands for nothing (a gap before the special tokens) becomes U+FFFD."""
    try:
        return tokenizer.decode_bytes(list(ids))
    except TokenizerError:
        return "\ufffd".encode() if len(ids) == 1 else b"".join(spelled(tokenizer, [i]) for i in ids)
