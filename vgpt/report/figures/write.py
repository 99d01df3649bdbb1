"""All figures of a comparison, and their files."""

from pathlib import Path

from vgpt.compare.comparison import Comparison
from vgpt.compare.curves import Histories
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.errors import VgptError
from vgpt.files.paths import may_replace
from vgpt.report.figures.breakdowns import draw_breakdowns
from vgpt.report.figures.costs import draw_caches, draw_tradeoffs
from vgpt.report.figures.curves import draw_losses, draw_positions
from vgpt.report.figures.equivalents import draw_equivalents
from vgpt.report.figures.staircase import draw_staircase
from vgpt.report.figures.style import Figure, as_png, as_svg


def draw_all(comparison: Comparison, histories: Histories, windows: Windows) -> list[Figure]:
    """Return the figures that there are numbers for.

    Args:
        comparison: what they show.
        histories: finds the loss curves of a run.
        windows: finds its losses per window and position.
    """
    if not comparison.rows:
        return []
    found = [
        draw_losses(comparison, histories),
        draw_tradeoffs(comparison),
        draw_caches(comparison),
        draw_positions(comparison, windows),
        draw_equivalents(comparison),
        draw_staircase(comparison),
        *draw_breakdowns(comparison),
    ]
    return [one for one in found if one is not None]


def save_figures(figures: list[Figure], directory: Path) -> list[Path]:
    """Write each figure as PNG and SVG and return the files.

    Raises:
        VgptError: they cannot be written.
    """
    written: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for one in figures:
            for ending, content in ((".png", as_png(one)), (".svg", as_svg(one).encode())):
                path = directory / f"{one.name}{ending}"
                if not may_replace(path, ending):
                    raise VgptError(f"{path} is no figure, and is not replaced", "Choose another directory for --plot.")
                path.write_bytes(content)
                written.append(path)
    except OSError as error:
        raise VgptError(
            f"--plot {directory} cannot be written: {error.strerror or error}", "Choose another directory."
        ) from error
    return written
