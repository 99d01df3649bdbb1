import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vgpt.errors import TokenizerError
from vgpt.text.bpe import train_bpe
from vgpt.text.choose import open_tokenizer
from vgpt.text.formats import write_model
from vgpt.text.gpt2 import load_gpt2
from vgpt.text.patterns import PATTERNS, WHOLE_TEXT
from vgpt.text.tokenizer import END_OF_TEXT, Tokenizer
from vgpt.text.vocabulary import MAX_FILE_BYTES, MAX_MERGES, Vocabulary

PLAY = (Path(__file__).parent / "data" / "play.txt").read_text(encoding="utf-8")
WORLD = (
    "Größe, naïve café; Привет, мир! 你好，世界。 שלום नमस्ते 12345 don't DON'T "
    "👩‍👩‍👧‍👦 🏳️‍🌈 🙂🙂🙂 e\u0301 é \u200d\x00\x01 ½ ⅷ １２３ ﬁ\n\t\r\n\n  aaa aaaa fin  "
)
# GPT-2's files are too large to keep beside the tests: the folder is named, or lies beside the checkout.
GPT2_DIR = Path(os.environ.get("VGPT_GPT2_VOCAB_DIR", Path(__file__).parents[2].parent / "shared" / "data" / "gpt2"))
needs_gpt2 = pytest.mark.skipif(not (GPT2_DIR / "vocab.bpe").is_file(), reason="GPT-2's vocabulary files are not here")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([PLAY, WORLD * 3], 500, special_tokens=[END_OF_TEXT, "<|user|>"])


def test_everything_saved_loads_again_from_folder_json_and_model(tokenizer, tmp_path):
    written = tokenizer.save(tmp_path / "new" / "folder")
    assert {path.name for path in written} == {"tokenizer.json", "tokenizer.model", "tokenizer.vocab"}
    for path in (tmp_path / "new" / "folder", *written[:1], written[2]):
        again = Tokenizer.load(path)
        assert again == tokenizer
        assert again.encode(WORLD) == tokenizer.encode(WORLD)
    assert Tokenizer.load(written[0]).name == tokenizer.name


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+|\W"])
def test_every_pattern_survives_both_files(pattern, tmp_path):
    tokenizer = train_bpe([PLAY, WORLD], 262, pattern=pattern)
    for path in tokenizer.save(tmp_path):
        if path.suffix != ".vocab":
            assert Tokenizer.load(path).pattern == tokenizer.pattern


def test_the_model_file_is_laid_out_as_minbpe_writes_it():
    tokenizer = train_bpe(["aaabdaaabac"], 259, pattern=r"[\s\S]+", special_tokens=[END_OF_TEXT])
    want = "minbpe v1\n[\\s\\S]+\n1\n<|endoftext|> 258\n97 97\n256 97\n"
    assert write_model(tokenizer._vocabulary) == want


