"""Matched budgets in a comparison: planned, found again, audited as equal, and shown with what remains."""

import io
import json

import pytest
from rich.console import Console

from vgpt.compare.audit.conditions import audit
from vgpt.compare.choose import compare
from vgpt.compare.request import settings_of_first
from vgpt.compare.rows import make_row
from vgpt.errors import SettingsError, UsageError
from vgpt.report.as_json import as_json
from vgpt.report.tables import tables

PARAMS = {"match": "params", "match_to": "mha"}


def rendered(comparison, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False, no_color=True, force_terminal=False)
    for part in tables(comparison):
        console.print(part)
    return console.file.getvalue()


def commands(comparison):
    return [wanted.command for wanted in comparison.missing]


def test_missing_runs_are_matched_to_the_baseline(ask):
    found = compare(ask("gqa", "mqa", preset="demo", match="params", n_kv_head="4"), [])
    flags = "--match params --match-to gqa:n_kv_head=4"
    assert commands(found) == [
        f"vgpt train --preset demo --attn gqa:n_kv_head=4 {flags}",
        f"vgpt train --preset demo --attn mqa {flags}",
    ]
    assert [wanted.config.model.hidden for wanted in found.missing] == [512, 608]


def test_the_command_for_a_matched_run_rebuilds_its_settings(make_run, ask):
    (wanted,) = compare(ask("mha", "mqa", preset="demo", match="flops"), [make_run("mha")]).missing
    assert wanted.arguments == ("train", "--preset", "demo", "--attn", "mqa", "--match", "flops", "--match-to", "mha")
    trained = make_run("mqa", settings={"match": "flops", "match_to": "mha"})
    assert trained.tags["vgpt.settings_hash"] == wanted.config.settings_hash


def test_another_reference_may_be_named_by_its_variant_in_the_comparison(ask):
    found = compare(ask("mha", "gqa:n_kv_head=4", "mqa", preset="demo", match="params", match_to="gqa"), [])
    assert {wanted.config.model.match_to for wanted in found.missing} == {"gqa:n_kv_head=4"}
    found = compare(ask("mha", preset="demo", match="params", match_to="mqa"), [])
    assert {wanted.config.model.match_to for wanted in found.missing} == {"mqa"}


def test_a_reference_has_what_the_preset_says_of_its_variant(ask):
    found = compare(ask("mha", "mqa", preset="gpt2-small", match="params", match_to="gqa"), [])
    assert {wanted.config.model.match_to for wanted in found.missing} == {"gqa:n_kv_head=4"}
    assert "--match-to gqa" in commands(found)[0]


def test_a_preset_or_the_environment_may_ask_for_matching(ask, tmp_path):
    found = compare(ask("mha", "mqa", preset="demo", env={"VGPT_MATCH": "params"}), [])
    assert [wanted.config.model.match_to for wanted in found.missing] == ["mha", "mha"]
    written = tmp_path / "mine.toml"
    written.write_text('[model]\nmatch = "params"\nn_layer = 2\n')
    found = compare(ask("mha", "mqa", preset=str(written)), [])
    assert [wanted.config.model.match_to for wanted in found.missing] == ["mha", "mha"]


def test_the_run_of_the_reference_is_used_whether_it_was_trained_with_match_or_without(make_run, ask):
    for mha in (make_run("mha"), make_run("mha", settings=PARAMS)):
        runs = [mha, make_run("mqa", settings=PARAMS), make_run("mqa")]
        found = compare(ask("mha", "mqa", preset="demo", match="params"), runs)
        assert [row.runs for row in found.rows] == [(runs[0],), (runs[1],)]
        assert not found.missing
        assert found.audit.equal
        assert found.audit.shared["match"] == "params to mha"
        raw = compare(ask("mha", "mqa", preset="demo"), runs)
        assert [row.runs for row in raw.rows] == [(runs[0],), (runs[2],)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp_hidden": 608},
        {"match": "flops", "match_to": "mha"},
        {"match": "params", "match_to": "gqa:n_kv_head=3", "n_head": 6, "n_embd": 96},
        {"match": "params", "match_to": "mha", "match_multiple": 4},
        {"match": "params", "match_to": "mha", "mlp_hidden": 520},
    ],
)
def test_a_planted_difference_in_matching_is_found(make_run, changes):
    matched = [make_row([make_run(attn, settings=PARAMS)]) for attn in ("mha", "gqa")]
    assert audit(matched).equal
    found = audit([*matched, make_row([make_run("mqa", settings=changes)])])
    assert {"match", "mlp_hidden"} & set(found.flagged["mqa"])
    assert set(found.flagged) == {"mqa"}


def test_unmatched_runs_beside_a_matched_one_are_not_equal(make_run):
    rows = [make_row([make_run("mha")]), make_row([make_run("mqa")]), make_row([make_run("gqa", settings=PARAMS)])]
    found = audit(rows)
    (difference,) = found.differences
    assert difference.values == {"mha": "params to mha", "mqa": "none", "gqa:n_kv_head=2": "params to mha"}


