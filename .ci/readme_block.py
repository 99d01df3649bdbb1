"""Print the README's command block that follows the marker `<!-- NAME -->`: readme_block.py README.md NAME."""

import re
import sys
from pathlib import Path


def block(text: str, name: str) -> str:
    """Return the first fenced block after the marker."""
    found = re.search(rf"<!-- {re.escape(name)} -->\s*```bash\n(.*?)```", text, re.S)
    if found is None:
        raise SystemExit(f"the README has no block named {name}")
    return found[1]


if __name__ == "__main__":
    sys.stdout.write(block(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2]))
