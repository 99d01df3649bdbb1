"""Texts as they are found: other storage types, other encodings, links, pipes, names of any bytes."""

import gzip
import json
import os
import shlex
import subprocess
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vgpt.errors import DataError
from vgpt.text.corpus import Corpus, find_corpus, read_corpus

TEXTS = ["one", "", "drei – ß", "one"]


def documents(*inputs: object, text_key: str = "text") -> list[str]:
    found: list[str] = []
    parts: list[str] = []
    for piece in read_corpus(find_corpus([str(item) for item in inputs]), text_key=text_key):
        parts.append(piece.text)
        if piece.last:
            found.append("".join(parts))
            parts = []
    return found


def write_parquet(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
        *([pa.string_view()] if hasattr(pa, "string_view") else []),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
    ],
    ids=str,
)
def test_strings_are_read_however_a_parquet_file_stores_them(tmp_path, kind):
    values = [text.encode() for text in TEXTS] if "binary" in str(kind) else TEXTS
    if isinstance(kind, pa.DictionaryType):
        column = pa.array(TEXTS).dictionary_encode().cast(kind)
    else:
        column = pa.array([*values], kind)
    assert documents(write_parquet(tmp_path / "a.parquet", pa.table({"text": column}))) == TEXTS


def test_null_is_an_empty_document_in_parquet_and_in_json_lines(tmp_path):
    table = pa.table({"text": pa.array(["a", None, "b"])})
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": "b"}\n')
    assert documents(write_parquet(tmp_path / "a.parquet", table)) == documents(tmp_path / "a.jsonl") == ["a", "", "b"]


def test_two_columns_of_one_name_are_named(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(DataError, match="2 columns called 'text'"):
        documents(write_parquet(tmp_path / "a.parquet", table))


def test_a_repeated_column_beside_the_text_does_no_harm(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array(["a"]), pa.array([2])], names=["n", "text", "n"])
    assert documents(write_parquet(tmp_path / "a.parquet", table)) == ["a"]


def test_the_column_of_the_text_is_told_from_those_whose_names_go_on_after_a_dot(tmp_path):
    table = pa.table({"text.raw": ["wrong"], "text": ["right"]})
    path = write_parquet(tmp_path / "a.parquet", table)
    assert documents(path) == ["right"]
    assert documents(path, text_key="text.raw") == ["wrong"]


def test_a_column_without_text_names_those_that_have_some(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", pa.table({"text": [1, 2], "body": ["a", "b"]}))
    with pytest.raises(DataError, match="holds int64, not strings") as caught:
        documents(path)
    assert "'body'" in caught.value.hint


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()], ids=str)
def test_bytes_that_are_no_utf8_are_named_by_their_row(tmp_path, kind):
    data = b"finecaf\xe9"
    offsets = pa.array([0, 4, 8], pa.int32()).buffers()[1]
    column = pa.Array.from_buffers(kind, 2, [None, offsets, pa.py_buffer(data)])
    path = write_parquet(tmp_path / "a.parquet", pa.table({"text": column}))
    with pytest.raises(DataError, match=r"a\.parquet:2 is no UTF-8 text: byte 0xe9"):
        documents(path)


def test_an_integer_of_thousands_of_digits_in_another_key_is_no_fault(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": ' + "1" * 6000 + ', "text": "a"}\n')
    assert documents(tmp_path / "a.jsonl") == ["a"]


def test_byte_order_marks_of_joined_files_are_no_part_of_json_lines(tmp_path):
    line = json.dumps({"text": "ä"}, ensure_ascii=False).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes((b"\xef\xbb\xbf" + line) * 2)
    assert documents(tmp_path / "a.jsonl") == ["ä", "ä"]


TEXT = "Un café, naïve señor – “voilà”.\nZwei Größen, 12 €.\n"


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("cp1252", "a b.txt"),
        ("utf-16", "a.txt"),
        ("utf-16-le", "it's.md"),
        ("utf-16-be", "a.txt"),
        ("utf-32", "a.txt"),
        ("cp1252", "a.txt.gz"),
        ("utf-16", "a.txt.gz"),
    ],
)
def test_the_hint_for_another_encoding_leads_to_the_right_text(tmp_path, monkeypatch, encoding, name):
    monkeypatch.chdir(tmp_path)
    content = TEXT.encode(encoding)
    Path(name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match="no UTF-8 text") as caught:
        documents(name)
    hint = caught.value.hint
    start = min(place for word in ("iconv -f", "gunzip -c") if (place := hint.find(word)) >= 0)
    command = hint[start:].partition("; name any other")[0]
    subprocess.run(command, shell=True, check=True)
    assert documents(shlex.split(command)[-1]) == [TEXT]


