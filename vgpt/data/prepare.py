"""From text to a data set: read, clean, split, train or open a tokenizer, encode, and put the folder in place."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vgpt.data.dataset import open_dataset
from vgpt.data.encode import encode_plan, token_dtype
from vgpt.data.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    SourceRecord,
    SplitCounts,
    SplitRecord,
    StepRecord,
    record_file,
)
from vgpt.data.progress import Progress, Silent, stage
from vgpt.data.split import Plan, plan_split
from vgpt.data.spool import Spool, write_spool
from vgpt.data.staging import SPOOL_NAME, check_replaceable, publish, real_target, staging
from vgpt.errors import DataError, UsageError
from vgpt.files.paths import DEMO, format_name
from vgpt.formatting import flag_of
from vgpt.package import VERSION
from vgpt.settings.commands import DEFAULT_PATTERN, DEFAULT_VOCAB_SIZE, PrepareConfig
from vgpt.text.bpe import train_bpe
from vgpt.text.choose import open_tokenizer
from vgpt.text.clean import Cleaner
from vgpt.text.corpus import DEMO_VOCAB_SIZE, Corpus, demo_corpus, find_corpus, read_corpus
from vgpt.text.tokenizer import END_OF_TEXT, Tokenizer

SAMPLE_BYTES = 32 << 20


def prepare(
    inputs: Sequence[str],
    config: PrepareConfig,
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda remark: None,
) -> Manifest:
    """Make a data set of texts at `config.out`.

    The folder appears whole or not at all. One that was prepared from the same text with the same settings is left as
    it is; any other data set is only replaced with `config.overwrite`, and what is no data set never.

    Args:
        inputs: files, folders, globs, `-` for standard input; or `demo` alone for the built-in corpus.
        config: settings.
        progress: is told about the stages `reading`, `training the tokenizer` and `encoding`.
        warn: is told what a person should know of the text.

    Returns:
        The manifest of the data set that is at `config.out` now.

    Raises:
        DataError: an input cannot be read or is not text, the text is too small, or the place cannot be written.
        TokenizerError: the tokenizer cannot be trained or opened, or loses text.
    """
    progress = progress or Silent()
    corpus = _corpus(inputs)
    out = real_target(config.out)
    check_replaceable(config.out)
    tokenizer = None if config.tokenizer == "bpe" else open_tokenizer(config.tokenizer, config.vocab_dir)
    settings = _settings(config, tokenizer)
    present = None if config.overwrite else _present(out)
    if present is not None:
        _require_same(config.out, present.settings, settings)
    with staging(out) as folder:
        cleaner = Cleaner(config.steps)
        spool = _read(corpus, folder / SPOOL_NAME, cleaner, config, progress)
        if spool.marks:
            warn(_marks_remark(spool.marks))
        if present is not None:
            if present.source.digest != spool.digest:
                raise _occupied(config.out, "was prepared from another text")
            return open_dataset(out, verify=True).manifest
        plan = plan_split(spool, config.split, config.val_fraction)
        if tokenizer is None:
            tokenizer = _train(spool, plan, config, progress)
        files = encode_plan(spool, plan, tokenizer, folder, workers=config.workers, progress=progress)
        spool.path.unlink()
        files |= {path.name: record_file(path) for path in tokenizer.save(folder)}
        manifest = _manifest(inputs, corpus, config, settings, cleaner, spool, plan, tokenizer, files)
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        publish(folder, out, overwrite=config.overwrite)
    return manifest


def prepare_demo(
    out: Path, *, vocab_size: int = DEMO_VOCAB_SIZE, overwrite: bool = False, progress: Progress | None = None
) -> Manifest:
    """Make the built-in data set at `out`, or reuse the one that is there; a damaged one is made anew.

    Raises:
        DataError: `out` holds something else than the built-in corpus.
    """
    if not overwrite and (out / MANIFEST_NAME).exists():
        present = None
        with suppress(DataError):
            present = Manifest.load(out)
            if present.source.inputs == (DEMO,) and present.vocab_size == vocab_size:
                return open_dataset(out).manifest
        if present is not None and present.source.inputs != (DEMO,):
            raise _occupied(out, f"was prepared from {', '.join(present.source.inputs)}, not from the demo corpus")
        overwrite = True
    return prepare([DEMO], PrepareConfig(out=out, vocab_size=vocab_size, overwrite=overwrite), progress)


def _corpus(inputs: Sequence[str]) -> Corpus:
    if DEMO not in inputs:
        return find_corpus(inputs)
    if len(inputs) > 1:
        raise UsageError("demo is a corpus of its own", f"Leave out the other inputs; a file called demo is ./{DEMO}.")
    return demo_corpus()


def _settings(config: PrepareConfig, tokenizer: Tokenizer | None) -> dict[str, str | int | float]:
    """Return what decides the content beside the text; workers, folder and paths do not."""
    return {
        "tokenizer": tokenizer.fingerprint if tokenizer else "bpe",
        "vocab_size": tokenizer.vocab_size if tokenizer else config.vocab_size or DEFAULT_VOCAB_SIZE,
        "pattern": tokenizer.pattern if tokenizer else config.pattern or DEFAULT_PATTERN,
        "clean": config.clean,
        "val_fraction": config.val_fraction,
        "split": config.split,
    }


def _present(out: Path) -> Manifest | None:
    return Manifest.load(out) if out.is_dir() and any(out.iterdir()) else None


def _require_same(out: Path, present: dict[str, str | int | float], wanted: dict[str, str | int | float]) -> None:
    for name, value in wanted.items():
        if present.get(name) != value:
            flag = flag_of(name)
            raise _occupied(out, f"was prepared with {flag} {present.get(name)}, not {value}")


def _occupied(out: Path, why: str) -> DataError:
    return DataError(f"{out} {why}", "Name another folder with --out, or replace this one with --overwrite.")


def _read(corpus: Corpus, path: Path, cleaner: Cleaner, config: PrepareConfig, progress: Progress) -> Spool:
    with stage(progress, "reading", corpus.total_bytes):
        spool = write_spool(read_corpus(corpus, text_key=config.text_key, advance=progress.advance), path, cleaner)
    if not spool.documents:
        shown = ", ".join(corpus.files[:3]) + (", ..." if len(corpus.files) > 3 else "")
        raise DataError(f"no text in {shown}: every document is empty", "Name files that hold text.")
    return spool


def _marks_remark(marks: int) -> str:
    return (
        f"the text spells {END_OF_TEXT} {marks:,} times, which is read as letters: no document ends there. "
        "Documents that end by the token are files of their own, or lines of a .jsonl file"
    )


def _train(spool: Spool, plan: Plan, config: PrepareConfig, progress: Progress) -> Tokenizer:
    """Train on the training split, or on evenly spread stretches of it where it is large."""
    chosen = _sample(plan, SAMPLE_BYTES)
    merging, reported = False, 0

    def texts() -> Iterator[str]:
        for offset, size in zip(plan.offsets[chosen].tolist(), plan.sizes[chosen].tolist(), strict=True):
            yield spool.read(offset, size)
            progress.advance(size)

    def report(done: int, total: int) -> None:
        nonlocal merging, reported
        if not merging:
            progress.finish()
            progress.start("training the tokenizer", total, "merges")
            merging = True
        progress.advance(done - reported)
        reported = done

    vocab_size, pattern = config.vocab_size or DEFAULT_VOCAB_SIZE, config.pattern or DEFAULT_PATTERN
    with stage(progress, "reading for the tokenizer", int(plan.sizes[chosen].sum())):
        return train_bpe(texts(), vocab_size, pattern=pattern, progress=report)


def _sample(plan: Plan, limit: int) -> np.ndarray:
    """Return the stretches to learn from: all of the training split, or evenly spread ones of about `limit` bytes."""
    training = np.flatnonzero(~plan.validates)
    sizes = plan.sizes[training].tolist()
    total = sum(sizes)
    if total <= limit:
        return training
    taken = passed = 0
    chosen: list[bool] = []
    for size in sizes:
        # What was taken keeps pace with what was passed, so it overshoots the limit by one stretch at most.
        chosen.append(taken * total < passed * limit)
        taken += size if chosen[-1] else 0
        passed += size
    return training[chosen]


def _manifest(
    inputs: Sequence[str],
    corpus: Corpus,
    config: PrepareConfig,
    settings: dict[str, str | int | float],
    cleaner: Cleaner,
    spool: Spool,
    plan: Plan,
    tokenizer: Tokenizer,
    files: dict[str, FileRecord],
) -> Manifest:
    dtype = token_dtype(tokenizer.vocab_size)
    return Manifest(
        vgpt_version=VERSION,
        dtype=dtype,
        vocab_size=tokenizer.vocab_size,
        tokenizer_name=tokenizer.name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        splits={
            "train": _counts(plan, ~plan.validates, files["train.bin"], dtype),
            "val": _counts(plan, plan.validates, files["val.bin"], dtype),
        },
        files=files,
        source=SourceRecord(
            inputs=tuple(map(format_name, inputs)),
            files=len(corpus.files),
            skipped_files=corpus.skipped,
            documents=spool.documents,
            empty_documents=spool.empty,
            digest=spool.digest,
        ),
        split=SplitRecord(rule=plan.rule, val_fraction=config.val_fraction),
        cleaning=tuple(StepRecord(**asdict(count)) for count in cleaner.counts.values()),
        settings=settings,
    )


def _counts(plan: Plan, chosen: np.ndarray, record: FileRecord, dtype: str) -> SplitCounts:
    return SplitCounts(
        documents=int(plan.ends[chosen].sum()),
        tokens=record.size // np.dtype(dtype).itemsize,
        bytes=int(plan.sizes[chosen].sum()),
    )
