"""Reading corpora: every format, every way to name inputs, and every input that is not text."""

import gzip
import io
import json
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vgpt.errors import DataError
from vgpt.text.chunks import Chunker, find_seam
from vgpt.text.corpus import find_corpus, read_corpus
from vgpt.text.patterns import Splitter, resolve_pattern

TEXT = "First line, ünïcode 😀.\n\n\tSecond\r\nthird  line\n"


def documents(*inputs: object, text_key: str = "text") -> list[str]:
    found: list[list[str]] = [[]]
    for chunk in read_corpus(find_corpus([str(item) for item in inputs]), text_key=text_key):
        found[-1].append(chunk.text)
        if chunk.last:
            found.append([])
    return ["".join(parts) for parts in found[:-1]]


def refused(*inputs: object, text_key: str = "text") -> DataError:
    with pytest.raises(DataError) as caught:
        documents(*inputs, text_key=text_key)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("suffix", [".txt", ".md", ".py", ".txt.gz", ".md.gz", ".py.gz", ".TXT"])
def test_a_plain_file_is_one_document_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    data = TEXT.encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    assert documents(path) == [TEXT]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_jsonl_file_is_one_document_per_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    data = "\n".join(json.dumps({"id": i, "text": f"{TEXT}{i}"}) for i in range(3)).replace("}\n", "}\n\n").encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    assert documents(path) == [f"{TEXT}{i}" for i in range(3)]


def test_a_parquet_file_is_one_document_per_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [f"{TEXT}{i}" for i in range(600)]
    pq.write_table(pa.table({"body": [*rows, None], "n": range(601)}), path, row_group_size=100)
    assert documents(path, text_key="body") == [*rows, ""]
    error = refused(path)
    assert "'text'" in error.message
    assert "body, n" in error.message
    assert "int64" in refused(path, text_key="n").message


def test_standard_input_is_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert documents("-") == [TEXT]


def test_a_byte_order_mark_at_the_start_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert documents(tmp_path / "a.txt") == ["abc"]


def test_a_folder_is_walked_in_sorted_order_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/y.py", "a/.hidden.txt", ".git/c.txt", "picture.png", "a.bin"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    found = find_corpus([str(tmp_path)])
    assert [Path(name).name for name in found.files] == ["y.py", "z.md", "b.txt"]
    assert found.skipped == 3
    assert found.total_bytes == len("a/y.pya/z.mdb.txt")


def test_globs_are_sorted_and_no_file_comes_twice(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.png"):
        (tmp_path / name).write_text(name)
    found = find_corpus([str(tmp_path / "b.txt"), str(tmp_path / "*"), str(tmp_path)])
    assert [Path(name).name for name in found.files] == ["b.txt", "a.txt"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert documents(tmp_path / "a[1].txt") == ["x"]


def test_progress_adds_up_to_the_bytes_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 3_000_000)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "abc"}\n' * 1000))
    pq.write_table(pa.table({"text": ["abc"] * 1000}), tmp_path / "c.parquet")
    corpus = find_corpus([str(tmp_path)])
    steps: list[int] = []
    for _ in read_corpus(corpus, advance=steps.append):
        pass
    assert sum(steps) == corpus.total_bytes


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"abc\n\ndef\0ghi", ["NUL", "line 3"]),
        ("a.txt", "häßlich".encode("utf-16"), ["NUL", "line 1"]),
        ("a.txt", b"fine\nbr\xe9\n", ["UTF-8", "0xe9", "line 2"]),
        ("a.txt", b"cut \xf0\x9f", ["UTF-8", "line 1"]),
        ("a.txt.gz", b"no gzip at all", ["gzip"]),
        ("a.txt.gz", gzip.compress(bytes(range(65, 91)) * 99, mtime=0)[:-12], ["gzip"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', [":2", "JSON"]),
        ("a.jsonl", b'{"text": "a"}\n["b"]\n', [":2", "list"]),
        ("a.jsonl", b'{"txet": "a"}\n', [":1", "'txet'", "did you mean"]),
        ("a.jsonl", b'{"text": 3}\n', [":1", "number"]),
        ("a.jsonl", b'{"text": "\\ud800"}\n', [":1", "surrogate"]),
        ("a.jsonl", b'{"text": "\xff"}\n', [":1", "UTF-8"]),
        ("a.jsonl", b"[" * 100_000, [":1", "JSON"]),
        ("a.parquet", b"no parquet", ["Parquet"]),
        ("a.pdf", b"%PDF", ["a.pdf", "format"]),
    ],
)
def test_what_is_no_text_is_refused_with_file_and_place(
    tmp_path: Path, name: str, data: bytes, words: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    error = refused(path)
    assert str(path) in error.message
    for word in words:
        assert word in error.message


def test_inputs_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "only.png").write_bytes(b"x")
    assert "no such file" in refused(tmp_path / "missing.txt").message
    assert "1 file of another kind" in refused(tmp_path).message
    assert "matches" in refused(tmp_path / "*.txt").message
    with pytest.raises(DataError, match="no input"):
        find_corpus([])


@given(st.lists(st.text(st.sampled_from("ab1 \n\r\t.é́😀"), max_size=40), max_size=12), st.integers(4, 30))
def test_pieces_put_together_are_the_text_and_none_is_too_long(blocks: list[str], limit: int) -> None:
    chunker = Chunker(limit)
    chunks = [chunk for block in blocks for chunk in chunker.feed(block)]
    assert "".join([*chunks, chunker.rest]) == "".join(blocks)
    assert all(0 < len(chunk) <= limit for chunk in chunks)


@settings(max_examples=300)
@given(st.text(st.sampled_from("abc 12.,'\nüß"), min_size=60, max_size=300), st.sampled_from(["gpt2", "gpt4"]))
def test_a_cut_at_a_seam_leaves_the_chunks_of_the_split_patterns_as_they_are(text: str, pattern: str) -> None:
    seam = find_seam(text, 0, len(text) // 2)
    around = text[max(0, seam - 2) : seam + 2]
    after_line = re.fullmatch(r"\S\n\S.", around, re.DOTALL)
    before_word = re.fullmatch(r".?\S \S", around, re.DOTALL)
    assume(after_line or before_word)
    splitter = Splitter(resolve_pattern(pattern))
    assert [*splitter.split(text[:seam]), *splitter.split(text[seam:])] == [*splitter.split(text)]


def test_seams_prefer_lines_then_words_then_anything() -> None:
    assert find_seam("one\ntwo three", 0, 10) == 4
    assert find_seam("one two three", 0, 10) == 7
    assert find_seam("a" * 20, 0, 10) == 10
    assert find_seam("one\n\n\ntwo", 0, 8) == 6


def test_a_long_line_of_jsonl_comes_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chunker.__init__, "__defaults__", (100,))
    text = "word " * 200
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "b"}))
    chunks = list(read_corpus(find_corpus([str(tmp_path / "a.jsonl")])))
    assert len(chunks) > 10
    assert [chunk.last for chunk in chunks].count(True) == 2
    assert "".join(chunk.text for chunk in chunks[:-1]) == text
    assert chunks[-1].name.endswith("a.jsonl:2")
