"""The built-in corpus: sources of the running Python's own standard library, so that a first run downloads nothing."""

import hashlib
import os
import sysconfig
from pathlib import Path

from vgpt.errors import DataError
from vgpt.text.corpus import Corpus

DEMO_VOCAB_SIZE = 1024
_BUDGET_BYTES = 3_000_000
_LARGEST_FILE = 100_000
# Left out: other people's packages, tests, generated tables, and what some installations lack.
_NOT_READ = {
    "__pycache__", "dist-packages", "encodings", "ensurepip", "idlelib", "lib-dynload", "lib2to3", "pydoc_data",
    "site-packages", "test", "tests", "tkinter", "turtledemo",
}  # fmt: skip


def demo_corpus() -> Corpus:
    """Return about 3 MB of Python sources: chosen by the hash of their path, so from all over the library, and sorted.

    Raises:
        DataError: this Python has no readable standard library sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    names: list[str] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_READ and not name.startswith(("config-", "."))]
        names += [os.path.relpath(os.path.join(root, name), folder) for name in files if name.endswith(".py")]
    names.sort(key=lambda name: hashlib.sha256(name.replace(os.sep, "/").encode()).digest())
    chosen: list[str] = []
    total = 0
    for name in names:
        size = (folder / name).stat().st_size
        if 0 < size <= _LARGEST_FILE and total + size <= _BUDGET_BYTES and not name.startswith("_sysconfigdata"):
            chosen.append(str(folder / name))
            total += size
    if total < _BUDGET_BYTES // 10:
        raise DataError(f"no standard library sources in {folder}", "Prepare a text of your own: vgpt prepare TEXT.")
    return Corpus(tuple(sorted(chosen)))
