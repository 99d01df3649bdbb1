"""Seeds of a new study: against printed tables of power, and simulated studies."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from vgpt.compare.choose import compare
from vgpt.errors import SettingsError
from vgpt.report.as_json import as_json
from vgpt.report.study_tables import power_lines
from vgpt.report.tables import tables
from vgpt.study.power import MOST_SEEDS, needs, seeds_for_margin, seeds_needed


@pytest.mark.parametrize(("effect", "expected"), [(2.0, 5), (1.0, 10), (0.5, 34)])
def test_seeds_needed_as_tables_of_power_have_it(effect, expected):
    # Cohen 1988 and G*Power 3 for two-sided paired tests at 5 % and 80 %: 34 pairs for d = 0.5, 10 for 1, 5 for 2.
    assert seeds_needed(effect * 0.01, 0.01) == expected
    assert seeds_needed(-effect, 1.0) == expected


@pytest.mark.parametrize("effect", [0.6, 1.0, 1.5])
def test_with_the_seeds_needed_four_of_five_simulated_studies_show_the_difference(effect):
    # 97.5 % points of Student's t from a printed table, not from the code under test
    table = {4: 2.776, 5: 2.571, 8: 2.306, 9: 2.262, 22: 2.074, 23: 2.069}

    def share(pairs):
        values = np.random.default_rng(pairs).normal(effect, 1, (20_000, pairs))
        t = values.mean(1) / (values.std(1, ddof=1) / math.sqrt(pairs))
        return np.mean(np.abs(t) > table[pairs - 1])

    needed = seeds_needed(effect, 1.0)
    assert needed in (24, 10, 6)
    assert share(needed) > 0.8 - 0.006
    assert share(needed - 1) < 0.8 + 0.006


def test_a_gap_of_nothing_or_next_to_nothing_needs_more_seeds_than_anyone_has():
    assert seeds_needed(0.0, 0.01) is None
    assert seeds_needed(1e-6, 0.01) is None
    assert seeds_needed(math.nan, 0.01) is None
    assert seeds_needed(0.01, 0.0) == 2
    assert seeds_needed(1.0, 1e-9) == 2
    assert 2 <= seeds_needed(0.01, 0.3) <= MOST_SEEDS


def test_evaluation_noise_sets_a_limit_that_no_number_of_seeds_passes():
    # A critical value of 1.96 and a chance of 4 in 5 take 2.8 standard errors, however many seeds there are.
    assert seeds_needed(0.01, 0.005, windows=0.004**2, windows_df=200) is None
    with_noise = seeds_needed(0.01, 0.005, windows=0.003**2, windows_df=200)
    assert with_noise > seeds_needed(0.01, 0.005)


def test_a_stricter_level_takes_more_seeds():
    assert seeds_needed(1.0, 1.0, alpha=0.05 / 6) > seeds_needed(1.0, 1.0)


@pytest.fixture
def pilot(make_run, ask):
    runs = [
        make_run(attn, settings={"seed": seed}, metrics={"val/loss": loss})
        for attn, losses in (("mha", [2.31, 2.33, 2.29]), ("mqa", [2.36, 2.40, 2.35]))
        for seed, loss in enumerate(losses, start=1)
    ]
    return compare(ask("mha", "mqa", power="0.02"), runs)


def test_the_runs_on_record_are_a_pilot_and_are_not_counted_in(pilot):
    (need,) = needs(pilot, 0.02)
    sd = np.std([0.05, 0.07, 0.06], ddof=1)
    assert need.sd == pytest.approx(sd)
    # The lower 20% point of chi-square with 2 degrees of freedom is -2 ln 0.8.
    assert need.sd_limit == pytest.approx(sd * math.sqrt(2 / (-2 * math.log(0.8))))
    assert need.seeds == seeds_needed(0.02, sd) == 5
    assert need.seeds_at_limit > need.seeds
    console = Console(file=io.StringIO(), width=100)
    for part in tables(pilot):
        console.print(part)
    text = " ".join(console.file.getvalue().split())
    assert "Seeds that a new study takes to show a difference of 0.02 nats" in text
    assert "do not count them in" in text
    (line,) = power_lines(pilot)
    assert line.startswith(f"mqa: 5 seeds, {need.seeds_at_limit} to be safe, show a difference of 0.02 nats")
    table = json.loads(json.dumps(as_json(pilot), allow_nan=False))["power"]
    assert (table["delta"], table["power"], table["rows"][0]["seeds"]) == (0.02, 0.8, 5)


def test_a_difference_of_nothing_is_refused(ask):
    with pytest.raises(SettingsError, match="power"):
        ask("mha", "mqa", power="0")


@pytest.mark.parametrize(("margin", "table"), [(1.0, {7: 1.943, 8: 1.895}), (0.5, {26: 1.708, 27: 1.706})])
def test_with_the_seeds_for_a_margin_four_of_five_simulated_equal_variants_are_shown_no_worse(margin, table):
    # 95 % points of Student's t from a printed table; G*Power 3, one-sided: 8 pairs for d = 1, 27 for 0.5.
    def share(pairs):
        values = np.random.default_rng(pairs).normal(0, 1, (40_000, pairs))
        upper = values.mean(1) + table[pairs] * values.std(1, ddof=1) / math.sqrt(pairs)
        return np.mean(upper < margin)

    fewer, needed = table
    assert seeds_for_margin(margin, 1.0) == needed
    assert share(needed) > 0.8 - 0.006
    assert share(fewer) < 0.8 + 0.006


def test_a_margin_takes_evaluation_noise_and_nonsense_as_a_difference_does():
    assert seeds_for_margin(0.01, 0.005, windows=0.005**2, windows_df=200) is None
    assert seeds_for_margin(0.0, 0.01) is None
    assert seeds_for_margin(0.01, 0.01, alpha=0.05 / 6) > seeds_for_margin(0.01, 0.01)


def test_a_pilot_says_what_a_margin_takes_in_seeds_and_hours(make_run, ask):
    runs = [
        make_run(attn, settings={"seed": seed}, metrics={"val/loss": loss, "train/seconds": seconds})
        for attn, losses, seconds in (("mha", [2.31, 2.33, 2.29], 1000.0), ("mqa", [2.36, 2.40, 2.35], 800.0))
        for seed, loss in enumerate(losses, start=1)
    ]
    found = compare(ask("mha", "mqa", power="0.02", margin="0.02"), runs)
    (need,) = needs(found, 0.02)
    assert need.no_worse == max(3, seeds_for_margin(0.02, need.sd))
    assert need.no_worse_at_limit > need.no_worse
    assert need.time(need.no_worse) == need.no_worse * 1800.0
    console = Console(file=io.StringIO(), width=140)
    for part in tables(found):
        console.print(part)
    assert "no worse than" in console.file.getvalue()
    assert "show that an equal variant is no worse than 0.02" in power_lines(found)[0]
    assert as_json(found)["power"]["rows"][0]["no_worse"] == need.no_worse
    assert needs(compare(ask("mha", "mqa", power="0.02"), runs), 0.02)[0].no_worse is None
