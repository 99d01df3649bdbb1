"""Speeds from logs: when a difference is shown, of which peak MFU is, what older runs say."""

import csv
import io
import json

import pytest
from rich.console import Console

from vgpt.compare.choose import compare
from vgpt.compare.comparison import sorted_rows
from vgpt.report.as_json import as_json
from vgpt.report.formats import as_csv
from vgpt.report.tables import tables

NAMES = ("speed/tokens_per_second", "speed/tokens_per_second_low", "speed/tokens_per_second_high")


def at_speed(median, low, high):
    return dict(zip(NAMES, (median, low, high), strict=True))


def older(run, **metrics):
    """Make a run one of an older version, which recorded a mean alone, and the memory of the process."""
    for name in [name for name in run.metrics if name.startswith("speed/")]:
        del run.metrics[name]
    del run.metrics["memory/train_bytes"]
    run.metrics.update(metrics)
    return run


def shown(found, width=100):
    console = Console(file=io.StringIO(), width=width, highlight=False, no_color=True, force_terminal=False)
    for part in tables(found):
        console.print(part)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def speed_lines(found, width=100):
    """Return the lines of the table of speeds by the first word of each."""
    text = shown(found, width).partition("Speed of training, from logs")[2].partition("Runs are trained one")[0]
    return {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.strip()}


def pair(make_run, mine, **changes):
    return [make_run("mha", metrics=at_speed(1000, 950, 1050)), make_run("mqa", metrics=mine, **changes)]


def compared(ask, runs):
    return compare(ask("mha", "mqa"), runs)


def change(found):
    speed = as_json(found)["rows"][1]["speed"]
    return speed["change"], speed["no_change_because"]


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        (at_speed(1200, 1051, 1300), (pytest.approx(0.2), None)),
        (at_speed(800, 700, 949), (pytest.approx(-0.2), None)),
        (at_speed(1200, 1050, 1300), (None, "within spread")),
        (at_speed(1200, 900, 1300), (None, "within spread")),
        (at_speed(1001, 999, 1002), (None, "within spread")),
    ],
)
def test_a_difference_is_shown_only_where_the_spreads_do_not_overlap(make_run, ask, mine, expected):
    found = compared(ask, pair(make_run, mine))
    assert change(found) == expected
    line = speed_lines(found)["mqa"]
    assert line.startswith(f"mqa {mine[NAMES[0]]:,} {mine[NAMES[1]]:,} to {mine[NAMES[2]]:,} 18 ")
    assert line.endswith("within spread" if expected[0] is None else f"{100 * (mine[NAMES[0]] / 1000 - 1):+.1f}%")


def test_the_spread_of_a_row_is_that_of_all_its_seeds(make_run, ask):
    runs = [
        make_run(attn, settings={"seed": seed}, metrics=at_speed(speed, speed - 10, speed + 10))
        for attn, speeds in (("mha", (1000, 1040)), ("mqa", (1045, 1100)))
        for seed, speed in enumerate(speeds)
    ]
    assert change(compared(ask, runs)) == (None, "within spread")
    for run in runs[2:]:
        run.metrics.update(at_speed(1100, 1060, 1110))
    assert change(compared(ask, runs)) == (pytest.approx(1100 / 1020 - 1), None)


@pytest.mark.parametrize("name", ["log_interval", "save_interval", "tracker", "nproc", "compile", "batch_size"])
@pytest.mark.parametrize("value", ["7", None])
def test_without_equal_conditions_of_speed_there_is_no_difference_and_the_losses_do_not_mind(
    make_run, ask, name, value
):
    runs = pair(make_run, at_speed(1200, 1190, 1210))
    assert change(compared(ask, runs))[0] == pytest.approx(0.2)
    if value is None:
        del runs[1].params[name]
    else:
        runs[1].params[name] = value
    found = compared(ask, runs)
    assert change(found) == (None, f"{name} not recorded" if value is None else f"≠ {name}")
    if name in ("log_interval", "save_interval", "tracker"):
        assert found.audit.equal


@pytest.mark.parametrize("name", ["device", "threads", "cpu_capability", "allocator", "kernels", "torch", "source"])
def test_other_facts_of_the_machine_are_other_conditions_of_speed(make_run, ask, name):
    """ATEN_CPU_CAPABILITY alone took 59k tokens/s to 2.8k."""
    runs = pair(make_run, at_speed(1200, 1190, 1210), tags={f"vgpt.{name}": "other"})
    assert change(compared(ask, runs)) == (None, f"≠ {name}")
    del runs[1].tags[f"vgpt.{name}"]
    assert change(compared(ask, runs)) == (None, f"{name} not recorded")


