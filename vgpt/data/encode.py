"""From planned text to token files: in one process or many, always the same bytes.

Workers read their share of the spool and send ids back; one writer appends them in order. Every stretch is decoded
again and compared with its text, because a split pattern that misses a character would lose it without a word.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from vgpt.data.manifest import FileRecord
from vgpt.data.progress import Progress, stage
from vgpt.data.split import Plan
from vgpt.data.spool import Spool
from vgpt.errors import DataError, TokenizerError
from vgpt.text.tokenizer import Tokenizer

_TASK_BYTES = 1 << 20
_TASK_ITEMS = 4096
_BYTES_PER_WORKER = 8 << 20
_AHEAD = 3


@dataclass(frozen=True)
class Task:
    """Neighboring stretches of a plan, `first` being the index of the first one."""

    first: int
    offsets: np.ndarray
    sizes: np.ndarray
    validates: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True)
class Encoded:
    """The ids of one task by split, or the index of the stretch that could not be encoded and why."""

    train: bytes
    val: bytes
    failed: int | None = None
    reason: TokenizerError | None = None


class _Encoder:
    """Encodes tasks of one spool; each process has its own."""

    def __init__(self, tokenizer: Tokenizer, spool_path: Path, dtype: str) -> None:
        self.tokenizer = tokenizer
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.end = np.array([tokenizer.end_of_text], dtype=self.dtype)
        self.path = spool_path

    def encode(self, task: Task) -> Encoded:
        """Return the ids of a task."""
        parts: tuple[list[bytes], list[bytes]] = ([], [])
        with self.path.open("rb") as spool:
            rows = zip(
                task.offsets.tolist(), task.sizes.tolist(), task.validates.tolist(), task.ends.tolist(), strict=True
            )
            for index, (offset, size, validates, ends) in enumerate(rows):
                spool.seek(offset)
                text = spool.read(size).decode()
                try:
                    (ids,) = self.tokenizer.encode_batch([text])
                    self.tokenizer.check_lossless(text, ids)
                except TokenizerError as error:
                    return Encoded(b"", b"", task.first + index, error)
                parts[validates].append(ids.astype(self.dtype).tobytes())
                if ends:
                    parts[validates].append(self.end.tobytes())
        return Encoded(b"".join(parts[0]), b"".join(parts[1]))


class TokenWriter:
    """Appends ids to one `.bin` file; a full disk is an `OSError` here, where a mapped file would kill the process."""

    def __init__(self, path: Path) -> None:
        self._stream: IO[bytes] = path.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append ids."""
        self._stream.write(data)
        self._digest.update(data)
        self._size += len(data)

    @property
    def record(self) -> FileRecord:
        """What the manifest says about the file."""
        return FileRecord(size=self._size, sha256=self._digest.hexdigest())

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """Return the smallest of the two layouts that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def encode_plan(
    spool: Spool, plan: Plan, tokenizer: Tokenizer, folder: Path, *, workers: int | str, progress: Progress
) -> dict[str, FileRecord]:
    """Write `train.bin` and `val.bin` into `folder`.

    Raises:
        DataError: a worker died.
        TokenizerError: a document does not survive encoding and decoding; it is named.
    """
    total = int(plan.sizes.sum())
    encoder = _Encoder(tokenizer, spool.path, token_dtype(tokenizer.vocab_size))
    count = _worker_count(workers, total)
    results = _in_one_process(_tasks(plan), encoder) if count == 1 else _in_many(_tasks(plan), encoder, count)
    with (
        stage(progress, "encoding", total),
        TokenWriter(folder / "train.bin") as train,
        TokenWriter(folder / "val.bin") as val,
        closing(results),
    ):
        for task, encoded in results:
            if encoded.failed is not None:
                raise _unencodable(spool.name(int(plan.owners[encoded.failed])), encoded.reason)
            train.write(encoded.train)
            val.write(encoded.val)
            progress.advance(int(task.sizes.sum()))
    return {"train.bin": train.record, "val.bin": val.record}


def _unencodable(name: str, reason: TokenizerError | None) -> TokenizerError:
    return TokenizerError(f"{name}: {reason.message if reason else ''}", reason.hint if reason else "")


def _worker_count(workers: int | str, total_bytes: int) -> int:
    """Return how many processes to use: `auto` starts none for what takes a second, and one per core otherwise."""
    if isinstance(workers, int):
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, 16, total_bytes // _BYTES_PER_WORKER))


def _tasks(plan: Plan) -> Iterator[Task]:
    """Cut a plan into tasks of about a megabyte."""
    first, count = 0, len(plan.sizes)
    ends = np.cumsum(plan.sizes)
    while first < count:
        base = int(ends[first] - plan.sizes[first])
        stop = int(np.searchsorted(ends, base + _TASK_BYTES, side="right"))
        stop = min(max(stop, first + 1), first + _TASK_ITEMS, count)
        part = slice(first, stop)
        yield Task(first, plan.offsets[part], plan.sizes[part], plan.validates[part], plan.ends[part])
        first = stop


def _in_one_process(tasks: Iterable[Task], encoder: _Encoder) -> Generator[tuple[Task, Encoded], None, None]:
    for task in tasks:
        yield task, encoder.encode(task)


def _in_many(tasks: Iterable[Task], encoder: _Encoder, workers: int) -> Generator[tuple[Task, Encoded], None, None]:
    """Encode in `workers` processes; results come in the order of the tasks, with a bounded number under way."""
    # Spawned, not forked: the caller may have threads (progress bars), whose locks a fork would copy half-held.
    context = multiprocessing.get_context("spawn")
    setup = (encoder.tokenizer, encoder.path, encoder.dtype.name)
    waiting: deque[tuple[Task, Future[Encoded]]] = deque()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=setup)
    try:
        for task in tasks:
            with _held_back(signal.SIGINT):
                waiting.append((task, pool.submit(_encode_in_worker, task)))
            if len(waiting) > _AHEAD * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died while encoding (out of memory, or killed)", "Try fewer: --workers 1."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _held_back(number: int) -> Iterator[None]:
    """Delay a signal for the length of a block; a process started in it is born with the signal blocked.

    Without this, a Ctrl-C in a worker's first second, before it can say that it ignores one, prints a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: _Encoder


def _start_worker(tokenizer: Tokenizer, spool_path: Path, dtype: str) -> None:
    """Prepare a worker: Ctrl-C is the parent's to handle, and a worker does not outlive it."""
    # A pool gives its workers no other place for what they keep between tasks.
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _worker = _Encoder(tokenizer, spool_path, dtype)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_in_worker(task: Task) -> Encoded:
    return _worker.encode(task)
