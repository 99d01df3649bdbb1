import io
import json

import pytest
from rich.console import Console

from vgpt.compare.choose import compare
from vgpt.report.as_json import as_json
from vgpt.report.tables import tables


def rendered(comparison, width=100):
    console = Console(file=io.StringIO(), width=width, highlight=False, no_color=True, force_terminal=False)
    for part in tables(comparison):
        console.print(part)
    return console.file.getvalue()


def measured(make_run, seeds=(1337,)):
    """Three variants whose numbers look like those of a real comparison."""
    speeds = {"mha": 24_310.0, "gqa": 25_120.4, "mqa": 25_902.1}
    for seed in seeds:
        for number, (attn, speed) in enumerate(speeds.items()):
            loss = 2.3104 + 0.0213 * number + 0.004 * (seed % 7)
            yield make_run(
                attn,
                settings={"seed": seed},
                metrics={
                    "val/loss": loss,
                    "val/bits_per_byte": 0.72 * loss,
                    "val/perplexity": 2.718281828**loss,
                    "speed/tokens_per_second": speed + seed % 7 * 100,
                    "speed/tokens_per_second_low": speed + seed % 7 * 100 - 400,
                    "speed/tokens_per_second_high": speed + seed % 7 * 100 + 400,
                },
            )


def test_one_seed_golden(make_run, ask, check_golden):
    found = compare(ask("mha", "gqa", "mqa", preset="demo"), list(measured(make_run)))
    check_golden("compare_one_seed.txt", rendered(found))


def test_unequal_conditions_and_several_seeds_golden(make_run, ask, check_golden):
    runs = list(measured(make_run, seeds=(1, 2, 3)))
    runs += [make_run("gqa:n_kv_head=4", settings={"max_steps": 300}, tags={"vgpt.dtype": "bfloat16"}, run_name="odd")]
    found = compare(ask("mha", "gqa", "mqa", "odd"), runs)
    check_golden("compare_unequal.txt", rendered(found))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(make_run, ask, width):
    text = rendered(compare(ask("mha", "gqa", "mqa", preset="demo"), list(measured(make_run))), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for number in ("2.3104 ±0.0123", "+0.0426", "24,310", "+6.5%", "412.5 MiB", "-75.0%", "512 KiB"):
        assert number in text
    assert text.count("\ngqa n_kv_head=2 ") == 4


def test_on_80_columns_long_names_and_flags_wrap_and_every_number_stays_whole(make_run, ask):
    name = "a-long-name-of-a-run-that-goes-on"
    runs = list(measured(make_run, seeds=(1, 2, 3)))
    runs += [make_run("gqa:n_kv_head=4", settings={"max_steps": 300}, run_name=name, metrics={"val/loss": 2.3456})]
    text = rendered(compare(ask("mha", "gqa", name), runs), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert "2.3456 ±0.0123 SE" in text
    assert sum(line.startswith(name[:11]) for line in lines) >= 3
    assert "≠ tokens" in text


def test_markup_in_names_is_shown_as_written(make_run, ask):
    name = "[red]bold[link=x]"
    runs = [make_run("mha"), make_run("mqa", run_name=name, tags={"vgpt.device": "[b]odd"})]
    text = rendered(compare(ask("mha", name), runs), 200)
    assert f"\n{name} (mqa) " in text
    assert f"[b]odd in {name} (mqa)" in text


def test_a_cache_that_is_not_of_the_analytic_size_is_marked_loudly(make_run, ask):
    broken = make_run("mqa", metrics={"kv/bytes_measured": 5000.0})
    found = compare(ask("mha", "mqa", preset="demo"), [make_run("mha"), broken])
    text = rendered(found)
    assert "≠ 4.883 KiB" in text
    assert "KV cache ≠ formula" in text
    assert [row["kv_measured_equals_analytic"] for row in as_json(found)["rows"]] == [True, False]


def test_missing_numbers_are_dashes_not_zeros(make_run, ask):
    bare = make_run("mqa")
    bare.metrics.clear()
    text = rendered(compare(ask("mha", "mqa", preset="demo"), [make_run("mha"), bare]))
    lines = [line.split() for line in text.splitlines() if line.startswith("mqa")]
    assert lines[0] == ["mqa", "1", "-", "-", "-", "-", "≠", "tokens;", "no", "loss", "on", "record", "1/1"]
    assert set(lines[1][1:]) == {"-"}


def test_a_loss_that_is_not_finite_is_never_averaged(make_run, ask):
    runs = [make_run("mha", settings={"seed": 1}), make_run("mha", settings={"seed": 2})]
    runs[1].metrics["val/loss"] = float("nan")
    found = compare(ask("mha"), runs)
    assert as_json(found)["rows"][0]["metrics"]["val/loss"] == {"mean": 2.31, "sd": None, "n": 1, "delta": 0.0}


def test_one_seed_carries_a_warning_and_three_do_not(make_run, ask):
    one = " ".join(rendered(compare(ask("mha", "mqa"), list(measured(make_run)))).split())
    assert "n=1: differences carry no seed-noise estimate" in one
    three = rendered(compare(ask("mha", "mqa"), list(measured(make_run, (1, 2, 3)))))
    assert "n=1" not in three
    assert "± sd: standard deviation over seeds" in three


def test_unequal_seeds_are_said(make_run, ask):
    runs = [make_run("mha", settings={"seed": 1}), make_run("mqa", settings={"seed": 2})]
    assert "Seeds are not the same: mha 1; mqa 2." in rendered(compare(ask("mha", "mqa"), runs), 200)


def test_json_is_valid_raw_and_complete(make_run, ask):
    runs = [*measured(make_run, seeds=(1337, 1338))]
    runs[0].metrics["train/grad_norm"] = float("inf")
    found = compare(ask("mha", "gqa", "mqa", "gqa:n_kv_head=1", preset="demo", seeds="2"), runs)
    table = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert table["baseline"] == "mha"
    assert [row["label"] for row in table["rows"]] == ["mha", "gqa:n_kv_head=2", "mqa"]
    mqa = table["rows"][2]
    assert mqa["metrics"]["val/loss"]["delta"] == pytest.approx(0.0426)
    assert mqa["metrics"]["val/loss"]["n"] == 2
    assert mqa["metrics"]["kv/bytes_per_token"]["mean"] == 4 * 2 * 32 * 4  # layers, key and value, head width, float32
    assert mqa["kv_bytes_at_kv_at"] == 8192 * 4 * 2 * 32 * 4
    assert [run["seed"] for run in mqa["runs"]] == ["1337", "1338"]
    assert [entry["command"] for entry in table["missing"]] == [
        "vgpt train --preset demo --attn gqa:n_kv_head=1",
        "vgpt train --preset demo --attn gqa:n_kv_head=1 --seed 1338",
    ]
    assert table["conditions"]["equal"] is True


def test_the_second_cache_column_follows_the_analytic_cost(make_run, ask):
    runs = [make_run("gqa")]
    for tokens in (1, 128, 100_000):
        row = as_json(compare(ask("gqa", kv_at=str(tokens)), runs))["rows"][0]
        assert row["kv_bytes_at_kv_at"] == tokens * runs[0].metrics["kv/bytes_per_token"]


def test_a_variant_that_is_not_known_here_is_still_shown(make_run, ask):
    foreign = make_run("mqa", run_name="foreign", tags={"vgpt.attn": "novel", "vgpt.attn_settings": "not json"})
    found = compare(ask("mha", "foreign"), [make_run("mha"), foreign])
    assert found.rows[1].label == "foreign (novel)"
    assert as_json(found)["rows"][1]["kv_bytes_at_kv_at"] is None
