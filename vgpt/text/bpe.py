"""Training byte-level BPE: merges identical to minbpe's RegexTokenizer, found in seconds.

The naive trainer recounts every pair after every merge. This one keeps each distinct chunk once, with its count, and
after a merge touches only the chunks that hold the pair. A chunk is a `str` with one character per token, `chr(id)`, so
that finding and replacing a pair are `str` methods; a pair is a `str` of two characters.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import accumulate, pairwise

from vgpt.errors import TokenizerError
from vgpt.text.patterns import Splitter, resolve_pattern
from vgpt.text.tokenizer import END_OF_TEXT, Tokenizer
from vgpt.text.vocabulary import MAX_MERGES, Vocabulary

_PROGRESS_EVERY = 64
_LONG_CHUNK = 256


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = "gpt4",
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    progress: Callable[[int, int], None] | None = None,
    name: str | None = None,
) -> Tokenizer:
    """Learn a tokenizer from texts.

    Args:
        texts: documents, read once and one at a time; chunks do not cross them. Memory holds the distinct chunks.
        vocab_size: 256 bytes, the merges, and the special tokens.
        pattern: a name of `PATTERNS` or a regular expression that matches every character.
        special_tokens: spellings that get the ids after the merges, in this order; `<|endoftext|>` must be one.
        progress: called with the merges done and wanted, at first when the texts have been read.
        name: of the tokenizer; `bpe-<vocab_size>` where not given.

    Raises:
        TokenizerError: no text, a vocabulary too small, or larger than the text allows (naming the largest possible).
    """
    splitter = Splitter(resolve_pattern(pattern))
    specials = list(dict.fromkeys(special_tokens))
    smallest = 256 + len(specials)
    if not smallest <= vocab_size <= smallest + MAX_MERGES:
        raise TokenizerError(
            f"a vocabulary of {vocab_size:,} is not possible",
            f"256 bytes and {len(specials)} special token(s) need {smallest}; {MAX_MERGES:,} merges are the most.",
        )
    trainer = _Trainer(_count_chunks(texts, splitter))
    wanted = vocab_size - smallest
    trainer.learn(wanted, progress or (lambda done, total: None))
    learned = len(trainer.merges)
    if learned < wanted:
        raise TokenizerError(
            f"a vocabulary of {vocab_size:,} is larger than the text allows: every chunk is one token after "
            f"{learned:,} merges, so the largest possible is {smallest + learned:,}",
            f"Use --vocab-size {smallest + learned} or less, or more text.",
        )
    ids = {token: 256 + learned + i for i, token in enumerate(specials)}
    return Tokenizer(Vocabulary(name or f"bpe-{vocab_size}", splitter.pattern, tuple(trainer.merges), ids))


def _count_chunks(texts: Iterable[str], splitter: Splitter) -> dict[bytes, int]:
    """Count the distinct chunks, in order of first appearance: ties between pairs depend on it."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(splitter.split(text))
    if not counts:
        raise TokenizerError("there is no text to learn a tokenizer from", "Name files that are not empty.")
    try:
        return {chunk.encode(): count for chunk, count in counts.items()}
    except UnicodeEncodeError as fault:
        raise TokenizerError(
            f"the text holds a lone surrogate, {fault.object[fault.start]!r}, which is no character",
            "Decode the files as UTF-8 with errors='replace', or remove such characters.",
        ) from fault


