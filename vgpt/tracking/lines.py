"""Files of lines that survive kill -9, a full disk and torn writes; small JSON files that are read without faith."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

SYNC_INTERVAL = 5.0
_MAX_HELD_BYTES = 64 * 2**20


class LineFile:
    """Appends lines to a file: JSON objects, or plain text.

    A line reaches the kernel before `write` returns, so it outlives the process; it reaches the disk within
    `SYNC_INTERVAL` seconds, by a thread, because syncing to a busy disk may take longer than a training step.
    What a full disk refuses is held in memory and written, in order, as soon as there is room.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        self._held = b""
        self._dirty = False
        self._closing = threading.Event()
        self._syncer: threading.Thread | None = None

    def write(self, entry: Mapping[str, Any]) -> OSError | None:
        """Append one object; return the error of a disk that takes no more, None where all is written."""
        return self.write_text(json.dumps(entry, allow_nan=False, separators=(",", ":")))

    def write_text(self, text: str) -> OSError | None:
        """Append one line of text, as `write` does."""
        if self._fd < 0:
            return None
        line = text.encode(errors="replace") + b"\n"
        if len(self._held) < _MAX_HELD_BYTES:
            self._held += line
        if self._syncer is None:
            self._syncer = threading.Thread(target=self._sync_now_and_then, name="vgpt-journal-sync", daemon=True)
            self._syncer.start()
        return self._drain()

    def close(self) -> OSError | None:
        """Write what is held, sync and close; a second call does nothing."""
        if self._fd < 0:
            return None
        self._closing.set()
        if self._syncer is not None:
            self._syncer.join()
        error = self._drain()
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        return error

    def _drain(self) -> OSError | None:
        """Hand held bytes to the kernel; a partial write keeps its rest, so that no line is ever torn for good."""
        try:
            while self._held:
                written = os.write(self._fd, self._held)
                self._held = self._held[written:]
                self._dirty = True
        except OSError as error:
            return error
        return None

    def _sync_now_and_then(self) -> None:
        while not self._closing.wait(SYNC_INTERVAL):
            if self._dirty:
                self._dirty = False
                with contextlib.suppress(OSError):
                    os.fsync(self._fd)


class LineReader:
    """Reads a growing file of JSON lines, each complete line once; a file that was replaced is read from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode = 0
        self._offset = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the objects of lines completed since the last call; damaged lines are passed over."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._offset:
                self._inode, self._offset = found.st_ino, 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                entry = parse_line(line)
                if entry is not None:
                    yield entry


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the object on a line, or None where the line is torn or damaged."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", entry) if isinstance(entry, dict) else None


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None where the file is absent, unreadable or damaged."""
    try:
        return parse_line(path.read_bytes())
    except OSError:
        return None
