"""Hold a built site to itself: no page, style or script of it loads anything from elsewhere. offline_site.py DIR.

Links that a reader may follow are no loads. What is counted: sources of scripts, pictures, frames and media, links of
style sheets, fonts and preloads, `url(...)` and `@import` of style sheets, and forms.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

REMOTE = re.compile(r"^\s*(?:\w+:)?//", re.I)
STYLE = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""", re.I)
LOADING = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "icon", "manifest"}
NEVER_USED = ("unpkg.com/mermaid",)
"""An address in the theme's own script that only pages with such a diagram load; a page that has one is a fault."""


class Loads(HTMLParser):
    """Collects what a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one element."""
        values = {name: value or "" for name, value in attrs}
        self.style = tag == "style"
        rel = set(values.get("rel", "").lower().split())
        names = ["src", "srcset", "poster", "data", "action"] + (["href"] if tag == "link" and rel & LOADING else [])
        self.found += [values[name] for name in names if REMOTE.match(values.get(name, ""))]
        self.found += STYLE.findall(values.get("style", ""))
        if "mermaid" in values.get("class", "").split():
            self.found.append("a mermaid diagram: the theme loads its renderer from the network")

    def handle_data(self, data: str) -> None:
        """Look at a style sheet within the page."""
        if self.style:
            self.found += STYLE.findall(data)


def loads(path: Path) -> list[str]:
    """Return what one file of the site loads from elsewhere."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".css":
        return STYLE.findall(text)
    if path.suffix == ".js":
        found = re.findall(r"""["'`](https?://[^"'`\s]+\.(?:m?js|css|woff2?|wasm)\b[^"'`\s]*)""", text)
        return [one for one in found if not any(name in one for name in NEVER_USED)]
    page = Loads()
    page.feed(text)
    return page.found


def faults(site: Path) -> Iterator[str]:
    """Yield a line for each load from elsewhere."""
    files = [path for suffix in ("html", "css", "js") for path in sorted(site.rglob(f"*.{suffix}"))]
    if not any(path.suffix == ".html" for path in files):
        yield f"{site}: no page"
    for path in files:
        for one in loads(path):
            yield f"{path.relative_to(site)}: {one}"


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    print("\n".join(found) or "the site loads nothing from elsewhere")
    sys.exit(1 if found else 0)
