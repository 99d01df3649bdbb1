"""Two thousand mutations of every file that a person brings: read, or refused in words."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.mutations import fuzz
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.presets import load_preset
from vgpt.settings.study import load_study
from vgpt.settings.train import TrainConfig
from vgpt.text.bpe import train_bpe
from vgpt.text.corpus import find_corpus, read_corpus
from vgpt.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
CASES = [60, pytest.param(2000, marks=pytest.mark.slow)]
TEXT = "the cat sat on the mat, and the other cat sat after it\n" * 5


def read_text(path: Path) -> None:
    for _ in read_corpus(find_corpus([str(path)])):
        pass


def use_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer.load(path)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def load_preset_file(path: Path) -> None:
    load_settings(TrainConfig, Sources(load_preset(str(path))))


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_mutated_parquet_is_read_or_refused(tmp_path, cases, compression):
    texts = [None if i == 3 else f"{TEXT} {i}" for i in range(40)]
    table = pa.table({"id": list(range(40)), "text": pa.array(texts), "name": pa.array(texts).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet", compression=compression, row_group_size=16)
    whole = (tmp_path / "a.parquet").read_bytes()
    taken, refused = fuzz(read_text, tmp_path / "a.parquet", whole, cases)
    assert taken
    assert refused > cases / 4


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.gz"])
def test_mutated_texts_are_read_or_refused(tmp_path, cases, name):
    import gzip

    rows = [{"id": i, "text": None if i == 3 else f"{TEXT}ä – {i}", "more": [1.5, {"a": None}]} for i in range(12)]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    taken, refused = fuzz(read_text, tmp_path / name, gzip.compress(whole) if name.endswith(".gz") else whole, cases)
    assert refused > cases / 4
    assert taken or name.endswith(".gz")


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("own", [True, False])
def test_mutated_tokenizers_are_used_or_refused(tmp_path, cases, name, own):
    train_bpe([TEXT], 275).save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    if name == "tokenizer.json" and not own:  # without a fingerprint more of them come through
        document = json.loads(whole)
        del document["model"]["vgpt"]
        whole = json.dumps(document).encode()
    taken, refused = fuzz(use_tokenizer, tmp_path / name, whole, cases)
    assert taken + refused == cases
    assert refused > cases / 4


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize(
    ("read", "example"),
    [(load_preset_file, "presets/demo.toml"), (load_study, "presets/studies/demo.toml")],
    ids=["preset", "study"],
)
def test_mutated_presets_and_studies_are_read_or_refused(tmp_path, cases, read, example):
    taken, refused = fuzz(read, tmp_path / "a.toml", (ROOT / example).read_bytes(), cases)
    assert taken
    assert refused > cases / 4
