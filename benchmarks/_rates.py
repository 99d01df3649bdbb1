"""The cells of a simulation of error rates: printed as they come, written with what they are of."""

import argparse
import time
from pathlib import Path
from typing import Any

from _hardware import add_out, hardware, write


def options_of(description: str | None, **counts: tuple[int, str]) -> argparse.Namespace:
    """Read the command line: `--out`, and for each count an option with its default and help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (number, told) in counts.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=told)
    add_out(parser)
    return parser.parse_args()


class Cells:
    """Collects cells; `list` holds them, one table of rates each."""

    def __init__(self) -> None:
        self.list: list[dict[str, Any]] = []
        self._begun = time.monotonic()

    def add(self, cell: dict[str, Any]) -> None:
        """Take a cell and print it."""
        self.list.append(cell)
        print(cell, flush=True)

    def write(self, out: Path | None, what: str, **facts: Any) -> None:
        """Write all of them, what they are of, machine and seconds."""
        seconds = round(time.monotonic() - self._begun)
        write(
            out, {"what": what, **facts, "hardware": hardware("numpy", "scipy"), "cells": self.list, "seconds": seconds}
        )
