"""Losses by kinds of tokens in the tables, columns and figures of a comparison."""

import io
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from vgpt.compare.breakdowns.collect import collect
from vgpt.compare.choose import compare
from vgpt.errors import UsageError
from vgpt.report.as_json import as_json
from vgpt.report.breakdowns.tables import breakdown_tables
from vgpt.report.columns import check_columns, chosen_columns, row_contexts
from vgpt.report.figures.breakdowns import draw_breakdowns
from vgpt.report.figures.style import as_svg
from vgpt.tracking.breakdowns.record import LENGTHS, POSITIONS, REACH, RECALL, TEXT, Breakdown, Part

WINDOWS = 40
SPANS = [2**power for power in range(11)]


def evaluated(loss, seed, *, step=400, dtype="float32"):
    """All breakdowns of a made-up run whose parts are all at about `loss`."""
    rng = np.random.default_rng(seed)

    def part(name, at, tokens, shift=0.0):
        return Part(name, at, loss + shift + 0.001 * rng.normal(size=WINDOWS), np.full(WINDOWS, tokens))

    kinds = {
        POSITIONS: [part(f"{1 + at // 2}-{at}", at, at - at // 2) for at in SPANS],
        RECALL: [part("repeated", 0, 100, shift=-1.0), part("other", 0, 924)],
        LENGTHS: [part(str(at), at, 4096) for at in (128, 1024, 4096)],
        REACH: [part(f"{1 + at // 2}-{at}", at, at - at // 2) for at in (1024, 2048, 4096)],
        TEXT: [part("all", 0, 1024)],
    }
    return {
        kind: Breakdown(kind, step, f"40x1024:{kind}", "val", dtype, 1024, 1, tuple(parts), bytes=4096 * WINDOWS)
        for kind, parts in kinds.items()
    }


@pytest.fixture
def comparison(make_run, ask):
    """Three variants: the second is worse on everything and not at its last step, the third of another precision."""
    runs = [make_run("mha"), make_run("gqa"), make_run("mla", settings={"kv_lora_rank": 16})]
    known = {
        runs[0].run_id: evaluated(2.0, 1),
        runs[1].run_id: evaluated(2.1, 2, step=300),
        runs[2].run_id: evaluated(2.0, 3, dtype="bfloat16"),
    }
    runs[1].metrics["train/steps"] = 400.0
    found = compare(ask("mha", "gqa", "mla"), runs)
    return replace(found, breakdowns=collect(found.rows, lambda run: known[run.run_id]))


def rendered(parts, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False, no_color=True, force_terminal=False)
    for one in parts:
        console.print(one)
    return console.file.getvalue()


def folded(text):
    return " ".join(text.split())


def test_tables_fit_80_columns_and_name_what_is_not_alike(comparison):
    text = rendered(breakdown_tables(comparison))
    assert max(map(len, text.splitlines())) <= 80
    words = folded(text)
    assert "+0.100" in words
    assert "4096 *" in words
    assert "all beyond *" in words
    assert words.count("95% of parts: over windows") == 1
    assert f"not the last step: {comparison.rows[1].runs[0].run_name}." in words
    assert "Not evaluated in one precision: bfloat16, float32." in words


def test_the_terminal_shows_the_last_span_and_no_more_spans_than_it_has_room_for(comparison):
    (table, *_) = breakdown_tables(replace(comparison, breakdowns={POSITIONS: comparison.breakdowns[POSITIONS]}))
    lines = [line for line in rendered([table]).splitlines() if "%" in line and "95%" not in line]
    assert len(lines) == 3 * 6
    assert sum("513-1024" in line for line in lines) == 3


def test_columns_hold_the_numbers_and_others_are_refused_with_their_names(comparison):
    names = ["recall_loss", "recall_delta", "recall_share", "recall_gap", "other_delta", "beyond_delta", "loss@4096"]
    names += ["delta@128", "delta_low@128", "text_loss", "text_bits", "text_delta_high"]
    base, worse, _ = (
        {column.name: column.value(at) for column in chosen_columns(comparison, names)}
        for at in row_contexts(comparison)
    )
    assert worse["recall_loss"] == pytest.approx(1.1, abs=0.001)
    assert worse["recall_delta"] == pytest.approx(0.1, abs=0.001)
    assert worse["recall_share"] == 100 / 1024
    assert worse["recall_gap"] == pytest.approx(100 / 1024, abs=0.002)  # worse on all tokens alike
    assert worse["beyond_delta"] == pytest.approx(0.1, abs=0.001)
    assert worse["delta_low@128"] < worse["delta@128"] < 0.102
    assert worse["text_bits"] == pytest.approx(2.1 / np.log(2) / 4, rel=1e-3)
    assert [name for name, value in base.items() if value is not None] == [
        *("recall_loss", "recall_share", "loss@4096", "text_loss", "text_bits")
    ]
    check_columns(["loss@7"])  # which no run may have: a dash
    for wrong in ("loss@x", "gain@128", "recall"):
        with pytest.raises(UsageError, match="no column"):
            check_columns([wrong])


def test_a_comparison_without_evaluations_shows_nothing_of_them(three):
    assert breakdown_tables(three) == []
    assert draw_breakdowns(three) == []
    assert as_json(three)["breakdowns"] is None
    (column,) = chosen_columns(three, ["recall_delta"])
    assert {column.format(at) for at in row_contexts(three)} == {"-"}


def test_figures_say_in_words_what_they_draw(comparison):
    found = {one.name: one for one in draw_breakdowns(comparison)}
    assert set(found) == {"lengths", "long_positions", "position_differences", "recall"}
    repeated = comparison.breakdowns[RECALL].rows[comparison.rows[1].label].part("repeated").difference
    assert f"{repeated.delta:+.4f} on repeated" in found["recall"].alt
    for one in found.values():
        ET.fromstring(as_svg(one))


def test_data_for_programs_holds_every_span_with_its_interval(comparison):
    table = as_json(comparison)["breakdowns"]
    label = comparison.rows[1].label
    parts = table["positions"]["rows"][label]["parts"]
    assert len(parts) == 11
    for part in parts:
        low, high = part["difference"]["ci95"]
        assert low < 0.1 < high or abs(part["difference"]["delta"] - 0.1) < 0.001
    assert table["recall"]["rows"][label]["before_the_last_step"] == [comparison.rows[1].runs[0].run_name]
    assert table["lengths"]["trained_on"] == 1024
