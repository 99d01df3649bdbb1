"""`vgpt verify`: tables and JSON, exit codes, and nothing but results on stdout."""

import json

import torch

from vgpt.attention.grouped.config import GQAConfig
from vgpt.attention.grouped.module import GroupedAttention

EXACT = "pairs,parameters,switches,state-dict,same-trunk"
"""Checks that measure whole numbers, the same on every machine."""


class Broken(GQAConfig):
    """Says too many parameters; and its mask, which has no tensors, raises."""

    def params(self, shape):
        return super().params(shape) + 1

    def visible(self, q, k, layer=0, head=0):
        if isinstance(q, torch.Tensor):
            raise TypeError("integers only, [brackets] included")
        return k <= q


def test_a_table_per_variant_and_a_summary_are_printed(vgpt, check_golden):
    result = vgpt("verify", "gqa:n_kv_head=4", "2xmha+mqa", "--checks", EXACT)
    assert result.code == 0
    check_golden("verify.txt", result.out)
    assert "gqa:n_kv_head=4: 5 checks ..." in result.err


def test_a_broken_variant_is_shown_with_what_is_wrong_and_ends_with_1(vgpt, register):
    register(Broken, GroupedAttention)
    result = vgpt("verify", "planted", "mha", "--checks", "pairs,parameters,state-dict,in-a-model")
    assert result.code == 1
    assert "✗ 1 of 2 variants break the contract: planted fails pairs, parameters, state dict, in a model" in result.out
    assert "raised TypeError: integers only, [brackets] included" in " ".join(result.out.split())
    assert "Traceback" not in result.out + result.err


def test_json_holds_every_check_with_its_numbers(vgpt, register):
    register(Broken, GroupedAttention)
    result = vgpt("verify", "planted", "mha", "--checks", "pairs,parameters", "--json")
    assert result.code == 1
    document = json.loads(result.out)
    assert document["passed"] is False
    assert [(v["variant"], v["passed"]) for v in document["variants"]] == [("planted", False), ("mha", True)]
    pairs, parameters = document["variants"][0]["checks"]
    assert pairs == {
        "check": "pairs",
        "subject": "planted",
        "passed": False,
        "measured": None,
        "limit": 0.0,
        "detail": "raised TypeError: integers only, [brackets] included",
    }
    assert (parameters["measured"], parameters["limit"]) == (1, 0)
    assert parameters["detail"] == "the plain trunk: parameters: 3,168 measured, 3,169 stated"


def test_wrong_words_end_with_2_before_anything_runs(vgpt):
    for words, phrase in [
        (["mha", "gqqa"], "unknown attention 'gqqa'; did you mean 'gqa'?"),
        (["mha", "gqa:n_kv_head=0"], "gqa:n_kv_head=0: n_kv_head = '0': Input should be greater than or equal to 1"),
        (["mha", "gqa:n_kv_head=13"], "--n-kv-head 13 must divide --n-head 4"),
        (["mha", "--checks", "decodng"], "unknown check 'decodng'; did you mean 'decoding'?"),
        ([], "Missing argument 'VARIANT'"),
    ]:
        result = vgpt("verify", *words)
        assert (result.code, result.out) == (2, ""), words
        assert phrase in " ".join(result.err.replace("│", " ").split())


def test_settings_are_shown_with_their_origins(vgpt, monkeypatch):
    monkeypatch.setenv("VGPT_SEED", "5")
    rows = {line.split()[0]: line.split()[1:] for line in vgpt("verify", "mha", "--show-settings").out.splitlines()}
    assert rows["seed"] == ["5", "environment"]
    assert rows["device"] == ["cpu", "default"]