def test_the_model_file_reads_back_as_minbpes_own_loader_reads_it(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    with (tmp_path / "tokenizer.model").open(encoding="utf-8") as file:
        assert file.readline().strip() == "minbpe v1"
        assert file.readline().strip() == tokenizer.pattern
        specials = dict(file.readline().strip().split() for _ in range(int(file.readline().strip())))
        assert {token: int(i) for token, i in specials.items()} == tokenizer.special_tokens
        assert [tuple(map(int, line.split())) for line in file] == tokenizer.merges


def test_a_minbpe_file_without_specials_or_pattern_gets_both(tmp_path):
    path = tmp_path / "basic.model"
    path.write_bytes(b"minbpe v1\r\n\r\n0\r\n97 97\r\n256 97\r\n")
    tokenizer = Tokenizer.load(path)
    assert tokenizer.pattern == WHOLE_TEXT
    assert tokenizer.special_tokens == {END_OF_TEXT: 258}
    assert tokenizer.encode("aaab") == [257, 98]


def test_special_ids_may_leave_a_gap(tmp_path):
    path = tmp_path / "gap.model"
    path.write_text("minbpe v1\n" + PATTERNS["gpt4"] + "\n1\n<|endoftext|> 1000\n97 97\n")
    tokenizer = Tokenizer.load(path)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (1001, 1000)
    assert tokenizer.byte_lengths()[257:].sum() == 0
    with pytest.raises(TokenizerError, match="id 500 is not in the vocabulary"):
        tokenizer.decode([500])
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved") == tokenizer


@pytest.mark.parametrize(
    ("pattern", "specials"),
    [
        (" ?\\w+|\\W ", {END_OF_TEXT: 256}),
        ("\\w+|\n|\\W", {END_OF_TEXT: 256}),
        ("\\w+|\\W", {END_OF_TEXT: 256, "<two words>": 257}),
    ],
)
def test_what_the_model_format_cannot_carry_is_refused_and_left_to_json(pattern, specials, tmp_path):
    tokenizer = Tokenizer(Vocabulary("odd", pattern, (), specials))
    with pytest.raises(TokenizerError, match="cannot be written as minbpe v1"):
        write_model(tokenizer._vocabulary)
    (tmp_path / "tokenizer.model").write_text("minbpe v1\nof an earlier tokenizer")
    assert {path.name for path in tokenizer.save(tmp_path)} == {"tokenizer.json", "tokenizer.vocab"}
    assert not (tmp_path / "tokenizer.model").exists()
    assert Tokenizer.load(tmp_path) == tokenizer


def test_the_listing_shows_tokens_and_how_they_were_made(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    lines = (tmp_path / "tokenizer.vocab").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "[\\u0000] 0"
    assert lines[97] == "[a] 97"
    left, right = tokenizer.merges[0]
    assert lines[256] == f"[{chr(left)}][{chr(right)}] -> [{chr(left)}{chr(right)}] 256"
    assert lines[-3:] == ["[<|endoftext|>] 498", "[<|user|>] 499", ""]


TINY_JSON = Path(__file__).parent / "data" / "tiny_tokenizer.json"
MODEL = "minbpe v1\n\\w+|\\W\n1\n<|endoftext|> 258\n97 97\n256 97\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line is ''"),
        ("minbpe v2\n", "first line is 'minbpe v2'"),
        ("minbpe v1", "split pattern is missing"),
        ("minbpe v1\n\\w+|\\W", "number of special tokens is missing"),
        ("minbpe v1\n\\w+|\\W\n2\n<|a|> 256", "a special token is missing"),
        ("minbpe v1\n\\w+|\\W\nmany\n", "'many' should be a whole number"),
        ("minbpe v1\n\\w+|\\W\n1\n<|a|> x\n", "'x' should be a whole number"),
        ("minbpe v1\n\\w+|\\W\n1\n<|a|>\n", "no new special token"),
        ("minbpe v1\n[\n0\n", "does not compile"),
        (MODEL + "5\n", "'5' is no merge"),
        (MODEL + "97 -1\n", "'-1' should be a whole number"),
        (MODEL + "97 1_0\n", "'1_0' should be a whole number"),
        (MODEL + "97 9999999999999999\n", "should be a whole number"),
        (MODEL + "97 400\n", "only ids 0..257 exist"),
        (MODEL + "97 98\n", "special token '<|endoftext|>' has id 258, but ids from 259"),
        (MODEL.replace("258", "99000000"), "has id 99000000"),
    ],
)
def test_a_damaged_model_file_is_refused_with_its_name_and_fault(text, message, tmp_path):
    path = tmp_path / "damaged.model"
    path.write_text(text)
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message


def damaged(change) -> str:
    document = json.loads(TINY_JSON.read_text(encoding="utf-8"))
    change(document)
    return json.dumps(document)