def test_runs_with_matched_caches_differ_by_their_own_settings_alone(make_run, ask):
    cache = {"match": "cache", "match_to": "gqa:n_kv_head=4"}
    runs = [make_run("gqa:n_kv_head=4"), make_run("gqa", settings=cache), make_run("mqa")]
    assert audit([make_row([run]) for run in runs]).equal
    found = compare(ask("gqa:n_kv_head=4", "gqa", preset="demo", match="cache"), runs)
    assert [row.label for row in found.rows] == ["gqa:n_kv_head=4"]  # the second term comes to the first
    assert "KV cache matched, to gqa:n_kv_head=4" in rendered(found)


def test_two_terms_that_come_to_the_same_settings_are_trained_once(ask):
    found = compare(ask("gqa:n_kv_head=4", "gqa", preset="demo", match="cache"), [])
    assert len(found.missing) == 1


def test_what_cannot_be_matched_is_refused_before_anything_is_trained(ask):
    with pytest.raises(SettingsError, match="no one setting of mqa sizes its cache"):
        compare(ask("mha", "mqa", preset="demo", match="cache"), [])
    with pytest.raises(UsageError, match="the baseline 'my_run' is a run"):
        ask("my_run", "mqa", preset="demo", match="params")
    with pytest.raises(SettingsError, match="--match-to mqa needs --match"):
        ask("mha", preset="demo", match_to="mqa")


def test_settings_of_a_matched_comparison_can_be_shown(ask):
    settings = settings_of_first(ask("mqa", "mha", preset="demo", match="params")).settings
    assert (settings.model.match, settings.model.match_to) == ("params", "mqa")


def test_without_conditions_the_matching_of_the_newest_baseline_is_followed(make_run, ask):
    runs = [make_run("mha", settings={**PARAMS, "n_layer": 3, "match_to": "gqa:n_kv_head=2"})]
    (wanted,) = compare(ask("mha", "mqa"), runs).missing
    assert "--match params --match-to gqa:n_kv_head=2" in wanted.command
    trained = make_run("mqa", settings={"n_layer": 3, "match": "params", "match_to": "gqa:n_kv_head=2"})
    assert wanted.config.settings_hash == trained.tags["vgpt.settings_hash"]
    assert compare(ask("mha", "mqa"), [*runs, trained]).audit.equal


def test_without_conditions_matched_caches_of_the_baseline_bind_no_other_variant(make_run, ask):
    runs = [make_run("gqa", settings={"match": "cache", "match_to": "gqa:n_kv_head=4"})]
    (wanted,) = compare(ask("gqa", "mqa"), runs).missing
    assert "--match" not in wanted.command


def matched_runs(make_run):
    return [make_run("mha"), *(make_run(attn, settings=PARAMS) for attn in ("gqa", "mqa"))]


def test_the_table_shows_widths_residuals_and_what_was_before(make_run, ask, check_golden):
    found = compare(ask("mha", "gqa", "mqa", preset="demo", match="params"), matched_runs(make_run))
    text = rendered(found)
    table, _, _ = text[text.index("MLP width matched") :].partition("Conditions")
    check_golden("compare_matched.txt", table)
    assert max(map(len, text.splitlines())) <= 80


def test_the_table_stands_there_too_where_runs_are_matched_by_their_records(make_run, ask):
    text = rendered(compare(ask("mha", "gqa", "mqa"), matched_runs(make_run)[1:]))
    assert "MLP width matched: params, to mha" in text


def test_nothing_is_said_of_matching_where_nothing_is_matched(make_run, ask):
    assert "matched" not in rendered(compare(ask("mha", "mqa"), [make_run("mha"), make_run("mqa")]))


def test_json_holds_rule_and_budgets(make_run, ask):
    found = compare(ask("mha", "gqa", "mqa", preset="demo", match="params"), matched_runs(make_run))
    table = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert table["match"] == {"rule": "params", "to": "mha", "multiple": 8}
    mqa = table["rows"][2]["budget"]
    assert (mqa["width"], mqa["raw_width"]) == (608, 512)
    layer, mlp = 4 * 128**2 + 4 * 128, 2 * 128 * 512 + 512 + 128
    smaller = 2 * 128**2 + 2 * 128 * 32 + 128 + 2 * 32 + 128
    assert mqa["raw_params"] == pytest.approx((smaller + mlp) / (layer + mlp) - 1)
    assert mqa["params"] == pytest.approx((smaller + mlp + 96 * 257) / (layer + mlp) - 1)
    assert as_json(compare(ask("mha"), [make_run("mha")]))["match"] is None


def test_a_reference_that_is_not_known_here_leaves_dashes(make_run, ask):
    run = make_run("mqa", settings=PARAMS)
    run.params["match_to"] = "novel"
    text = rendered(compare(ask("mqa"), [run]))
    (line,) = [line for line in text[text.index("MLP width matched") :].splitlines() if line.startswith("mqa")]
    assert set(line.split()[1:]) == {"-"}
