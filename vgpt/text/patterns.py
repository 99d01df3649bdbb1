"""How text is cut into chunks before byte pairs are merged: named split patterns, one's own, and the splitter.

Merges never cross a chunk. A pattern must match every character of a text, since `findall` silently drops what lies
between matches; the named patterns do so by construction, and any other is checked on every text it splits.
"""

import re
from functools import lru_cache
from typing import Any

from vgpt.errors import TokenizerError, did_you_mean

PATTERNS: dict[str, str] = {
    # GPT-2 (Radford et al. 2019), the contractions written as one group.
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # GPT-4 as minbpe writes it: contractions in either case, at most three digits, line ends kept with punctuation.
    "gpt4": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    ),
    # GPT-4o: splits words where lower case turns to upper case.
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    # Every character alone: merges can only join the bytes of one character, and none is needed to spell any text.
    "bytes": r"[\s\S]",
}
"""Split patterns by name. Each matches every character, so no text is lost."""

WHOLE_TEXT = r"[\s\S]+"
"""One chunk per text: no split at all. Time to train and to encode grows faster than the text; for short texts only."""

_TIMEOUT_SECONDS = 30.0
_TIMEOUT_CHARACTERS_PER_SECOND = 50_000


def resolve_pattern(name_or_regex: str) -> str:
    r"""Return the regular expression for a pattern's name, or check and return one's own.

    Own expressions are those of the `regex` package (`\p{L}` and possessive repeats work) without capturing groups.

    Raises:
        TokenizerError: an unknown name, an expression that does not compile, or one with capturing groups.
    """
    if name_or_regex in PATTERNS:
        return PATTERNS[name_or_regex]
    # A bare word would compile, and match only itself: certainly a mistyped name.
    if re.fullmatch(r"[\w-]*", name_or_regex):
        raise TokenizerError(
            f"unknown split pattern {name_or_regex!r}{did_you_mean(name_or_regex, PATTERNS)}",
            f"Use one of {', '.join(PATTERNS)}, or a regular expression that matches every character.",
        )
    _compile(name_or_regex)
    return name_or_regex


def pattern_name(pattern: str) -> str | None:
    """Return the name of a built-in pattern, or None for one's own."""
    return next((name for name, known in PATTERNS.items() if known == pattern), None)


class Splitter:
    """Cuts text into chunks by one pattern, and refuses to lose any of it.

    Args:
        pattern: the regular expression itself, as `resolve_pattern` returns it.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._built_in = pattern_name(pattern) is not None
        self._regex = _compile(pattern)

    def split(self, text: str) -> list[str]:
        """Return the chunks of `text` in order; joined they are `text` again.

        Raises:
            TokenizerError: one's own pattern does not match some character, or takes far too long.
        """
        if self._built_in:
            return self._regex.findall(text)
        limit = _TIMEOUT_SECONDS + len(text) / _TIMEOUT_CHARACTERS_PER_SECOND
        try:
            chunks = self._regex.findall(text, timeout=limit)
        except TimeoutError as fault:
            raise TokenizerError(
                f"the split pattern {self.pattern!r} took more than {limit:.0f} s on {len(text):,} characters",
                "Avoid nested repeats such as (a+)+, or use possessive ones (a++).",
            ) from fault
        if "".join(chunks) != text:
            raise TokenizerError(
                f"the split pattern {self.pattern!r} does not match all of the text; it drops {self._dropped(text)}",
                r"Add an alternative that matches the rest, for example |[\s\S] at the end of the pattern.",
            )
        return [chunk for chunk in chunks if chunk]

    def _dropped(self, text: str) -> str:
        end = 0
        for match in self._regex.finditer(text):
            if match.start() > end:
                return f"{text[end : min(match.start(), end + 20)]!r} at character {end}"
            end = match.end()
        return f"{text[end : end + 20]!r} at character {end}"


@lru_cache(maxsize=32)
def _compile(pattern: str) -> Any:
    import regex

    try:
        pattern.encode()
        compiled = regex.compile(pattern)
    except (regex.error, UnicodeEncodeError, RecursionError, OverflowError) as fault:
        raise TokenizerError(
            f"the split pattern {pattern!r} does not compile: {fault}",
            f"Use one of {', '.join(PATTERNS)}, or a valid expression of the regex package.",
        ) from fault
    if compiled.groups:
        raise TokenizerError(
            f"the split pattern {pattern!r} has {compiled.groups} capturing group(s)",
            "Write (?:...) in place of (...), so that a match is the whole chunk.",
        )
    return compiled
