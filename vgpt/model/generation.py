"""Text generation: read the prompt once, then one token per step through the attention's own cache."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vgpt.attention.cache import Cache
from vgpt.errors import UsageError
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes
from vgpt.model.decoding import Decoder
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.readback import NOT_FINITE, Readback
from vgpt.model.sampling import Sampler, not_finite
from vgpt.model.window import Window

OnToken = Callable[[int, int], bool | None]
"""Hears of a row's new token; True ends the row after it."""

_DRAWN_AHEAD = 64
"""Steps whose random numbers go to the device at once."""


@dataclass
class Generation:
    """New tokens of a batch, and what it took.

    Attributes:
        tokens: the new tokens of each row, without the stop token.
        stopped: whether the row ended by its stop token.
        cut: rows that `on_token` ended.
        notes: what a reader should know, such as a context that had to slide.
        prefill_seconds: time of reading the prompt and choosing the first token.
        decode_seconds: time of all later steps.
        steps: tokens chosen per row, stop tokens and those of finished rows included.
        cache_tokens: tokens that the cache held at the end; on CUDA one more where a stop token ended the text, for
            the host learns of it one step late.
        cache_nbytes: bytes in use in the caches of all layers and rows, measured.
        cache_analytic: the same by the variant's analytic cost.
        cache_reserved: bytes allocated.
    """

    tokens: list[list[int]]
    stopped: list[bool]
    cut: set[int] = field(default_factory=set[int])
    notes: list[str] = field(default_factory=list[str])
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    steps: int = 0
    cache_tokens: int = 0
    cache_nbytes: int = 0
    cache_analytic: int = 0
    cache_reserved: int = 0

    @property
    def count(self) -> int:
        """New tokens of all rows, each row's stop token included."""
        return sum(len(row) for row in self.tokens) + sum(self.stopped)

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows per second of the whole call, prompt included."""
        return self.count / max(self.prefill_seconds + self.decode_seconds, 1e-9)


def generate(
    model: GPT2Model | Decoder,
    prompts: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int,
    stop_token: int | None = None,
    use_cache: bool = True,
    cache_dtype: torch.dtype | None = None,
    context: int | None = None,
    first_row: int = 0,
    on_token: OnToken | None = None,
) -> Generation:
    """Continue each prompt.

    A row's tokens depend on the model, its prompt, the seed and its number, not on the other rows.

    When the context is full, its older half is forgotten and the newer half is read again at positions from 0 on, so
    the model never sees a position that it was not trained on. With `pos` "learned" nothing else is possible; with
    "rope" and "none" a larger `context` may be asked for, whose quality nobody promises. Without a cache the context
    slides at the same tokens.

    Args:
        model: the model in its own precision, or a `Decoder` of it; dropout is off in both cases.
        prompts: token ids (B, T), int64, T at least 1.
        max_new_tokens: most new tokens per row.
        temperature: see `Sampler`.
        top_k: see `Sampler`.
        top_p: see `Sampler`.
        seed: of all draws.
        stop_token: ends a row; the call ends when all rows have ended.
        use_cache: False recomputes the whole context at each step.
        cache_dtype: precision of the cache; the model's by default.
        context: most tokens that the model looks at; `block_size` by default.
        first_row: number of the first row.
        on_token: called with (row, token) for every new token of a row that has not ended, stop token excluded; it ends
            the row by returning True.

    Raises:
        UsageError: an empty prompt, an id outside the vocabulary, or a setting out of range.
    """
    decoder = model if isinstance(model, Decoder) else Decoder(model)
    context = _checked_context(decoder.config, context)
    _check_prompts(decoder.config, prompts, max_new_tokens)
    choice = _Choice(Sampler(temperature, top_k, top_p, seed, first_row), len(prompts), max_new_tokens)
    result = Generation([[] for _ in prompts], [False] * len(prompts))
    window = Window(decoder, prompts, max_new_tokens, context, use_cache, cache_dtype)
    _extend(window, choice, Readback(decoder.device), result, max_new_tokens, stop_token, on_token)
    result.notes = _notes(decoder.config, prompts.shape[1], context, window.slides)
    if window.steps is not None:
        result.notes += [window.steps.note] if window.steps.note else []
        _measure(result, window.steps.caches, decoder.config, cache_dtype or decoder.dtype)
        decoder.keep(window.steps)
    return result


def _extend(
    window: Window,
    choice: "_Choice",
    readback: Readback,
    result: Generation,
    max_new_tokens: int,
    stop_token: int | None,
    on_token: OnToken | None,
) -> None:
    """Choose token after token until all rows have ended or are long enough; fills in the tokens and the seconds."""
    began = time.perf_counter()
    for step in range(max_new_tokens):
        # Nothing is forgotten before it is known that the text goes on.
        if window.full and _hand_out(readback.arrived(wait=True), result, stop_token, on_token):
            break
        chosen, finite = choice.made(window.next_logits(), step)
        window.append(chosen)
        readback.send(chosen, finite)
        ended = _hand_out(readback.arrived(wait=step == 0), result, stop_token, on_token)
        if step == 0:
            result.prefill_seconds = time.perf_counter() - began
        if ended:
            break
    else:
        _hand_out(readback.arrived(wait=True), result, stop_token, on_token)
    result.decode_seconds = time.perf_counter() - began - result.prefill_seconds


class _Choice:
    """Chooses tokens, with random numbers that are drawn for many steps ahead."""

    def __init__(self, sampler: Sampler, rows: int, steps: int) -> None:
        self._sampler, self._rows, self._steps = sampler, rows, steps
        self._draws: Tensor | None = None

    def made(self, logits: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the tokens (B,) of a step and whether its logits are numbers, both on the device."""
        if self._draws is None or step % _DRAWN_AHEAD == 0:
            count = min(_DRAWN_AHEAD, self._steps - step)
            self._draws = self._sampler.draws(self._rows, step, count, logits)
        return self._sampler.pick(logits, self._draws[step % _DRAWN_AHEAD])


