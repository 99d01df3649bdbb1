import re
import struct
import xml.etree.ElementTree as ET

import pytest

from vgpt.compare.choose import compare
from vgpt.compare.curves import curve
from vgpt.errors import VgptError
from vgpt.report.figures.costs import draw_caches, draw_tradeoffs, pareto_front
from vgpt.report.figures.curves import draw_losses, draw_positions, spans
from vgpt.report.figures.style import COLORS, as_png, as_svg, line_styles
from vgpt.report.figures.write import draw_all, save_figures
from vgpt.tracking.histories import History

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def three(make_run, ask):
    costs = {"mha": (2.30, 900.0), "gqa": (2.32, 800.0), "mqa": (2.31, 700.0)}
    runs = [
        make_run(attn, settings={"seed": seed}, metrics={"val/loss": loss + 0.01 * seed, "train/seconds": seconds})
        for attn, (loss, seconds) in costs.items()
        for seed in (1, 2, 3)
    ]
    return compare(ask("mha", "gqa", "mqa"), runs)


def texts(svg):
    return [" ".join(element.itertext()).strip() for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_every_figure_is_written_as_png_and_as_svg_that_names_nothing_outside_itself(
    three, course, tmp_path, evaluated
):
    files = save_figures(draw_all(three, course, evaluated), tmp_path / "new" / "plots")
    names = [
        f"{name}{ending}" for name in ("loss_curves", "tradeoffs", "cache", "positions") for ending in (".png", ".svg")
    ]
    assert [path.name for path in files] == names
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".png":
            width, height = struct.unpack(">II", content[16:24])
            assert content[1:4] == b"PNG"
            assert width > 800
            assert height > 500
        else:
            references = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', content.decode())
            assert all(reference.startswith("#") for pair in references for reference in pair if reference)
            assert b"DOCTYPE" not in content


def test_the_same_comparison_gives_the_same_files(three, course, evaluated):
    once, twice = draw_all(three, course, evaluated), draw_all(three, course, evaluated)
    assert [as_svg(one) for one in once] == [as_svg(one) for one in twice]
    assert [as_png(one) for one in once] == [as_png(one) for one in twice]


def test_axes_carry_units_and_the_legend_names_every_row_once(three, course):
    for drawn, labels in (
        (
            draw_losses(three, course),
            ["validation loss (nats per token)", "training tokens", "training time in seconds"],
        ),
        (draw_tradeoffs(three), ["validation loss (nats per token)", "training FLOPs per token"]),
        (draw_caches(three), ["tokens of context", "bytes of all layers (analytic)"]),
    ):
        found = texts(as_svg(drawn))
        assert set(labels) <= set(found)
        assert [found.count(name) for name in ("mha", "gqa n_kv_head=2", "mqa")] == [1, 1, 1]


def test_lines_and_bands_are_those_of_the_curves(three, course):
    axis = draw_losses(three, course).figure.axes[0]
    for row, line in zip(three.rows, axis.lines, strict=True):
        expected = curve(row, course, "tokens")
        assert list(line.get_xdata()) == list(expected.x)
        assert list(line.get_ydata()) == list(expected.mean)
    assert len(axis.collections) == 3
    assert [line.get_color() for line in axis.lines] == list(COLORS[:3])


def test_the_front_is_what_nothing_else_beats():
    points = [(1.0, 9.0), (2.0, 5.0), (2.5, 5.0), (3.0, 6.0), (4.0, 4.0), (4.0, 4.5)]
    assert pareto_front(points) == [(1.0, 9.0), (2.0, 5.0), (4.0, 4.0)]
    assert pareto_front([]) == []


def test_the_picture_says_what_is_on_the_front(three):
    alt = draw_tradeoffs(three).alt
    # mqa has the smallest cache and is better than gqa; mha is the best.
    assert alt.startswith("KV cache of one sequence at the context length: on the front mha, mqa;")


def test_rows_of_unequal_conditions_stand_on_no_front_unless_forced(make_run, ask):
    runs = [make_run("mha"), make_run("mqa", settings={"lr": 0.1}, metrics={"val/loss": 1.0})]
    alt = draw_tradeoffs(compare(ask("mha", "mqa"), runs))
    assert "on the front mha;" in alt.alt
    assert "hollow: unequal conditions" in " ".join(texts(as_svg(alt)))
    forced = draw_tradeoffs(compare(ask("mha", "mqa", force=True), runs))
    assert "on the front mqa;" in forced.alt
    assert "FORCED across unequal conditions" in " ".join(texts(as_svg(forced)))


def test_cache_lines_follow_the_analytic_cost(three):
    axis = draw_caches(three).figure.axes[0]
    mha, gqa, _ = (dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axis.lines[:3])
    assert mha[131_072] == 131_072 * three.rows[0].runs[0].metrics["kv/bytes_per_token"]
    assert gqa[8192] * 2 == mha[8192]


def test_the_loss_by_position_is_the_mean_over_spans_that_widen(three, evaluated):
    assert spans(1) == [(0, 1)]
    for length in (2, 3, 64, 100, 1024):
        found = spans(length)
        assert [first for first, _ in found[1:]] == [end for _, end in found[:-1]]
        assert (found[0][0], found[-1][1]) == (0, length)
        assert all(first < end <= max(first + 1, round(1.5 * first)) for first, end in found)
    axis = draw_positions(three, evaluated).figure.axes[0]
    assert [line.get_color() for line in axis.lines] == list(COLORS[:3])
    losses = [run.metrics["val/loss"] for run in three.rows[0].runs]
    assert axis.lines[0].get_ydata()[0] == pytest.approx(sum(losses) / 3 + 1)
    assert axis.lines[0].get_ydata()[-1] == pytest.approx(
        sum(losses) / 3 + sum(1 / (position + 1) for position in range(45, 64)) / 19
    )


@pytest.mark.slow
def test_names_are_never_read_as_formulas_and_never_left_out(make_run, ask, renamed, course, evaluated):
    found = compare(ask("mha", "odd"), [make_run("mha"), make_run("mqa", run_name="odd")])
    for name in (r"a$\frac{$", "_hidden", "<script>alert(1)</script>", "a\x1b[31m", "漢字"):
        for drawn in draw_all(renamed(found, "odd", name), course, evaluated):
            svg = as_svg(drawn)
            assert any(name.replace("\x1b", "?") in text for text in texts(svg)), name
            assert "<script" not in svg
            as_png(drawn)


def test_more_rows_than_colors_are_told_apart_by_their_marks(make_run, ask):
    runs = [make_run("mha", run_name=f"r{number}") for number in range(10)]
    found = line_styles(compare(ask(*(f"r{number}" for number in range(10))), runs).rows)
    assert len({(look.color, look.marker, look.dash) for look in found.values()}) == 10


def test_without_numbers_there_is_no_figure(make_run, ask):
    bare = make_run("mha", tags={"vgpt.attn": "novel"})
    bare.metrics.clear()
    assert draw_all(compare(ask(bare.run_name), [bare]), lambda run: History(), lambda run: None) == []
    assert draw_all(compare(ask("mha"), []), lambda run: History(), lambda run: None) == []


def test_a_directory_that_cannot_be_written_is_an_error_with_the_flag(three, course, tmp_path, evaluated):
    (tmp_path / "file").write_text("")
    with pytest.raises(VgptError, match="--plot"):
        save_figures(draw_all(three, course, evaluated), tmp_path / "file")
