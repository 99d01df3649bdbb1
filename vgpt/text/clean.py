"""Cleaning as named steps, each idempotent and each counted.

Nothing is cleaned unless it is asked for: what a model is trained on is then exactly what stands in the files, and
bits per byte compare with other people's numbers. The steps always run in the order of `STEPS`, whatever order they are
named in, because only in this order is the whole chain idempotent (removing a control character can bring a letter and
its accent together, so composition comes after it).
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from vgpt.errors import UsageError, did_you_mean

# All of category Cc but tab, newline and carriage return, and the byte order mark that survives concatenation.
_CONTROL = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ufeff]")
_LINE_END = re.compile("\r\n?")
_TRAILING = re.compile("[ \t]+(?=\n)")
_BLANK = re.compile("\n{4,}")


def remove_control(text: str) -> str:
    """Drop control characters other than tab, newline and carriage return, and stray byte order marks."""
    return _CONTROL.sub("", text)


def compose(text: str) -> str:
    """Bring text into Unicode's composed form NFC: one spelling for letters with accents."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def tidy_whitespace(text: str) -> str:
    """Make line ends newlines, drop blanks before them, and keep at most two empty lines in a row."""
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    return _BLANK.sub("\n\n\n", _TRAILING.sub("", text))


DEDUP = "dedup"
STEPS: dict[str, Callable[[str], str] | None] = {
    "control": remove_control,
    "nfc": compose,
    "whitespace": tidy_whitespace,
    DEDUP: None,  # concerns documents, not their text: the preparation compares their digests
}


def parse_steps(names: str) -> tuple[str, ...]:
    """Return the steps of a comma-separated list in the order they run; `none` and `all` stand for what they say.

    Raises:
        UsageError: for a name that is no step.
    """
    words = [word for word in re.split(r"[,\s]+", names.strip().lower()) if word]
    if words in ([], ["none"]):
        return ()
    if words == ["all"]:
        return tuple(STEPS)
    for word in words:
        if word not in STEPS:
            known = ["none", "all", *STEPS]
            raise UsageError(
                f"no cleaning step {word!r}{did_you_mean(word, known)}", f"Steps: {', '.join(STEPS)}; or all, or none."
            )
    return tuple(step for step in STEPS if step in words)


@dataclass
class StepCount:
    """What one step did: documents it changed (or, for `dedup`, removed) and by how many characters they shrank."""

    step: str
    documents: int = 0
    characters: int = 0


@dataclass
class Cleaner:
    """Runs steps over the chunks of documents and counts what each one changed."""

    steps: tuple[str, ...]
    counts: dict[str, StepCount] = field(init=False)
    _touched: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.counts = {step: StepCount(step) for step in self.steps}

    def clean(self, text: str) -> str:
        """Return the cleaned text of one chunk."""
        for step in self.steps:
            function = STEPS[step]
            if function is None:
                continue
            cleaned = function(text)
            if cleaned != text:
                self._touched.add(step)
                self.counts[step].characters += len(text) - len(cleaned)
            text = cleaned
        return text

    def end_document(self) -> None:
        """Say that the chunks so far were one document."""
        for step in self._touched:
            self.counts[step].documents += 1
        self._touched.clear()
