import pytest

import vgpt.text.patterns as patterns
from vgpt.errors import TokenizerError
from vgpt.text.patterns import PATTERNS, Splitter, pattern_name, resolve_pattern

EVERY_CHARACTER = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_named_pattern_matches_every_character_there_is(name):
    assert "".join(Splitter(PATTERNS[name]).split(EVERY_CHARACTER)) == EVERY_CHARACTER


@pytest.mark.parametrize(
    ("name", "text", "chunks"),
    [
        ("gpt2", "I'll pay 12345 now!\n\n  ok", ["I", "'ll", " pay", " 12345", " now", "!", "\n\n ", " ok"]),
        ("gpt4", "I'LL pay 12345 now!\n\n  ok", ["I", "'LL", " pay", " ", "123", "45", " now", "!\n\n", " ", " ok"]),
        ("o200k", "helloWorld isn't", ["hello", "World", " isn't"]),
        ("bytes", "aé\n", ["a", "é", "\n"]),
    ],
)
def test_named_patterns_cut_text_as_published(name, text, chunks):
    assert Splitter(resolve_pattern(name)).split(text) == chunks


def test_a_pattern_is_found_again_by_its_name():
    assert {pattern_name(resolve_pattern(name)) for name in PATTERNS} == set(PATTERNS)
    assert pattern_name(r"\w+|\W+") is None


def test_an_own_pattern_that_drops_text_is_refused_with_what_it_drops():
    splitter = Splitter(resolve_pattern(r"\w+|\s+"))
    assert splitter.split("two words") == ["two", " ", "words"]
    with pytest.raises(TokenizerError, match=r"drops '!\?' at character 3"):
        splitter.split("one!? two")
    with pytest.raises(TokenizerError, match=r"drops '!' at character 3"):
        splitter.split("end!")


def test_empty_matches_and_reversed_matching_lose_no_text():
    assert Splitter(r"\w*|\W").split("a b") == ["a", " ", "b"]
    with pytest.raises(TokenizerError, match="does not match all"):
        Splitter(r"(?r)\w+|\W+").split("ab cd")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("gtp4", "unknown split pattern 'gtp4'; did you mean 'gpt4'"),
        ("", "unknown split pattern"),
        (r"[\p{L}", "does not compile"),
        (r"\p{NoSuchClass}+|.", "does not compile"),
        (r"(\w+)|(\W+)", r"2 capturing group\(s\)"),
    ],
)
def test_a_wrong_pattern_is_refused_with_the_way_out(pattern, message):
    with pytest.raises(TokenizerError, match=message) as caught:
        resolve_pattern(pattern)
    assert caught.value.hint


def test_a_pattern_that_backtracks_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(patterns, "_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(TokenizerError, match="took more than"):
        Splitter(r"(?:a|b|ab)+c|[\s\S]").split("ab" * 40)
