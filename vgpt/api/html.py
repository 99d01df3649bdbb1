"""What notebooks show of a result: facts and tables as HTML."""

from collections.abc import Iterable
from math import isfinite

from rich.console import RenderableType

_STYLE = (
    ".vgpt .n{text-align:right}.vgpt td,.vgpt th{text-align:left;vertical-align:top}.vgpt caption{text-align:left}"
    ".vgpt .dim{opacity:.7}.vgpt .bold{font-weight:700}.vgpt .green{color:#00694a}.vgpt .red{color:#a33200}"
    ".vgpt .yellow{color:#7a5200}"
)


def with_error(value: float, error: float) -> str:
    """Return a loss with its standard error, where it has one: a single window has none."""
    return f"{value:.4f} ± {error:.4f}" if isfinite(error) else f"{value:.4f}"


def facts_html(title: str, facts: Iterable[tuple[str, object]]) -> str:
    """Return a title and a table of names and values."""
    from vgpt.report.html.elements import plain_table  # a tenth of a second, which `vgpt --help` is spared

    return _framed(plain_table(title, ["", ""], [[name, str(value)] for name, value in facts]))


def tables_html(parts: Iterable[RenderableType]) -> str:
    """Return tables and lines of text as the report shows them."""
    from vgpt.report.html.elements import blocks

    return _framed(blocks(parts))


def _framed(content: str) -> str:
    from vgpt.report.html.elements import element

    return f"<style>{_STYLE}</style>" + element("div", content, class_="vgpt")
