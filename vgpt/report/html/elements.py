"""HTML from texts and tables. Every text is escaped here, and nowhere is a text made HTML in another way."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vgpt.report.figures.style import Figure, as_svg

_CLASSES = ("bold", "dim", "green", "red", "yellow")


def element(name: str, *content: str, **attributes: str) -> str:
    """Return an element; `content` is HTML, attributes are text. An attribute `class_` is `class`."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(text)}"' for key, text in attributes.items())
    return f"<{name}{written}>{''.join(content)}</{name}>"


def plain(text: str) -> str:
    """Return a text as HTML, without control codes; its lines stay lines."""
    kept = "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return escape(kept).replace("\n", "<br>")


def styled(text: Text | str) -> str:
    """Return a text of the terminal as HTML, its styles as classes."""
    if isinstance(text, str):
        return plain(text)
    edges = sorted({0, len(text), *(edge for span in text.spans for edge in (span.start, span.end))})
    parts: list[str] = []
    for start, end in pairwise(edges):
        styles = [str(text.style), *(str(s.style) for s in text.spans if s.start <= start and end <= s.end)]
        classes = " ".join(name for name in _CLASSES if any(name in style.split() for style in styles))
        piece = plain(text.plain[start:end])
        parts.append(element("span", piece, class_=classes) if classes else piece)
    return "".join(parts)


def blocks(parts: Iterable[RenderableType]) -> str:
    """Return tables and lines of the terminal as HTML, in their order; empty lines are left out."""
    found: list[str] = []
    for part in parts:
        if isinstance(part, Table):
            found.append(table_of(part))
        elif isinstance(part, Text) and part.plain.strip():
            found.append(element("p", styled(part)))
    return "\n".join(found)


def table_of(table: Table) -> str:
    """Return a table of the terminal as HTML, with its title as caption."""
    columns = [list(column.cells) for column in table.columns]
    head = [_text(column.header) for column in table.columns]
    right = [column.justify == "right" for column in table.columns]
    caption = "" if table.title is None else element("caption", styled(_text(table.title)))
    lines = [[_text(cell) for cell in line] for line in zip(*columns, strict=True)]
    return _table(caption, head, lines, right)


def plain_table(caption: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table of texts."""
    return _table(element("caption", plain(caption)), head, lines, [False] * len(head))


def inline_svg(drawn: Figure) -> str:
    """Return a figure as an element of a page: ids that no other figure has, a text for those who cannot see it."""
    text = as_svg(drawn)
    text = text[text.index("<svg") :]

    def adapt(tag: re.Match[str]) -> str:
        found = re.sub(r'\bid="', f'id="{drawn.name}-', tag[0])
        found = found.replace("url(#", f"url(#{drawn.name}-").replace('href="#', f'href="#{drawn.name}-')
        return re.sub(r' xmlns(:xlink)?="[^"]*"', "", found)

    text = re.sub(r"<[^>]+>", adapt, text)
    label = f'<svg role="img" aria-label="{escape(f"{drawn.title}. {drawn.alt}")}"'
    return text.replace("<svg", label, 1)


def _table(caption: str, head: Sequence[Text | str], lines: Iterable[Sequence[Text | str]], right: list[bool]) -> str:
    def row(cells: Sequence[Text | str], name: str) -> str:
        kinds = zip(cells, right, strict=True)
        return element("tr", *(element(name, styled(c), **({"class_": "n"} if r else {})) for c, r in kinds))

    body = element("tbody", *(row(line, "td") for line in lines))
    table = element("table", caption, element("thead", row(head, "th")), body)
    return element("div", table, class_="wide")


def _text(cell: RenderableType) -> Text | str:
    return cell if isinstance(cell, (Text, str)) else str(cell)
