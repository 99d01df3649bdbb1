"""Opening data sets: every kind of damage is found before a map of the file is read, and named."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from vgpt.data.dataset import TokenFile, open_dataset
from vgpt.data.manifest import MANIFEST_NAME, Manifest
from vgpt.errors import DataError, VgptError
from vgpt.text.bpe import train_bpe


def refused(path: Path, *, verify: bool = False) -> VgptError:
    with pytest.raises(VgptError) as caught:
        open_dataset(path, verify=verify)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def edit_manifest(out: Path, **changes: object) -> None:
    tree = json.loads((out / MANIFEST_NAME).read_text())
    (out / MANIFEST_NAME).write_text(json.dumps(tree | changes))


def test_a_whole_data_set_opens(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    data = open_dataset(out, verify=True)
    assert data.manifest == manifest
    assert data.tokenizer.fingerprint == manifest.tokenizer_fingerprint
    assert len(data.train) == len(data.train.tokens) == manifest.splits["train"].tokens
    with pytest.raises(ValueError, match="read-only"):
        data.train.tokens[0] = 1


def test_a_missing_folder_or_manifest_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    assert "vgpt prepare" in refused(tmp_path / "nothing").hint
    assert "vgpt prepare" in refused(tmp_path).hint


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "other"}', "\xff"])
def test_a_manifest_that_is_none_is_refused(prepared: tuple[Path, Manifest], text: str) -> None:
    out, _ = prepared
    (out / MANIFEST_NAME).write_bytes(text.encode("latin-1"))
    assert MANIFEST_NAME in refused(out).message


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"version": 2}, "version"),
        ({"dtype": "float32"}, "dtype"),
        ({"surprise": 1}, "surprise"),
        ({"files": {}}, "train.bin"),
        ({"splits": {}}, "train.bin"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"vocab_size": 200}, "200"),
        ({"dtype": "uint32"}, "id"),
    ],
)
def test_a_manifest_that_lies_is_refused(prepared: tuple[Path, Manifest], change: dict, word: str) -> None:
    out, _ = prepared
    edit_manifest(out, **change)
    assert word in refused(out).message


@pytest.mark.parametrize("keep", [0, 1, 1001, -2, -1])
def test_a_truncated_file_is_refused_with_both_sizes(prepared: tuple[Path, Manifest], keep: int) -> None:
    out, manifest = prepared
    data = (out / "train.bin").read_bytes()[:keep]
    (out / "train.bin").write_bytes(data)
    message = refused(out).message
    assert f"{len(data):,}" in message
    assert f"{manifest.files['train.bin'].size:,}" in message


def test_a_missing_token_file_is_refused(prepared: tuple[Path, Manifest]) -> None:
    out, _ = prepared
    (out / "val.bin").unlink()
    assert "val.bin" in refused(out).message
    assert "val.bin" in refused(out, verify=True).message


def test_an_id_outside_the_vocabulary_is_refused_with_its_place(prepared: tuple[Path, Manifest]) -> None:
    out, _ = prepared
    ids = np.fromfile(out / "train.bin", dtype="<u2")
    ids[1234] = 60_000
    ids.tofile(out / "train.bin")
    message = refused(out).message
    assert "60000" in message
    assert "1,234" in message


def test_a_single_changed_byte_is_found_when_asked_to_verify(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    for name in manifest.files:
        data = bytearray((out / name).read_bytes())
        data[len(data) // 2] ^= 1
        (out / name).write_bytes(data)
        assert name in refused(out, verify=True).message
        data[len(data) // 2] ^= 1
        (out / name).write_bytes(data)
    open_dataset(out, verify=True)


def test_another_tokenizer_is_refused(prepared: tuple[Path, Manifest]) -> None:
    out, _ = prepared
    for path in train_bpe(["something else altogether " * 20], 270).save(out.parent / "other"):
        path.replace(out / path.name)
    error = refused(out)
    assert "fingerprint" in error.message


def test_a_missing_tokenizer_is_refused(prepared: tuple[Path, Manifest]) -> None:
    out, _ = prepared
    for path in out.glob("tokenizer.*"):
        path.unlink()
    assert "tokenizer" in refused(out).message


def test_random_damage_never_ends_in_anything_but_a_clear_error(prepared: tuple[Path, Manifest]) -> None:
    out, manifest = prepared
    chance = random.Random(7)
    whole = {name: (out / name).read_bytes() for name in [*manifest.files, MANIFEST_NAME]}
    for _ in range(120):
        name = chance.choice(list(whole))
        data = bytearray(whole[name])
        if chance.random() < 0.5:
            del data[chance.randrange(len(data)) :]
        else:
            data[chance.randrange(len(data))] = chance.randrange(256)
        (out / name).write_bytes(data)
        try:
            opened = open_dataset(out)
        except VgptError:
            pass
        else:
            assert int(opened.train.tokens.max()) < opened.manifest.vocab_size
        (out / name).write_bytes(whole[name])


def test_a_large_file_is_checked_in_samples_and_fully_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vgpt.data.dataset._FULL_CHECK_IDS", 1000)
    monkeypatch.setattr("vgpt.data.dataset._SAMPLE_IDS", 10)
    monkeypatch.setattr("vgpt.data.dataset._SAMPLE_BLOCKS", 5)
    path = tmp_path / "a.bin"
    ids = np.zeros(5000, dtype="<u2")
    ids[4999] = 300
    ids.tofile(path)
    with pytest.raises(DataError, match="4,999"):
        TokenFile(path, "uint16", 300)
    ids[4999], ids[77] = 0, 300
    ids.tofile(path)
    TokenFile(path, "uint16", 300)
    with pytest.raises(DataError, match="position 77"):
        TokenFile(path, "uint16", 300, full=True)


def test_a_foreign_file_of_no_whole_number_of_ids_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    with pytest.raises(DataError, match="no whole number of uint16"):
        TokenFile(path, "uint16", 300)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        TokenFile(path, "uint16", 300)


def test_the_identity_of_a_data_set_is_its_tokens_and_tokenizer(prepared: tuple[Path, Manifest]) -> None:
    _, manifest = prepared
    renamed = manifest.model_copy(update={"source": manifest.source.model_copy(update={"inputs": ("else",)})})
    assert renamed.digest == manifest.digest
    assert manifest.model_copy(update={"tokenizer_fingerprint": "0"}).digest != manifest.digest
