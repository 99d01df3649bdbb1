"""What a suite asks of a model: log-likelihoods of answers and of whole texts, and greedy continuations.

Nothing here knows lm-evaluation-harness. Texts longer than the context are cut from the left, as the harness cuts them
for its own models; a longer context than `block_size` is never given, whatever the positions.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from vgpt.data.progress import Progress
from vgpt.errors import DataError
from vgpt.evaluation.loss import autocast, exact
from vgpt.model.decoding import Decoder
from vgpt.model.generation import generate
from vgpt.model.gpt2 import GPT2Model
from vgpt.text.tokenizer import Tokenizer

_TOKENS_AT_ONCE = 16_384
_LOGITS_AT_ONCE = 1 << 24
_ROWS_AT_ONCE = 16

CUT, LONG, SPLIT, NO_ROOM = "cut", "long", "split", "no room"
"""What befell requests: a context cut from the left; an answer longer than the context, scored in several windows; an
answer whose first letters would have merged with the context, encoded by itself; a continuation as long as the context,
which leaves a prompt half of it."""

Window = tuple[tuple[int, ...], int]
"""Ids that the model reads, and how many of the last ones' successors count."""


def windows(ids: Sequence[int], first: int, context: int) -> Iterator[tuple[Window, list[int]]]:
    """Yield what a model has to read so that every id from number `first` on is predicted once, and those ids.

    What does not fit is cut from the left. Where more is to be predicted than fits, windows follow each other without
    overlap, and the last one is filled up with what was before it: the rolling windows of lm-evaluation-harness.

    Args:
        ids: what is before, at least one id, and what is to be predicted.
        first: number of the first id that is to be predicted, at least 1.
        context: most ids that the model reads at once.
    """
    count = len(ids)
    if count - first <= context:
        yield (tuple(ids[max(0, count - 1 - context) : -1]), count - first), list(ids[first:])
        return
    for begin in range(1, count, context):
        end = min(count, begin + context)
        wanted = list(ids[max(begin, first) : end])
        if wanted:
            yield (tuple(ids[max(0, end - 1 - context) : end - 1]), len(wanted)), wanted


