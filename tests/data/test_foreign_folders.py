"""Where a data set may go: through links, never over what vgpt did not write, and what is said where it may not."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vgpt.data.dataset import open_dataset
from vgpt.data.manifest import MANIFEST_NAME, Manifest
from vgpt.data.prepare import prepare, prepare_demo
from vgpt.errors import DataError
from vgpt.settings.commands import PrepareConfig


def make(source: Path, out: Path, **settings) -> Manifest:
    return prepare([str(source)], PrepareConfig(out=out, vocab_size=300, workers=1, **settings))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FOREIGN = {
    "token files of another program": {"train.bin": b"\0\1" * 500, "val.bin": b"\0\1" * 50},
    "a tokenizer alone": {"tokenizer.json": b"{}"},
    "a manifest of something else": {"manifest.json": b'{"name": "a web page"}', "train.bin": b"xx"},
    "a damaged manifest of something else": {"manifest.json": b"{", "val.bin": b"xx"},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_vgpt_did_not_write_is_never_replaced_whatever_it_is_called(book, tmp_path, files):
    out = tmp_path / "theirs"
    out.mkdir()
    for name, data in files.items():
        (out / name).write_bytes(data)
    with pytest.raises(DataError, match="no part of a data set of vgpt's"):
        make(book, out, overwrite=True)
    with pytest.raises(DataError, match="no part of a data set of vgpt's"):
        prepare_demo(out)
    assert content(out) == files


def test_a_data_set_of_its_own_is_replaced_also_where_its_manifest_is_damaged(book, tmp_path):
    out = tmp_path / "set"
    make(book, out)
    (out / MANIFEST_NAME).write_bytes((out / MANIFEST_NAME).read_bytes()[:-40])
    make(book, out, overwrite=True)
    assert open_dataset(out, verify=True)


def test_the_demo_does_not_replace_a_damaged_data_set_of_a_person(book, tmp_path):
    out = tmp_path / "set"
    make(book, out)
    (out / "train.bin").write_bytes(b"")
    before = content(out)
    with pytest.raises(DataError, match="not from the demo corpus"):
        prepare_demo(out)
    assert content(out) == before


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN.keys())
def test_the_hint_for_a_foreign_folder_does_not_lead_into_it(tmp_path, files):
    (tmp_path / "theirs").mkdir()
    for name, data in files.items():
        (tmp_path / "theirs" / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path / "theirs")
    assert "--out" not in caught.value.hint or "theirs" not in caught.value.hint


def test_token_files_of_another_program_are_called_that(tmp_path):
    for name in ("train.bin", "val.bin"):
        (tmp_path / name).write_bytes(bytes(100))
    with pytest.raises(DataError, match="its token files are of another program"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_the_data_goes_where_it_leads(book, tmp_path, there):
    disk = tmp_path / "disk"
    disk.mkdir()
    if there:
        (disk / "big").mkdir()
    (tmp_path / "d").symlink_to(disk / "big")
    made = make(book, tmp_path / "d")
    assert (tmp_path / "d").is_symlink()
    assert open_dataset(disk / "big").manifest == made
    again = make(book, tmp_path / "d", overwrite=True)
    assert (tmp_path / "d").is_symlink()
    assert again == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.txt", "d", "disk"]


def test_the_folder_that_one_stands_in_is_not_renamed_away(book, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError, match="is the folder you stand in"):
        make(book, Path())
    assert os.getcwd() == str(tmp_path / "here")


def test_folders_that_only_look_like_left_overs_are_not_swept_away(book, tmp_path):
    names = [".set.old-2023", ".set.old-0123abcd", ".set.tmp-backup__", ".set.tmp-abcd1234"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "diary.txt").write_text("dear")
        os.utime(tmp_path / name, (0, 0))
    make(book, tmp_path / "set")
    assert all((tmp_path / name / "diary.txt").read_text() == "dear" for name in names)


def test_a_link_that_is_called_like_a_left_over_is_not_followed(book, tmp_path):
    other = tmp_path / "other"
    make(book, other)
    (tmp_path / ".set.old-0123abcd").symlink_to(other)
    make(book, tmp_path / "set")
    assert open_dataset(other)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who may not read")
@pytest.mark.parametrize("name", ["train.bin", "manifest.json", "tokenizer.json"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(book, name):
    # pytest's own folders are closed to others.
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    make(book, place / "set")
    shutil.copytree(place / "set", place / "readable")
    (place / "set" / name).chmod(0)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from vgpt.data.dataset import open_dataset; from vgpt.errors import VgptError\n"
        "open_dataset(Path(sys.argv[1]).with_name('readable'))  # everything is imported while that is allowed\n"
        "os.setuid(65534)\n"
        "try: open_dataset(Path(sys.argv[1]))\n"
        "except VgptError as error: print(error)"
    )
    words = [sys.executable, "-c", code, str(place / "set")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"{name}: Permission denied" in said
    assert "chmod u+r" in said
    assert "overwrite" not in said
    shutil.rmtree(place)


def test_a_name_that_is_no_utf8_is_an_input_like_any_other(book, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))
    odd.write_bytes(book.read_bytes())
    made = make(odd, tmp_path / "set")
    assert made.source.inputs[0].endswith("/\\xff.txt")
    assert make(odd, tmp_path / "set") == made
    assert open_dataset(tmp_path / "set").manifest.digest == make(book, tmp_path / "same").digest


def test_a_manifest_with_a_byte_order_mark_is_read(book, tmp_path):
    made = make(book, tmp_path / "set")
    path = tmp_path / "set" / MANIFEST_NAME
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_dataset(tmp_path / "set").manifest == made