def test_what_is_no_text_in_any_encoding_is_said_to_be_none(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(DataError, match="NUL byte") as caught:
        documents(tmp_path / "a.txt")
    assert "iconv" not in caught.value.hint
    (tmp_path / "train.bin").write_bytes(bytes(2000))
    with pytest.raises(DataError, match="it is not text") as caught:
        documents(tmp_path / "train.bin")
    assert "vgpt prepare -" not in caught.value.hint


def test_standard_input_in_another_encoding_gets_a_hint_without_a_file_of_that_name(monkeypatch):
    import io
    from types import SimpleNamespace

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode("cp1252"))))
    with pytest.raises(DataError, match="standard input") as caught:
        list(read_corpus(Corpus(("-",))))
    assert "vgpt prepare -" in caught.value.hint
    assert "standard input" not in caught.value.hint


@pytest.fixture
def linked(tmp_path):
    """Folders with links: to another folder, to a parent, to itself twice, to nowhere, to a file."""
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    (corpus / "z").mkdir(parents=True)
    (other / "deep").mkdir(parents=True)
    (corpus / "z" / "a.txt").write_text("in z")
    (other / "b.txt").write_text("behind a link")
    (other / "deep" / "c.txt").write_text("deep behind a link")
    (tmp_path / "d.txt").write_text("a linked file")
    (corpus / "again").symlink_to(corpus / "z")
    (corpus / "link").symlink_to(other)
    (corpus / "link2").symlink_to(other)
    (corpus / "up").symlink_to(corpus)
    (other / "back").symlink_to(corpus)
    (corpus / "d.txt").symlink_to(tmp_path / "d.txt")
    (corpus / "nowhere.txt").symlink_to(tmp_path / "gone.txt")
    return corpus


def test_folders_behind_links_are_read_once_and_links_to_nowhere_are_counted(linked):
    found = find_corpus([str(linked)])
    assert sorted(documents(linked)) == ["a linked file", "behind a link", "deep behind a link", "in z"]
    assert str(linked / "z" / "a.txt") in found.files, "what is there itself keeps its own name"
    assert found.skipped == 1


def test_a_folder_of_links_alone_is_a_corpus(linked, tmp_path):
    only = tmp_path / "only"
    only.mkdir()
    (only / "x").symlink_to(tmp_path / "other" / "deep")
    assert documents(only) == ["deep behind a link"]


def test_a_quoted_glob_means_what_the_shell_would_make_of_it(linked):
    assert sorted(documents(f"{linked}/*")) == sorted(documents(*sorted(linked.glob("[!n]*"))))


def test_a_link_to_nowhere_that_is_named_is_an_error_that_says_so(linked):
    with pytest.raises(DataError, match=r"is a link to nowhere: .*gone\.txt"):
        documents(linked / "nowhere.txt")


def test_an_input_that_cannot_be_read_is_blamed_and_not_the_output(tmp_path):
    # Its first page is not mapped: reading it fails, as a bad disk does.
    (tmp_path / "bad.txt").symlink_to("/proc/self/mem")
    with pytest.raises(DataError, match=r"cannot read .*bad\.txt: Input/output error"):
        documents(tmp_path / "bad.txt")


@pytest.mark.parametrize("name", ["pipe.txt", "pipe"])
def test_a_pipe_is_read_forward(tmp_path, name):
    pipe = tmp_path / name
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("through a pipe\n" * 5))
    writer.start()
    try:
        told: list[int] = []
        corpus = find_corpus([str(pipe)])
        assert corpus.total_bytes == 0
        pieces = list(read_corpus(corpus, advance=told.append))
    finally:
        writer.join()
    assert "".join(piece.text for piece in pieces) == "through a pipe\n" * 5


def test_a_pipe_of_parquet_is_refused_with_the_way_out(tmp_path):
    pipe = tmp_path / "a.parquet"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b""))
    writer.start()
    with pytest.raises(DataError, match="is a pipe"):
        documents(pipe)
    writer.join()


def test_a_name_that_begins_with_a_tilde_is_a_file_before_it_is_a_person(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("~nobody-of-this-name.txt").write_text("mine")
    assert documents("~nobody-of-this-name.txt") == ["mine"]
    with pytest.raises(DataError, match="nobody here is called"):
        documents("~nobody-of-this-name/a.txt")