DAMAGES = {
    "no object": (lambda d: d.clear(), "KeyError: 'model'"),
    "another model": (lambda d: d["model"].update(type="Unigram"), "no plain BPE model"),
    "a normalizer": (lambda d: d.update(normalizer={"type": "NFC"}), "no plain BPE model"),
    "a missing byte": (lambda d: d["model"]["vocab"].pop("a"), "KeyError: 'a'"),
    "two bytes of one id": (lambda d: (d["model"].pop("vgpt"), d["model"]["vocab"].update(a=98)), "each once"),
    "an id that is a float": (lambda d: d["model"]["vocab"].update({"at": 256.0}), "no whole number"),
    "a special that is not text": (lambda d: d["added_tokens"][0].update(content=5), "special token 5"),
    "an unknown token": (lambda d: d["model"]["vocab"].update(zzz=99), "neither bytes, merges nor special"),
    "a merge in another order": (lambda d: d["model"]["merges"].reverse(), "makes id"),
    "a merge of three": (lambda d: d["model"]["merges"].append(["a", "b", "c"]), "ValueError"),
    "a wrong special": (lambda d: d["added_tokens"][0].update(id="x"), "has the id 'x'"),
    "another split": (lambda d: d["pre_tokenizer"].update(type="Whitespace"), "not split on plain bytes"),
    "a changed pattern": (
        lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w|\W"),
        "was changed after it was written",
    ),
    "a list": (lambda d: d.update(model=[]), "TypeError"),
    "a name that is none": (lambda d: d["model"]["vgpt"].update(name=5), "its name is not text"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tokenizer_json_is_refused_with_its_name_and_fault(damage, tmp_path):
    change, message = DAMAGES[damage]
    path = tmp_path / "tokenizer.json"
    path.write_text(damaged(change))
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(tmp_path)
    assert str(path) in caught.value.message
    assert message in caught.value.message


@settings(
    max_examples=300,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_random_damage_never_ends_in_anything_but_a_tokenizer_error(tmp_path, data):
    name, content = data.draw(st.sampled_from([("a.json", TINY_JSON.read_bytes()), ("a.model", MODEL.encode())]))
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)))
    junk = data.draw(
        st.binary(max_size=4) | st.sampled_from([b"null", b"-1", b"1.5", b'"', b"[]", b"9" * 30, b"\\ud800"])
    )
    path = tmp_path / name
    path.write_bytes(content[:start] + junk + content[end:])
    with contextlib.suppress(TokenizerError):
        assert Tokenizer.load(path).vocab_size >= 257


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable JSON"),
        (b'{"model": ', "not readable JSON"),
        (b"[" * 200_000, "not readable JSON"),
        (b'{"model": 1' + b"0" * 5000 + b"}", "not a byte-level BPE"),
        (b"\x80\x04\x95pickle", "not UTF-8 text"),
        (b"[]", "not a byte-level BPE"),
        (b"5", "not a byte-level BPE"),
    ],
)
def test_what_is_no_tokenizer_at_all_is_refused(content, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(path)


def test_oversized_files_and_merge_lists_are_refused(tmp_path):
    path = tmp_path / "huge.model"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TokenizerError, match="larger than the 64 MB"):
        Tokenizer.load(path)
    path.write_text("minbpe v1\n\\w+|\\W\n0\n" + "97 97\n" * (MAX_MERGES + 1))
    with pytest.raises(TokenizerError, match="one too many"):
        Tokenizer.load(path)


def test_a_path_that_is_no_tokenizer_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path, message in [
        (tmp_path, "cannot read the tokenizer file"),
        (tmp_path / "notes.txt", "is no tokenizer"),
        (tmp_path / "missing.json", "No such file"),
    ]:
        with pytest.raises(TokenizerError, match=message) as caught:
            Tokenizer.load(path)
        assert "vgpt tokenize train" in caught.value.hint