def _hand_out(steps: list[list[int]], result: Generation, stop_token: int | None, on_token: OnToken | None) -> bool:
    """Take the tokens of some steps; return whether all rows have ended."""
    for chosen in steps:
        if _all_ended(result):
            break  # a step under way when the last row ended
        if NOT_FINITE in chosen:
            raise not_finite()
        result.steps += 1
        for row, token in enumerate(chosen):
            if result.stopped[row] or row in result.cut:
                continue
            if token == stop_token:
                result.stopped[row] = True
                continue
            result.tokens[row].append(token)
            if on_token is not None and on_token(row, token):
                result.cut.add(row)
    return _all_ended(result)


def _all_ended(result: Generation) -> bool:
    return all(stopped or row in result.cut for row, stopped in enumerate(result.stopped))


def _checked_context(config: GPT2Config, context: int | None) -> int:
    if context is None:
        return config.block_size
    if context < 1:
        raise UsageError(f"context {context} must be at least 1 token")
    if config.pos == "learned" and context > config.block_size:
        raise UsageError(
            f"context {context} is longer than the model's {config.block_size} learned positions",
            f"Use at most {config.block_size}, or train with --pos rope or a larger --block-size.",
        )
    return context


def _check_prompts(config: GPT2Config, prompts: Tensor, max_new_tokens: int) -> None:
    if max_new_tokens < 0:
        raise UsageError(f"max_new_tokens {max_new_tokens} must not be negative")
    if prompts.ndim != 2 or prompts.shape[0] < 1 or prompts.shape[1] < 1:
        raise UsageError(
            f"prompts of shape {tuple(prompts.shape)} hold no tokens; expected (rows, tokens), each at least 1",
            "An empty prompt starts from the end-of-text token.",
        )
    low, high = int(prompts.min()), int(prompts.max())
    if low < 0 or high >= config.vocab_size:
        raise UsageError(
            f"the prompt holds id {low if low < 0 else high}, outside the vocabulary of {config.vocab_size:,}",
            "Encode it with the model's own tokenizer.",
        )


def _notes(config: GPT2Config, length: int, context: int, slides: int) -> list[str]:
    notes: list[str] = []
    if length > context:
        notes.append(f"the prompt has {length:,} tokens; the model reads the last {context:,}, its whole context")
    if slides:
        times = "once" if slides == 1 else f"{slides} times"
        notes.append(
            f"the context of {context:,} tokens filled up {times}; each time the model continued from the last "
            f"{max(1, context // 2):,} and forgot what was before"
        )
    if context > config.block_size:
        notes.append(f"the model was trained on {config.block_size:,} tokens; text beyond that may be worse")
    return notes


def _measure(result: Generation, caches: list[Cache], config: GPT2Config, dtype: torch.dtype) -> None:
    result.cache_tokens = caches[0].length
    result.cache_nbytes = sum(cache.nbytes for cache in caches)
    result.cache_analytic = len(result.tokens) * cache_bytes(config, result.cache_tokens, dtype.itemsize)
    result.cache_reserved = sum(cache.reserved for cache in caches)