class Scorer:
    """Answers requests with one model.

    Args:
        model: the model; it is put into evaluation mode.
        tokenizer: the one it was trained with.
        dtype: precision of matrix products; of generation that of weights and cache too.
        progress: hears how many requests are answered.

    Attributes:
        met: how many requests met what `CUT`, `LONG`, `SPLIT` and `NO_ROOM` name.
    """

    def __init__(self, model: GPT2Model, tokenizer: Tokenizer, dtype: torch.dtype, progress: Progress) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.dtype = dtype
        self.device = model.wte.weight.device
        self.context = model.config.block_size
        self.met: Counter[str] = Counter()
        self._progress = progress
        self._decoder: Decoder | None = None

    def pair(self, context: str, answer: str) -> tuple[list[int], list[int]]:
        """Return the ids of a context, which is never empty, and of what follows it.

        Spaces at the end of the context go to the answer, where the split of words wants them.

        Raises:
            DataError: an empty answer.
        """
        words = context.rstrip()
        answer = context[len(words) :] + answer
        if not answer:
            raise DataError("an answer of the suite is empty", "Every choice and every target needs a text.")
        if not words:
            return [self.tokenizer.end_of_text], self.tokenizer.encode(answer)
        before, whole = self.tokenizer.encode(words), self.tokenizer.encode(words + answer)
        if whole[: len(before)] == before and len(whole) > len(before):
            return before, whole[len(before) :]
        self.met[SPLIT] += 1
        return before, self.tokenizer.encode(answer)

    def answers(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return of each (context, answer) the answer's log-likelihood in nats, and whether it is the greedy one."""
        encoded = [self.pair(context, answer) for context, answer in pairs]
        return self.scores(encoded, "log-likelihoods")

    def texts(self, texts: Sequence[str]) -> list[float]:
        """Return the log-likelihood of whole texts in nats, each from an end of text on."""
        start = [self.tokenizer.end_of_text]
        return [found for found, _ in self.scores([(start, self.tokenizer.encode(text)) for text in texts], "texts")]

    def scores(self, pairs: Sequence[tuple[list[int], list[int]]], stage: str = "scores") -> list[tuple[float, bool]]:
        """Return of each (ids before, ids) the log-likelihood of the latter, and whether each is the likeliest one.

        What the model has to read is read once, however many answers share it; padding stands on the right, where no
        causal model sees it.
        """
        wanted: dict[tuple[int, ...], list[tuple[int, list[int]]]] = defaultdict(list)
        for number, (before, ids) in enumerate(pairs):
            self.met[CUT] += self.context < len(before) + len(ids) - 1 and len(ids) <= self.context
            self.met[LONG] += len(ids) > self.context and stage != "texts"
            for (read, _), targets in windows([*before, *ids], len(before), self.context):
                wanted[read].append((number, targets))
        sums, greedy = np.zeros(len(pairs)), np.ones(len(pairs), dtype=bool)
        self._progress.start(stage, sum(map(len, wanted.values())), unit="requests")
        try:
            for batch in _batches(sorted(wanted, key=len, reverse=True)):
                asked = [wanted[read] for read in batch]
                for number, found, likeliest in self._batch(batch, asked):
                    sums[number] += found
                    greedy[number] &= likeliest
                self._progress.advance(sum(map(len, asked)))
        finally:
            self._progress.finish()
        return [(float(found), bool(likeliest)) for found, likeliest in zip(sums, greedy, strict=True)]

    def _batch(
        self, batch: Sequence[tuple[int, ...]], asked: Sequence[Sequence[tuple[int, list[int]]]]
    ) -> Iterator[tuple[int, float, bool]]:
        """Yield (request, log-likelihood, whether it is the likeliest id) for every id that is asked of a batch."""
        ids = torch.zeros(len(batch), len(batch[0]), dtype=torch.int64)
        places: list[tuple[int, int]] = []  # rows and columns of the hidden states that are looked at
        targets: list[tuple[int, int]] = []  # number of the place, id
        owners: list[int] = []
        for row, (read, requests) in enumerate(zip(batch, asked, strict=True)):
            ids[row, : len(read)] = torch.tensor(read)
            longest = max(len(wanted) for _, wanted in requests)
            end = len(places) + longest
            places += [(row, len(read) - longest + i) for i in range(longest)]
            for number, wanted in requests:
                targets += zip(range(end - len(wanted), end), wanted, strict=True)
                owners += [number] * len(wanted)
        yield from zip(owners, *self._look(ids, places, targets), strict=True)

    def _look(
        self, ids: torch.Tensor, places: Sequence[tuple[int, int]], targets: Sequence[tuple[int, int]]
    ) -> tuple[list[float], list[bool]]:
        """Return the log-likelihood of each target at its place, and whether it is the likeliest id there."""
        at, wanted = torch.tensor(targets, device=self.device).unbind(1)
        rows, columns = torch.tensor(places, device=self.device).unbind(1)
        found = torch.empty(len(targets), device=self.device)
        likeliest = torch.empty(len(targets), dtype=torch.bool, device=self.device)
        at_once = max(1, _LOGITS_AT_ONCE // self.model.config.vocab_size)
        with torch.inference_mode(), autocast(self.device, self.dtype):
            hidden = self.model.hidden(ids.to(self.device))[rows, columns]
            for begin in range(0, len(places), at_once):
                logits = self.model.logits(hidden[begin : begin + at_once]).float()
                here = (at >= begin) & (at < begin + at_once)
                place, token = at[here] - begin, wanted[here]
                found[here] = logits[place, token] - logits.logsumexp(1)[place]
                likeliest[here] = logits.argmax(1)[place] == token
        return exact(found).tolist(), likeliest.tolist()

    def continuations(self, prompts: Sequence[tuple[str, int, Sequence[str]]]) -> list[str]:
        """Return greedy continuations, through the attention's own cache.

        Args:
            prompts: texts, each with the most new tokens and the strings that end it, which are left out.
        """
        self._decoder = self._decoder or Decoder(self.model, self.dtype)
        groups: dict[tuple[int, int, tuple[str, ...]], list[tuple[int, list[int]]]] = defaultdict(list)
        for number, (text, most, until) in enumerate(prompts):
            ids = self._prompt(text, most)
            groups[len(ids), most, tuple(filter(None, until))].append((number, ids))
        texts = [""] * len(prompts)
        self._progress.start("continuations", len(prompts), unit="requests")
        try:
            for (_, most, until), members in sorted(groups.items(), reverse=True):
                for first in range(0, len(members), _ROWS_AT_ONCE):
                    part = members[first : first + _ROWS_AT_ONCE]
                    found = self._continue([ids for _, ids in part], most, until)
                    for (number, _), text in zip(part, found, strict=True):
                        texts[number] = text
                    self._progress.advance(len(part))
        finally:
            self._progress.finish()
        return texts

    def _prompt(self, text: str, most: int) -> list[int]:
        """Return the ids of a prompt, cut from the left so that `most` new tokens fit into the context with it."""
        ids = self.tokenizer.encode(text) or [self.tokenizer.end_of_text]
        room = self.context - most
        if room < 1:
            self.met[NO_ROOM] += 1
            room = max(1, self.context // 2)
        self.met[CUT] += len(ids) > room
        return ids[-room:]

    def _continue(self, prompts: list[list[int]], most: int, until: tuple[str, ...]) -> list[str]:
        """Continue prompts of one length until each has met one of the strings, or is long enough."""
        assert self._decoder is not None
        ends = _Ends(self.tokenizer.decode, until, len(prompts))
        made = generate(
            self._decoder,
            torch.tensor(prompts, device=self.device),
            max_new_tokens=most,
            temperature=0.0,
            seed=0,
            stop_token=self.tokenizer.end_of_text,
            on_token=ends.take,
        )
        return [ends.cut(self.tokenizer.decode(tokens)) for tokens in made.tokens]


class _Ends:
    """Tells of rows of new tokens whether one of some strings has come."""

    def __init__(self, spell: Callable[[list[int]], str], until: tuple[str, ...], rows: int) -> None:
        self._spell, self._until = spell, until
        self._tokens: list[list[int]] = [[] for _ in range(rows)]

    def take(self, row: int, token: int) -> bool:
        """Hear of a new token; return whether the row has come to its end."""
        self._tokens[row].append(token)
        return bool(self._until) and self.cut(text := self._spell(self._tokens[row])) != text

    def cut(self, text: str) -> str:
        """Return a text up to the first of the strings."""
        return text[: min((at for end in self._until if (at := text.find(end)) >= 0), default=len(text))]


def _batches(reads: Sequence[tuple[int, ...]]) -> Iterator[Sequence[tuple[int, ...]]]:
    """Yield ids to read, the longest first, as many at once as memory is sure to hold."""
    begin = 0
    while begin < len(reads):
        at_once = max(1, _TOKENS_AT_ONCE // len(reads[begin]))
        yield reads[begin : begin + at_once]
        begin += at_once
