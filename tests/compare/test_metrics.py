import pytest

from vgpt.compare.metrics import LOSS, stat
from vgpt.compare.rows import make_row
from vgpt.formatting import counted, format_bytes, format_change, format_count, format_relative


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (812, "812"), (1000, "1k"), (10_340_000, "10.34M"), (124_439_808, "124.4M"), (2.5e12, "2.5T")],
)
def test_counts_have_decimal_suffixes(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (768, "768 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (432.5 * 2**20, "432.5 MiB")]
)
def test_bytes_have_binary_units(value, text):
    assert format_bytes(value) == text


def test_a_number_just_below_the_next_unit_has_no_more_than_four_digits():
    assert format_bytes(1023) == "1023 B"
    assert format_bytes(1023.96 * 1024) == "1024 KiB"
    assert format_count(999_999) == "1000k"


@pytest.mark.parametrize(("number", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1024, "1,024 runs")])
def test_a_noun_has_the_number_that_stands_before_it(number, text):
    assert counted(number, "run") == text


def test_no_change_is_not_a_rounded_one():
    assert (format_relative(0), format_relative(1e-9), format_relative(-0.125)) == ("=", "+0.0%", "-12.5%")
    assert (format_change(0.0), format_change(-0.00001)) == ("=", "-0.0000")


def test_mean_and_deviation_are_those_of_the_sample(make_run):
    runs = [
        make_run("mha", settings={"seed": seed}, metrics={LOSS: loss}) for seed, loss in ((1, 2.0), (2, 2.2), (3, 2.7))
    ]
    found = stat(make_row(runs), LOSS)
    assert found is not None
    assert found.mean == pytest.approx(2.3)
    assert found.sd == pytest.approx(0.13**0.5)  # ((0.3)^2 + (0.1)^2 + (0.4)^2) / 2
    assert found.n == 3
