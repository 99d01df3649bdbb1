"""What is shown while work goes on: bars on a terminal, plain lines elsewhere."""

import io

from rich.console import Console

from vgpt.cli.live import _LiveDisplay, data_bars, training_display
from vgpt.report.layout import sparkline
from vgpt.training.display import Progress

FIGURES = Progress(step=20, loss=3.25, grad_norm=0.5, lr=1e-3, tokens_per_second=12_345.6, mfu=0.25, seconds_left=3725)


def show(display):
    display.start("mha-run", 40, 0)
    display.advance(20)
    display.log(FIGURES)
    display.evaluated(20, 3.1234, True)
    display.notify("[bold]a remark")
    display.stop()


def test_elsewhere_than_on_a_terminal_every_interval_is_one_plain_line(capsys):
    show(training_display())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "mha-run: step 0 of 40",
        "step=20/40 loss=3.2500 grad_norm=0.500 lr=1.00e-03 tok_s=12346 mfu=0.250 eta=1:02:05",
        "step=20/40 val_loss=3.1234 best",
        "[bold]a remark",
    ]


def test_a_terminal_shows_bar_loss_speed_and_mfu():
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, no_color=True, highlight=False, _environ={})
    show(_LiveDisplay(screen))
    text = screen.file.getvalue()
    for part in ("mha-run", "20/40", "loss 3.2500", "val 3.1234*", "12,346 tok/s", "MFU 25.0%", "[bold]a remark"):
        assert part in text


def test_data_stages_are_lines_with_their_size_and_time(capsys):
    bars = data_bars()
    bars.start("reading", 12_345)
    bars.advance(12_345)
    bars.finish()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "reading: 12,345 bytes ..."
    assert second.startswith("reading: done in ")


def test_a_sparkline_shows_the_shape_in_the_room_it_has():
    assert sparkline([], 10) == ""
    assert sparkline([1.0, 1.0], 10) == "▁▁"
    assert sparkline([0.0, 7.0], 10) == "▁█"
    falling = sparkline([float(-number) for number in range(1000)], 60)
    assert len(falling) <= 60
    assert list(falling) == sorted(falling, reverse=True)