def test_mfu_is_of_the_largest_peak_that_any_run_measured(make_run, ask):
    """0.46 and 1.44 TFLOP/s is what one machine measured at two times: the lower one was measured while it was busy."""
    runs = [
        make_run("mha", metrics={"flops/peak": 0.46e12, "flops/train_per_token": 1e6, **at_speed(1e5, 9e4, 1.1e5)}),
        make_run("mqa", metrics={"flops/peak": 1.44e12, "flops/train_per_token": 1e6, **at_speed(1e5, 9e4, 1.1e5)}),
    ]
    found = compared(ask, runs)
    assert [row["speed"]["mfu"] for row in as_json(found)["rows"]] == pytest.approx([1e11 / 1.44e12] * 2)
    text = " ".join(shown(found).split())
    assert "of one peak for all rows of a device and precision: 1.44TFLOP/s, the largest" in text
    (line, _) = list(csv.DictReader(io.StringIO(as_csv(found, ["mfu"]))))
    assert float(line["mfu"]) == pytest.approx(1e11 / 1.44e12)


def test_runs_of_another_precision_have_a_peak_of_their_own_and_a_published_one_goes_first(make_run, ask):
    half = {"vgpt.dtype": "bfloat16"}
    base = {"flops/train_per_token": 1e6, **at_speed(1e5, 9e4, 1.1e5)}
    runs = [
        make_run("mha", metrics=base | {"flops/peak": 1e12}),
        make_run("gqa", metrics=base | {"flops/peak": 9e12}, tags=half),
        make_run("mqa", metrics=base | {"flops/peak": 4e12}, tags=half | {"vgpt.peak_source": "published"}),
    ]
    found = compare(ask("mha", "gqa", "mqa"), runs)
    assert [row["speed"]["mfu"] for row in as_json(found)["rows"]] == pytest.approx([0.1, 0.025, 0.025])
    text = " ".join(shown(found).split())
    assert "1TFLOP/s (AMD EPYC, float32), the largest" in text
    assert "4TFLOP/s (AMD EPYC, bfloat16), published for the device" in text


def test_the_peak_of_several_processes_is_that_of_all(make_run, ask):
    base = {"flops/peak": 1e12, "flops/train_per_token": 1e6, **at_speed(1e5, 9e4, 1.1e5)}
    runs = [make_run("mha", metrics=base), make_run("mqa", metrics=base)]
    runs[1].params["nproc"] = "4"
    assert [row["speed"]["mfu"] for row in as_json(compared(ask, runs))["rows"]] == pytest.approx([0.1, 0.025])


def test_an_older_run_shows_its_mean_marked_and_no_difference(make_run, ask):
    old = older(make_run("mqa"), **{"train/seconds": 100.0, "train/tokens": 819_200.0, "perf/tokens_per_second": 1.0})
    found = compared(ask, [make_run("mha"), old])
    assert speed_lines(found)["mqa"].startswith("mqa 8,192* - - ")
    assert change(found) == (None, "no spread recorded")
    row = json.loads(json.dumps(as_json(found)))["rows"][1]
    assert row["speed"]["source"] == "mean over all steps, of an older version"
    text = shown(found)
    assert "* mean over all steps" in " ".join(text.split())
    assert "912.5 MiB*" in text
    assert "* of the whole process, imports and evaluations included" in " ".join(text.split())


def test_rows_are_sorted_by_the_speed_that_is_shown(make_run, ask):
    old = older(make_run("gqa"), **{"train/seconds": 10.0, "train/tokens": 819_200.0})
    found = compare(ask("mha", "mqa", "gqa", sort="speed"), [make_run("mha"), make_run("mqa"), old])
    assert [row.label for row in found.rows] == ["mha", "gqa:n_kv_head=2", "mqa"]
    assert [row.label for row in sorted_rows(list(found.rows), "memory")][1:] == ["mqa", "gqa:n_kv_head=2"]


def test_numbers_that_are_not_recorded_are_dashes(make_run, ask):
    bare = make_run("mqa")
    for name in [name for name in bare.metrics if name.partition("/")[0] in ("speed", "perf", "memory", "flops")]:
        del bare.metrics[name]
    found = compared(ask, [make_run("mha"), bare])
    assert speed_lines(found)["mqa"] == "mqa - - - - - not recorded"
    assert as_json(found)["rows"][1]["speed"] is None


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_keeps_its_numbers_whole_on_a_narrow_terminal(make_run, ask, width):
    fast = at_speed(1_234_567, 1_200_000, 1_300_000)
    runs = [make_run("mha", metrics=fast), make_run("gqa", metrics=fast)]
    found = compare(ask("mha", "gqa"), runs)
    assert "1,234,567" in speed_lines(found, width)["mha"]
    assert "1,200,000 to 1,300,000" in speed_lines(found, width)["mha"]