def test_a_special_token_that_is_also_an_ordinary_one_is_refused_on_saving(tmp_path):
    tokenizer = train_bpe(["the the"], 260, special_tokens=[END_OF_TEXT, "h"])
    with pytest.raises(TokenizerError, match="'h' is also an ordinary token"):
        tokenizer.save(tmp_path)


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "o200k", "bytes"])
def test_hugging_face_tokenizers_gives_the_same_ids_from_tokenizer_json(pattern, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    size = 270 if pattern == "bytes" else 600
    tokenizer = train_bpe([PLAY, WORLD * 3], size, pattern=pattern, special_tokens=[END_OF_TEXT, "<|user|>"])
    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    for text in (PLAY, WORLD, "👩‍👩‍👧‍👦\u200d\x00 a\x00b", "  \n  ", "x" * 500, "\r\n\r\n \t"):
        assert theirs.encode(text).ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    with_special = f"a{END_OF_TEXT}b<|user|>"
    assert theirs.encode(with_special).ids == tokenizer.encode(with_special, allow_special=True)


def test_hugging_face_tokenizers_keeps_special_ids_after_a_gap(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    Tokenizer(Vocabulary("gap", PATTERNS["gpt4"], ((97, 97),), {END_OF_TEXT: 1000})).save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(f"aa{END_OF_TEXT}").ids == [256, 1000]


def test_a_tokenizer_json_that_hugging_face_wrote_loads_with_the_same_ids(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=sorted(alphabet), show_progress=False)
    theirs.train_from_iterator([PLAY], trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.pattern == PATTERNS["gpt2"]
    assert tokenizer.vocab_size == 401
    for text in (PLAY, WORLD):
        assert tokenizer.encode(text) == theirs.encode(text).ids


@needs_gpt2
def test_gpt2_gives_the_published_ids(tmp_path, monkeypatch):
    ours = load_gpt2(GPT2_DIR)
    assert (ours.name, ours.vocab_size, ours.end_of_text) == ("gpt2", 50257, 50256)
    assert ours.encode("hello world") == [31373, 995]
    cache = fill_cache(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    tiktoken = pytest.importorskip("tiktoken")
    published = tiktoken.get_encoding("gpt2")
    for text in (PLAY, WORLD, "  \n  ", "I'll DON'T 12345 x\u200d\x00"):
        assert ours.encode(text) == published.encode_ordinary(text)
    assert all(ours.token_bytes(i) == published.decode_single_token_bytes(i) for i in range(0, 50256, 7))
    assert load_gpt2() == ours


@needs_gpt2
def test_gpt2_survives_saving_though_minbpes_format_cannot_carry_its_byte_order(tmp_path):
    ours = load_gpt2(GPT2_DIR)
    assert {path.name for path in ours.save(tmp_path)} == {"tokenizer.json", "tokenizer.vocab"}
    again = Tokenizer.load(tmp_path)
    assert again == ours
    assert again.name == "gpt2"
    assert again.encode(WORLD) == ours.encode(WORLD)


@needs_gpt2
def test_gpt2_files_that_were_changed_are_refused(tmp_path):
    shutil.copy(GPT2_DIR / "encoder.json", tmp_path / "vocab.json")
    lines = (GPT2_DIR / "vocab.bpe").read_text(encoding="utf-8").split("\n")
    (tmp_path / "merges.txt").write_text("\n".join(lines[:-2]), encoding="utf-8")
    with pytest.raises(TokenizerError, match="do not hold GPT-2's published vocabulary"):
        load_gpt2(tmp_path)
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    assert load_gpt2(tmp_path).name == "gpt2"


def fill_cache(folder: Path) -> Path:
    base = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
    for name in ("vocab.bpe", "encoder.json"):
        shutil.copy(GPT2_DIR / name, folder / hashlib.sha1(f"{base}{name}".encode()).hexdigest())
    return folder


def test_gpt2_without_its_files_says_how_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(TokenizerError, match=r"vocab\.bpe and encoder\.json is missing") as caught:
        load_gpt2(tmp_path)
    assert "--vocab-dir" in caught.value.hint
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(TokenizerError, match="not in tiktoken's cache") as caught:
        open_tokenizer("gpt2")
    assert "tiktoken.get_encoding('gpt2')" in caught.value.hint
    for name in ("vocab.bpe", "encoder.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(TokenizerError, match="do not hold GPT-2's published vocabulary"):
        load_gpt2(tmp_path)


def test_a_tokenizer_is_opened_by_name_or_path(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert open_tokenizer(str(tmp_path)) == tokenizer
    with pytest.raises(TokenizerError, match="there is no tokenizer 'gpt3'"):
        open_tokenizer("gpt3")
    with pytest.raises(TokenizerError, match="goes with --tokenizer gpt2 only"):
        open_tokenizer(tmp_path, vocab_dir=tmp_path)