class _Trainer:
    """Pair counts over distinct chunks, kept true from merge to merge.

    An occurrence of a pair appears only when the younger of its two symbols is made; from then on its count only falls
    and its first position only moves on. So a heap entry that has gone stale is never too late in the order: the top is
    brought up to date and put back until it is true. That makes the order exact, (count, first position), while most
    pairs are never looked at again.
    """

    def __init__(self, chunks: dict[bytes, int]) -> None:
        # latin-1 maps byte b to chr(b), which is id b.
        self._chunks = [chunk.decode("latin-1") for chunk in chunks]
        self._frequencies = list(chunks.values())
        # A position is the offset of a byte in the distinct chunks laid end to end: merging does not move it.
        self._starts = list(accumulate(map(len, chunks), initial=0))
        self._lengths = {chr(byte): 1 for byte in range(256)}
        self._counts: defaultdict[str, int] = defaultdict(int)
        # Chunks that hold a pair, or did, in ascending order.
        self._holders: dict[str, list[int]] = {}
        self.merges: list[tuple[int, int]] = []
        for index, chunk in enumerate(self._chunks):
            for pair in map("".join, pairwise(chunk)):
                self._counts[pair] += self._frequencies[index]
                self._note_holder(pair, index)
        self._heap = [(-count, self._earliest(pair), pair) for pair, count in self._counts.items()]
        heapify(self._heap)

    def learn(self, wanted: int, progress: Callable[[int, int], None]) -> None:
        """Make `wanted` merges, or as many as there are pairs."""
        progress(0, wanted)
        while len(self.merges) < wanted:
            pair = self._best_pair()
            if pair is None:
                return
            self._merge(pair)
            if len(self.merges) % _PROGRESS_EVERY == 0 or len(self.merges) == wanted:
                progress(len(self.merges), wanted)

    def _best_pair(self) -> str | None:
        """Take the most frequent pair off the heap; of equals, the one whose first occurrence is earliest."""
        heap = self._heap
        while heap:
            negative, position, pair = heap[0]
            count = self._counts.get(pair, 0)
            if count == 0:
                heappop(heap)
                self._counts.pop(pair, None)
                self._holders.pop(pair, None)
            elif count != -negative:
                heapreplace(heap, (-count, position, pair))
            elif (true_position := self._first_position(pair)) != position:
                heapreplace(heap, (-count, true_position, pair))
            else:
                heappop(heap)
                return pair
        return None

    def _earliest(self, pair: str) -> int:
        """Return a position at or before the first occurrence of a pair that is new."""
        return self._starts[self._holders[pair][0]]

    def _first_position(self, pair: str) -> int:
        holders = self._holders[pair]
        stale = 0
        while pair not in self._chunks[holders[stale]]:
            stale += 1
        if stale:
            del holders[:stale]
        chunk = self._chunks[holders[0]]
        before = chunk[: chunk.find(pair)]
        if len(before) > _LONG_CHUNK:  # counted in C, as adding up a million lengths is not
            return self._starts[holders[0]] + sum(self._lengths[token] * n for token, n in Counter(before).items())
        return self._starts[holders[0]] + sum(map(self._lengths.__getitem__, before))

    def _note_holder(self, pair: str, index: int) -> bool:
        """Note that a chunk holds a pair; tell whether the pair is new."""
        holders = self._holders.get(pair)
        if holders is None:
            self._holders[pair] = [index]
            return True
        if holders[-1] != index:
            holders.append(index)
        return False

    def _merge(self, pair: str) -> None:
        left, right = pair
        token = chr(256 + len(self.merges))
        self.merges.append((ord(left), ord(right)))
        self._lengths[token] = self._lengths[left] + self._lengths[right]
        new_pairs: list[str] = []
        for index in self._holders.pop(pair):
            chunk = self._chunks[index]
            at = chunk.find(pair)
            if at < 0:
                continue
            if chunk.find(pair, at + 1) < 0:
                self._merge_once(index, at, token, new_pairs)
            else:
                self._merge_all(index, pair, token, new_pairs)
        del self._counts[pair]
        for new in new_pairs:
            heappush(self._heap, (-self._counts[new], self._earliest(new), new))

    def _merge_once(self, index: int, at: int, token: str, new_pairs: list[str]) -> None:
        """Merge the only occurrence of a pair in a chunk, the common case: two neighbors change."""
        chunk, frequency, counts = self._chunks[index], self._frequencies[index], self._counts
        if at:
            counts[chunk[at - 1 : at + 1]] -= frequency
            made = chunk[at - 1] + token
            counts[made] += frequency
            if self._note_holder(made, index):
                new_pairs.append(made)
        if at + 2 < len(chunk):
            counts[chunk[at + 1 : at + 3]] -= frequency
            made = token + chunk[at + 2]
            counts[made] += frequency
            if self._note_holder(made, index):
                new_pairs.append(made)
        self._chunks[index] = chunk[:at] + token + chunk[at + 2 :]

    def _merge_all(self, index: int, pair: str, token: str, new_pairs: list[str]) -> None:
        """Merge several, perhaps overlapping, occurrences: leftmost first, as `str.replace` does.

        Only the neighbors of the occurrences are counted anew, so that a chunk of a million letters without a space
        costs no more than as many letters in words.
        """
        chunk, frequency, counts = self._chunks[index], self._frequencies[index], self._counts
        self._chunks[index] = chunk.replace(pair, token)
        last = len(chunk) - 2
        behind = -1  # where the occurrence before ended
        at = chunk.find(pair)
        while at >= 0:
            joined = behind == at  # two occurrences side by side: one old pair and one new pair stand between them
            if at and not joined:
                counts[chunk[at - 1 : at + 1]] -= frequency
            if at:
                made = (token if joined else chunk[at - 1]) + token
                counts[made] += frequency
                if self._note_holder(made, index):
                    new_pairs.append(made)
            behind = at + 2
            following = chunk.find(pair, behind)
            if at < last:
                counts[chunk[at + 1 : at + 3]] -= frequency
                if following != behind:
                    made = token + chunk[behind]
                    counts[made] += frequency
                    if self._note_holder(made, index):
                        new_pairs.append(made)
            at = following
