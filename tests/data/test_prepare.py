"""Preparation: lossless, deterministic, the same for any number of workers, split by the text alone."""

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from vgpt.data.dataset import Dataset, open_dataset
from vgpt.data.encode import token_dtype
from vgpt.data.manifest import MANIFEST_NAME, Manifest
from vgpt.data.prepare import prepare, prepare_demo
from vgpt.errors import DataError, TokenizerError, UsageError
from vgpt.settings.commands import PrepareConfig
from vgpt.text.chunks import Chunker
from vgpt.text.tokenizer import Tokenizer


def texts_of(data: Dataset, split: str) -> list[str]:
    """Decode the documents of a split, taking the file apart at the ends of text."""
    ids = getattr(data, split).tokens
    ends = np.flatnonzero(ids == data.tokenizer.end_of_text)
    assert ends[-1] == len(ids) - 1
    return [data.tokenizer.decode(part) for part in np.split(ids, ends + 1)[:-1]]


def bodies_of(data: Dataset, split: str) -> list[str]:
    """Decode the documents of a split without their ends of text."""
    return [text.removesuffix("<|endoftext|>") for text in texts_of(data, split)]


def written(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_document_is_in_one_split_whole_and_in_order(stories: Path, prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    data = open_dataset(out, verify=True)
    train, val = bodies_of(data, "train"), bodies_of(data, "val")
    originals = written(stories)
    assert sorted(train + val) == sorted(originals)
    assert train == [text for text in originals if text in set(train)]
    assert manifest.split.rule == "documents"
    assert 5 <= len(val) <= 40
    assert manifest.splits["train"].documents == len(train)
    assert manifest.splits["val"].bytes == sum(len(text.encode()) for text in val)
    assert manifest.splits["val"].tokens == len(data.val)


def test_the_files_are_bare_little_endian_ids(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    raw = np.frombuffer((out / "train.bin").read_bytes(), dtype="<u2")
    tokenizer = Tokenizer.load(out)
    assert manifest.dtype == "uint16"
    assert raw.size == manifest.splits["train"].tokens
    assert sum(tokenizer.byte_lengths()[raw]) == manifest.splits["train"].bytes


def test_a_vocabulary_above_65536_is_written_as_uint32() -> None:
    assert [token_dtype(size) for size in (50_257, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]


def test_the_manifest_survives_being_written_and_read(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    assert Manifest.load(out) == manifest
    assert set(manifest.files) == {path.name for path in out.iterdir()} - {MANIFEST_NAME}


@pytest.mark.parametrize("source", ["stories", "book"])
def test_the_result_is_the_same_bytes_for_any_number_of_workers(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vgpt.data.encode._TASK_BYTES", 2000)
    path = request.getfixturevalue(source)
    for workers in (1, 2, 3):
        prepare([str(path)], PrepareConfig(out=tmp_path / str(workers), vocab_size=300, workers=workers))
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "3")


def test_a_book_is_split_at_a_line_near_its_end(book: Path, tmp_path: Path) -> None:
    manifest = prepare([str(book)], PrepareConfig(out=tmp_path / "set", vocab_size=300, val_fraction=0.2))
    data = open_dataset(tmp_path / "set")
    (train,), (val,) = bodies_of(data, "train"), bodies_of(data, "val")
    assert train + val == book.read_text(encoding="utf-8")
    assert train.endswith("\n")
    assert manifest.split.rule == "tail"
    assert abs(len(val) / len(train + val) - 0.2) < 0.01


def test_a_few_documents_each_give_their_tail(tmp_path: Path, stories: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    for number, text in enumerate(written(stories)[:5]):
        (folder / f"{number}.txt").write_text(text * 20, encoding="utf-8")
    prepare([str(folder)], PrepareConfig(out=tmp_path / "set", vocab_size=280))
    data = open_dataset(tmp_path / "set")
    train, val = bodies_of(data, "train"), bodies_of(data, "val")
    assert [head + tail for head, tail in zip(train, val, strict=True)] == [t * 20 for t in written(stories)[:5]]


def test_adding_files_moves_no_document_to_the_other_split(stories: Path, tmp_path: Path) -> None:
    lines = stories.read_text(encoding="utf-8").splitlines(keepends=True)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(lines[50:120]), encoding="utf-8")
    splits = []
    for name, inputs in (("few", [few]), ("all", [stories])):
        prepare([str(path) for path in inputs], PrepareConfig(out=tmp_path / name, vocab_size=280, split="documents"))
        data = open_dataset(tmp_path / name)
        splits.append((set(bodies_of(data, "train")), set(bodies_of(data, "val"))))
    (few_train, few_val), (all_train, all_val) = splits
    assert few_train < all_train
    assert few_val < all_val


def test_a_document_in_pieces_has_the_tokens_of_the_whole(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare([str(book)], PrepareConfig(out=tmp_path / "whole", vocab_size=300))
    monkeypatch.setattr(Chunker.__init__, "__defaults__", (1000,))
    prepare([str(book)], PrepareConfig(out=tmp_path / "chunks", vocab_size=300))
    assert files_of(tmp_path / "whole")["val.bin"] == files_of(tmp_path / "chunks")["val.bin"]
    assert files_of(tmp_path / "whole")["train.bin"] == files_of(tmp_path / "chunks")["train.bin"]


def test_all_formats_hold_the_same_documents(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = written(stories)
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(stories.read_bytes()))
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, text in enumerate(texts):
        suffix = (".txt", ".md", ".py", ".txt.gz")[number % 4]
        data = text.encode()
        (folder / f"{number:03}{suffix}").write_bytes(gzip.compress(data) if suffix == ".txt.gz" else data)
    digests = set()
    for name in ("stories.jsonl", "a.parquet", "a.jsonl.gz", "folder"):
        config = PrepareConfig(out=tmp_path / f"set-{name}", vocab_size=300)
        digests.add(prepare([str(tmp_path / name)], config).digest)
    assert len(digests) == 1


def test_standard_input_is_prepared_like_a_file(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare([str(book)], PrepareConfig(out=tmp_path / "a", vocab_size=300))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(book.read_bytes())))
    assert prepare(["-"], PrepareConfig(out=tmp_path / "b", vocab_size=300)).digest == first.digest


def test_cleaning_is_done_counted_and_reported(tmp_path: Path, stories: Path) -> None:
    path = tmp_path / "dirty.jsonl"
    texts = written(stories)
    rows = [texts[0] + "\x00", texts[1] + "e\u0301", texts[2].replace("\n", "  \r\n"), *texts, "", "\x07"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
    manifest = prepare([str(path)], PrepareConfig(out=tmp_path / "set", vocab_size=280, clean="all"))
    report = {step.step: (step.documents, step.characters) for step in manifest.cleaning}
    assert report == {
        "control": (2, 2),
        "nfc": (1, 1),
        "whitespace": (1, 3 * texts[2].count("\n")),
        "dedup": (2, len(texts[0] + texts[2])),
    }
    assert manifest.source.empty_documents == 2
    data = open_dataset(tmp_path / "set")
    assert sorted(bodies_of(data, "train") + bodies_of(data, "val")) == sorted([texts[1] + "é", *texts])


def test_without_cleaning_every_byte_is_kept(tmp_path: Path) -> None:
    odd = "tab\t nul-free \x01\x7f e\u0301 \r\n\r\n\n\n\n  trailing  \n<|endoftext|> ½ 👩‍👩‍👧 \ufeff" * 40
    path = tmp_path / "odd.txt"
    path.write_bytes(odd.encode())
    prepare([str(path)], PrepareConfig(out=tmp_path / "set", vocab_size=260))
    data = open_dataset(tmp_path / "set")
    ids = np.concatenate([data.train.tokens, data.val.tokens])
    kept = data.tokenizer.decode_bytes(ids[ids != data.tokenizer.end_of_text])
    assert kept == odd.encode()


def test_a_pattern_that_loses_text_is_refused_and_the_document_named(tmp_path: Path, book: Path) -> None:
    with book.open("a", encoding="utf-8") as stream:
        stream.write("Five €.\n")  # in the validation text, which the tokenizer is not trained on
    for workers in (1, 2):
        config = PrepareConfig(out=tmp_path / "set", vocab_size=280, pattern=r"[\x00-\x7f]{1,9}", workers=workers)
        with pytest.raises(TokenizerError, match=r"book\.txt"):
            prepare([str(book)], config)
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]


def test_a_saved_tokenizer_is_used_as_it_is(stories: Path, book: Path, prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    again = prepare([str(book)], PrepareConfig(out=out.parent / "other", tokenizer=str(out)))
    assert again.tokenizer_fingerprint == manifest.tokenizer_fingerprint
    assert again.digest != manifest.digest


def test_the_same_text_and_settings_leave_a_data_set_as_it_is(stories: Path, prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare([str(stories)], PrepareConfig(out=out, vocab_size=300)) == manifest
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_data_set_of_other_settings_or_text_is_only_replaced_on_request(
    stories: Path, book: Path, prepared: tuple[Path, Manifest]
) -> None:
    out, manifest = prepared
    with pytest.raises(DataError, match="--vocab-size 300, not 310") as caught:
        prepare([str(stories)], PrepareConfig(out=out, vocab_size=310))
    assert "--overwrite" in caught.value.hint
    with pytest.raises(DataError, match="another text"):
        prepare([str(book)], PrepareConfig(out=out, vocab_size=300))
    assert open_dataset(out, verify=True).manifest == manifest
    replaced = prepare([str(book)], PrepareConfig(out=out, vocab_size=300, overwrite=True))
    assert open_dataset(out, verify=True).manifest == replaced != manifest


def test_what_is_no_data_set_is_never_replaced(book: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    prepare([str(book)], PrepareConfig(out=out, vocab_size=300))  # an empty folder is fine
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="thesis"):
        prepare([str(book)], PrepareConfig(out=out, vocab_size=310, overwrite=True))
    with pytest.raises(DataError, match="is a file"):
        prepare([str(book)], PrepareConfig(out=book, overwrite=True))
    assert (out / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "every document is empty"), ("\ufeff", "every document is empty"), ("a", "too small to split")],
)
def test_too_little_text_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        prepare([str(path)], PrepareConfig(out=tmp_path / "set", vocab_size=257))
    assert caught.value.hint
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_vocabulary_larger_than_the_text_allows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc " * 30)
    with pytest.raises(TokenizerError, match="larger than the text allows"):
        prepare([str(tmp_path / "a.txt")], PrepareConfig(out=tmp_path / "set", vocab_size=4000))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clean": "nfd"}, "no cleaning step 'nfd'"),
        ({"val_fraction": 1.5}, "less than 1"),
        ({"vocab_size": 100}, "257"),
        ({"tokenizer": "gpt2", "vocab_size": 300}, "--vocab-size is for a trained tokenizer"),
        ({"vocab_dir": "x"}, "--vocab-dir goes with --tokenizer gpt2"),
        ({"workers": 0}, "1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PrepareConfig(**settings)


def test_the_demo_corpus_is_made_once_and_made_anew_when_damaged(tmp_path: Path, book: Path) -> None:
    out = tmp_path / "demo"
    manifest = prepare_demo(out, vocab_size=300)
    assert 2_000_000 < sum(split.bytes for split in manifest.splits.values()) < 4_000_000
    assert manifest.split.rule == "documents"
    stamp = (out / "train.bin").stat().st_mtime_ns
    assert prepare_demo(out, vocab_size=300) == manifest
    assert (out / "train.bin").stat().st_mtime_ns == stamp
    with (out / "train.bin").open("r+b") as stream:
        stream.truncate(100)
    assert prepare_demo(out, vocab_size=300) == manifest
    assert open_dataset(out, verify=True).manifest == manifest


def test_the_demo_corpus_replaces_no_other_data_set(prepared: tuple[Path, Manifest]) -> None:
    out, _ = prepared
    with pytest.raises(DataError, match="not from the demo corpus"):
        prepare_demo(out)
    with pytest.raises(UsageError, match="corpus of its own"):
        prepare(["demo", "x.txt"], PrepareConfig(out=out))


def test_progress_names_the_stages_and_adds_up(stories: Path, tmp_path: Path) -> None:
    events: list[list] = []

    class Listener:
        def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
            events.append([stage, total, 0, unit, False])

        def advance(self, amount: int) -> None:
            events[-1][2] += amount

        def finish(self) -> None:
            assert not events[-1][4]
            events[-1][4] = True

    prepare([str(stories)], PrepareConfig(out=tmp_path / "set", vocab_size=300), Listener())
    names = ["reading", "reading for the tokenizer", "training the tokenizer", "encoding"]
    assert [event[0] for event in events] == names
    assert [event[3] for event in events] == ["bytes", "bytes", "merges", "bytes"]
    assert all(total == done and finished for _, total, done, _, finished in events)
