"""Tokenizer files of other programs: the same ids as their own library gives, or a refusal that says why."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from vgpt.errors import TokenizerError
from vgpt.text.bpe import train_bpe
from vgpt.text.gpt2 import load_gpt2
from vgpt.text.tokenizer import Tokenizer
from vgpt.text.tokenizer_json import BYTE_ALPHABET

TEXT = "the cat sat on the mat, and the other cat sat after it\n" * 20
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@pytest.fixture
def saved(tmp_path) -> Path:
    train_bpe([TEXT], 280).save(tmp_path / "own")
    return tmp_path / "own" / "tokenizer.json"


def foreign(saved: Path, change) -> Path:
    """Write the same tokenizer as another program would, changed."""
    document = json.loads(saved.read_text())
    del document["model"]["vgpt"]
    change(document)
    saved.write_text(json.dumps(document))
    return saved


def test_tokens_that_are_found_in_any_text_are_refused(saved):
    def add(document):
        first = len(document["model"]["vocab"])
        document["added_tokens"] += [
            {"id": first + n, "content": " " * (n + 2), "special": False, **FLAGS} for n in range(29)
        ]

    with pytest.raises(TokenizerError, match="29 of its tokens are found in any text before pairs are merged: '  '"):
        Tokenizer.load(foreign(saved, add))


def test_the_library_itself_finds_such_tokens_in_any_text(saved):
    """The reason for the refusal, from the other side."""
    tokenizers = pytest.importorskip("tokenizers")
    plain = tokenizers.Tokenizer.from_file(str(saved)).encode("cat  sat").ids
    assert plain == Tokenizer.load(saved).encode("cat  sat")

    def add(document):
        document["added_tokens"].append({"id": 280, "content": "  ", "special": False, **FLAGS})

    assert tokenizers.Tokenizer.from_file(str(foreign(saved, add))).encode("cat  sat").ids != plain


@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip"])
def test_special_tokens_with_a_rule_of_their_own_are_refused(saved, flag):
    with pytest.raises(TokenizerError, match=f"rule of its own .{flag}"):
        Tokenizer.load(foreign(saved, lambda document: document["added_tokens"][0].update({flag: True})))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("truncation", {"max_length": 8, "strategy": "LongestFirst", "stride": 0}, "cuts texts off"),
        ("model.end_of_word_suffix", "</w>", "no plain BPE model"),
        ("model.continuing_subword_prefix", "##", "no plain BPE model"),
    ],
)
def test_what_would_give_other_ids_is_refused(saved, name, value, words):
    def change(document):
        table, _, key = name.rpartition(".")
        (document[table] if table else document)[key] = value

    with pytest.raises(TokenizerError, match=words):
        Tokenizer.load(foreign(saved, change))


def test_special_tokens_at_the_beginning_are_said_to_be_there(saved):
    def first(document):
        model = document["model"]
        model["vocab"] = {token: i + 1 for token, i in model["vocab"].items() if token != "<|endoftext|>"}
        model["vocab"]["<|endoftext|>"] = document["added_tokens"][0]["id"] = 0

    with pytest.raises(TokenizerError, match=r"special tokens come first.*add_special_tokens") as caught:
        Tokenizer.load(foreign(saved, first))
    assert "merge 0" not in caught.value.message


def test_the_remedy_for_special_tokens_at_the_beginning_works(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([TEXT], trainer)
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path / "tokenizer.json").encode("the cat, the dog") == made.encode("the cat, the dog").ids


def test_a_byte_order_mark_before_a_tokenizer_is_no_content(saved, tmp_path):
    plain = Tokenizer.load(saved)
    for name in ("tokenizer.json", "tokenizer.model"):
        marked = tmp_path / name
        marked.write_bytes(b"\xef\xbb\xbf" + saved.with_name(name).read_bytes())
        assert Tokenizer.load(marked) == plain


def test_byte_order_marks_before_gpt2s_files_leave_only_their_content_to_be_judged(tmp_path):
    ids = {character: i for i, character in enumerate(BYTE_ALPHABET)} | {"<|endoftext|>": 256}
    (tmp_path / "encoder.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(ids).encode())
    (tmp_path / "vocab.bpe").write_bytes(b"\xef\xbb\xbf#version: 0.2\n")
    with pytest.raises(TokenizerError, match="do not hold GPT-2's published vocabulary"):
        load_gpt2(tmp_path)


def test_a_million_letters_without_a_space_are_learned_from_with_minbpes_merges():
    """Naive merges on a short text of the same kind; seconds, not minutes, on a long one (no quadratic work)."""
    import random

    chance = random.Random(5)
    for alphabet in ("a", "ab", "acgt"):
        text = "".join(chance.choices(alphabet, k=600))
        wanted = naive_merges(text, 20)
        assert train_bpe([text], 257 + len(wanted), pattern=r"[\s\S]+").merges == wanted
    long = "".join(chance.choices("acgt", k=100_000))
    before = cpu_seconds()
    train_bpe([long], 600)
    assert cpu_seconds() - before < 2  # 0.2 s here; recounting whole chunks took 4 s


def cpu_seconds() -> float:
    import time

    return time.process_time()


def naive_merges(text: str, wanted: int) -> list[tuple[int, int]]:
    """As minbpe does: count every pair, merge the most frequent, of equals the first."""
    ids, merges = list(text.encode()), []
    for number in range(wanted):
        counts: dict[tuple[int, int], int] = {}
        for pair in pairwise(ids):
            counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        pair = max(counts, key=counts.__getitem__)
        merges.append(pair)
        made, at = [], 0
        while at < len(ids):
            both = at + 1 < len(ids) and (ids[at], ids[at + 1]) == pair
            made.append(256 + number if both else ids[at])
            at += 2 if both else 1
        ids = made
    return merges


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE"}}'),
        ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"),
        ("tokenizer.vocab", b"<unk>\t0\n"),
    ],
)
def test_a_tokenizer_of_another_program_is_not_replaced(tmp_path, name, content):
    own = train_bpe([TEXT], 270)
    own.save(tmp_path)
    own.save(tmp_path)
    (tmp_path / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TokenizerError, match=f"not to be replaced: {name}"):
        own.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_tokenizer_of_a_data_set_is_not_replaced(tmp_path):
    own = train_bpe([TEXT], 270)
    own.save(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not to be replaced"):
        own.save(tmp_path)
