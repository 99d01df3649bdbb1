"""Cleaning steps: idempotent alone and together, counted, and silent about what needs no cleaning."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgpt.errors import UsageError
from vgpt.text.clean import STEPS, Cleaner, compose, parse_steps, remove_control, tidy_whitespace

# Letters, accents that combine, controls, blanks and line ends: what the steps touch, densely.
DENSE = st.text(st.sampled_from("aeE\u0301\u0327\u0338é\u1e69 \t\n\r\x00\x07\x0c\x85\ufeff가\u1100\u1161\u11a8"))


@pytest.mark.parametrize("name", [name for name, function in STEPS.items() if function])
@given(text=st.one_of(DENSE, st.text()))
def test_a_step_taken_twice_changes_nothing_the_second_time(name: str, text: str) -> None:
    step = STEPS[name]
    assert step is not None
    assert step(step(text)) == step(text)


@given(st.one_of(DENSE, st.text()))
def test_all_steps_together_are_idempotent(text: str) -> None:
    once = Cleaner(tuple(STEPS)).clean(text)
    again = Cleaner(tuple(STEPS))
    assert again.clean(once) == once
    again.end_document()
    assert all(count.documents == count.characters == 0 for count in again.counts.values())


def test_each_step_does_what_its_name_says() -> None:
    assert remove_control("a\x00b\tc\nd\re\x7f\ufeff") == "ab\tc\nd\re"
    assert compose("e\u0301") == "é"
    assert tidy_whitespace("a  \r\nb\rc\n\n\n\n\nd  ") == "a\nb\nc\n\n\nd  "


@given(st.text())
def test_control_removal_drops_only_control_characters(text: str) -> None:
    kept = [c for c in text if (unicodedata.category(c) != "Cc" or c in "\t\n\r") and c != "\ufeff"]
    assert remove_control(text) == "".join(kept)


def test_steps_count_documents_and_characters() -> None:
    cleaner = Cleaner(("control", "nfc"))
    for pieces in (["a\x00\x00", "b\x00"], ["e\u0301"], ["plain"]):
        for piece in pieces:
            cleaner.clean(piece)
        cleaner.end_document()
    assert (cleaner.counts["control"].documents, cleaner.counts["control"].characters) == (1, 3)
    assert (cleaner.counts["nfc"].documents, cleaner.counts["nfc"].characters) == (1, 1)


def test_steps_run_in_one_order_whatever_order_they_are_named_in() -> None:
    assert parse_steps("dedup, NFC control") == ("control", "nfc", "dedup")
    assert parse_steps("none") == parse_steps("") == ()
    assert parse_steps("all") == tuple(STEPS)


def test_an_unknown_step_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'whitespace'"):
        parse_steps("whitespaces")
