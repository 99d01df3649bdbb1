"""What this package is: its version, and where it lies. Rooms ask here, not `vgpt`, which opens onto all of them."""

from pathlib import Path

VERSION = "0.1.0"
"""As in pyproject.toml."""

PACKAGE = Path(__file__).parent
"""Directory of the package."""
