import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from vgpt.errors import TokenizerError
from vgpt.text.bpe import train_bpe
from vgpt.text.describe import bytes_per_token, facts, text_tokens
from vgpt.text.patterns import PATTERNS
from vgpt.text.tokenizer import END_OF_TEXT, Tokenizer
from vgpt.text.vocabulary import Vocabulary, token_table

PLAY = (Path(__file__).parent / "data" / "play.txt").read_text(encoding="utf-8")
WORLD = (
    "Größe, naïve café; Привет, мир! 你好，世界。こんにちは世界 שלום עולם مرحبا بالعالم नमस्ते दुनिया "
    "👩‍👩‍👧‍👦 🏳️‍🌈 🙂🙂🙂 e\u0301 é \u200d\x00\x01 ½ ⅷ １２３ ﬁ\n\t\r\n  aaa aaaa aaaaa fin "
)
OWN_PATTERN = r"\w+|\W"
SURROGATES = "\ud800 abc"


def naive_encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Merge the adjacent pair with the smallest merge, everywhere, until none is left, chunk by chunk."""
    ranks = {pair: 256 + i for i, pair in enumerate(tokenizer.merges)}
    byte_ids = {tokenizer.token_bytes(i)[0]: i for i in range(256)}
    out = []
    for chunk in regex.findall(tokenizer.pattern, text):
        ids = [byte_ids[byte] for byte in chunk.encode()]
        while pairs := [pair for pair in pairwise(ids) if pair in ranks]:
            best = min(pairs, key=ranks.__getitem__)
            merged, i = [], 0
            while i < len(ids):
                hit = tuple(ids[i : i + 2]) == best
                merged.append(ranks[best] if hit else ids[i])
                i += 2 if hit else 1
            ids = merged
        out += ids
    return out


@pytest.fixture(scope="module", params=[*PATTERNS, OWN_PATTERN])
def tokenizer(request) -> Tokenizer:
    texts = [PLAY, WORLD * 4]
    return train_bpe(texts, 280 if request.param == "bytes" else 600, pattern=request.param)


@pytest.fixture(scope="module")
def gpt4() -> Tokenizer:
    return train_bpe([PLAY, WORLD * 4], 500, special_tokens=[END_OF_TEXT, "<|end|>", "<|end|>!"])


@pytest.mark.parametrize("text", [PLAY, WORLD, "", " ", "\n", "a", "aaaaaaaaa", "  \n  ", "x" * 3000, "ab" * 2000])
def test_ids_equal_those_of_a_naive_encoder(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids == naive_encode(tokenizer, text)
    assert tokenizer.decode(ids) == text


@settings(max_examples=150, database=None)
@given(text=st.text(alphabet=st.sampled_from("abe'sT1 \n\r\té🙂\u200d\u0301你.,!\x00\x85\u2028ſ"), max_size=60))
def test_ids_equal_the_naive_ones_on_any_text(gpt4, text):
    assert gpt4.encode(text) == naive_encode(gpt4, text)


@pytest.mark.parametrize("name", ["gpt2", *(pytest.param(one, marks=pytest.mark.slow) for one in ("gpt4", "o200k"))])
def test_every_character_of_unicode_is_split_as_the_regex_package_splits_it(name):
    # "a", "A" or "1" merges with the first byte of a character exactly if the two are in one chunk.
    merges = [(byte, lead) for byte in b"aA1" for lead in range(0xC2, 0xF5)]
    tokenizer = Tokenizer(Vocabulary("seams", PATTERNS[name], tuple(merges), {END_OF_TEXT: 256 + len(merges)}))
    # In blocks, so that a block without disputed characters takes the fast way and shows whether that is right.
    # Beyond the second plane lie ideographs, one like the other: every sixteenth block of them.
    for start in [*range(128, 0xD800, 64), *range(0xE000, 0x20000, 64), *range(0x20000, 0x40000, 1024)]:
        text = " ".join(f"a{chr(i)} A{chr(i)} 1{chr(i)}" for i in range(start, start + 64))
        assert tokenizer.encode(text) == naive_encode(tokenizer, text), hex(start)


@settings(max_examples=500, database=None)
@given(texts=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=20, max_size=20))
def test_ten_thousand_random_unicode_strings_survive_the_round_trip(gpt4, texts):
    for text, ids in zip(texts, gpt4.encode_batch(texts), strict=True):
        assert gpt4.decode(ids) == text
        assert gpt4.encode(text) == ids.tolist()


def test_a_batch_gives_uint32_arrays(tokenizer):
    batch = tokenizer.encode_batch(["abc", "", WORLD])
    assert [ids.dtype for ids in batch] == [np.uint32] * 3
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in ("abc", "", WORLD)]


@pytest.mark.parametrize("text", [" " * 3_000_000 + "x", "\n" * 1_500_000, " \n" * 700_000])
def test_millions_of_spaces_in_a_row_are_encoded(gpt4, text):
    gpt4.check_lossless(text)


def test_lone_surrogates_are_refused_not_replaced(tokenizer):
    with pytest.raises(TokenizerError, match=r"lone surrogate, '\\ud800' at character 0"):
        tokenizer.encode(SURROGATES)
    with pytest.raises(TokenizerError, match="at character 3"):
        tokenizer.encode_batch(["éa " + SURROGATES])


def test_special_spellings_are_ordinary_text_unless_allowed(gpt4):
    text = f"a{END_OF_TEXT}b<|end|>!<|end|>"
    plain = gpt4.encode(text)
    assert max(plain) < 256 + len(gpt4.merges)
    assert gpt4.decode(plain) == text
    specials = gpt4.special_tokens
    want = [97, specials[END_OF_TEXT], 98, specials["<|end|>!"], specials["<|end|>"]]
    assert gpt4.encode(text, allow_special=True) == want
    assert gpt4.decode(want) == text
    assert gpt4.end_of_text == specials[END_OF_TEXT] == 497


def test_text_losing_patterns_are_caught_while_encoding():
    tokenizer = train_bpe(["only words here"], 260, pattern=r"\w+|\s+")
    tokenizer.check_lossless("more words")
    with pytest.raises(TokenizerError, match="drops"):
        tokenizer.encode("words, commas")


def test_check_lossless_compares_given_ids_with_the_text(gpt4):
    ids = gpt4.encode_batch([PLAY])[0]
    gpt4.check_lossless(PLAY, ids)
    with pytest.raises(TokenizerError, match="does not give back"):
        gpt4.check_lossless(PLAY, ids[:-1])


@pytest.mark.parametrize("ids", [[500], [-1], [97, 10**9], np.array([97, 500])])
def test_ids_outside_the_vocabulary_are_refused(gpt4, ids):
    with pytest.raises(TokenizerError, match="not in the vocabulary"):
        gpt4.decode(ids)


def test_cut_characters_decode_to_the_replacement_character(gpt4):
    assert gpt4.decode([0xC3]) == "\ufffd"
    assert gpt4.decode_bytes([0xC3]) == b"\xc3"
    assert gpt4.decode(np.array([97, 98], dtype=np.uint16)) == "ab"


def test_byte_lengths_count_text_bytes_and_no_special_tokens(gpt4):
    lengths = gpt4.byte_lengths()
    assert lengths.dtype == np.int64
    assert lengths.shape == (gpt4.vocab_size,)
    assert lengths[gpt4.encode(WORLD)].sum() == len(WORLD.encode())
    assert lengths[list(gpt4.special_tokens.values())].tolist() == [0, 0, 0]
    assert all(lengths[i] == len(gpt4.token_bytes(i)) for i in range(497))


def test_the_fingerprint_covers_what_changes_ids_and_nothing_else(gpt4):
    parts = {"pattern": gpt4.pattern, "merges": tuple(gpt4.merges), "special_tokens": gpt4.special_tokens}
    assert Tokenizer(Vocabulary("another name", **parts)) == gpt4
    swapped = bytes([1, 0, *range(2, 256)])
    changes = [
        {"pattern": PATTERNS["gpt2"]},
        {"merges": parts["merges"][:-1]},
        {"special_tokens": {END_OF_TEXT: 497}},
        {"byte_order": swapped},
    ]
    prints = {Tokenizer(Vocabulary("x", **(parts | change))).fingerprint for change in changes}
    assert len(prints | {gpt4.fingerprint}) == 5
    assert gpt4.fingerprint != "x"
    assert len(gpt4.fingerprint) == 64


def test_a_tokenizer_cannot_be_changed_through_what_it_hands_out(gpt4):
    before = gpt4.fingerprint
    gpt4.merges.clear()
    gpt4.special_tokens.clear()
    assert Tokenizer(gpt4._vocabulary).fingerprint == before
    assert gpt4.merges


def test_a_tokenizer_travels_to_other_processes(tokenizer):
    tokenizer.encode("é")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert copy.name == tokenizer.name
    assert copy.encode(WORLD) == tokenizer.encode(WORLD)


def test_importing_the_tokenizer_loads_neither_torch_nor_tiktoken():
    heavy = "'torch', 'tiktoken', 'regex'"
    code = f"import sys, vgpt.text.bpe, vgpt.text.choose; print([m for m in ({heavy}) if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([(256, 97)], "only ids 0..255 exist"),
        ([(97, 98), (97, 257)], "only ids 0..256 exist"),
        ([(97, -1)], "only ids"),
        ([(97, 98), (97, 98)], "repeats merge 0"),
        ([(97, 97)] + [(256 + i, 256 + i) for i in range(60)], "more than 1,048,576 bytes"),
        # "abc" is always [ab, c], so [a, bc] is never seen.
        ([(97, 98), (98, 99), (97, 257)], "can never happen"),
        # In "aaa" the first two letters merge, so [a, aa] is never seen.
        ([(97, 97), (97, 256)], "can never happen"),
    ],
)
def test_a_merge_graph_that_no_text_could_have_taught_is_refused(merges, message):
    with pytest.raises(TokenizerError, match=message):
        token_table(bytes(range(256)), merges)


@settings(max_examples=300, database=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=8))
def test_a_merge_graph_passes_exactly_if_every_token_encodes_to_itself(choices):
    alphabet = [97, 98, *range(256, 270)]
    merges = []
    for left, right in choices:
        known = alphabet[: 2 + len(merges)]
        pair = (known[left % len(known)], known[right % len(known)])
        if pair not in merges:
            merges.append(pair)
    table = [bytes([i]) for i in range(256)]
    for left, right in merges:
        table.append(table[left] + table[right])
    reachable = all(naive_merge(list(table[256 + i]), merges) == [256 + i] for i in range(len(merges)))
    try:
        token_table(bytes(range(256)), merges)
        passed = True
    except TokenizerError:
        passed = False
    assert passed == reachable


def naive_merge(ids: list[int], merges: list[tuple[int, int]]) -> list[int]:
    for new, pair in enumerate(merges, start=256):
        out, i = [], 0
        while i < len(ids):
            hit = tuple(ids[i : i + 2]) == pair
            out.append(new if hit else ids[i])
            i += 2 if hit else 1
        ids = out
    return ids


def test_tokens_and_facts_describe_a_tokenizer(gpt4):
    cut = text_tokens(gpt4, "First\x00é")
    assert b"".join(piece.data for piece in cut) == "First\x00é".encode()
    assert any("\\u0000" in piece.text for piece in cut)
    assert bytes_per_token(gpt4, PLAY) == pytest.approx(len(PLAY.encode()) / len(gpt4.encode(PLAY)))
    assert bytes_per_token(gpt4, "") == 0.0
    told = facts(gpt4)
    assert (told["vocab_size"], told["merges"], told["pattern_name"]) == (500, 241, "gpt4")
    assert told["longest_token_bytes"] == gpt4.byte_lengths().max()
