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
    assert (document["stamped"], document["oracle"]) == (None, None)
    assert document["variants"][0]["trunk"]["n_embd"] == 32
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
    assert parameters["detail"] == "the plain backbone: parameters: 3,168 measured, 3,169 stated"


def test_wrong_words_end_with_2_before_anything_runs(vgpt):
    for words, phrase in [
        (["mha", "gqqa"], "unknown attention 'gqqa'; did you mean 'gqa'?"),
        (["mha", "gqa:n_kv_head=0"], "gqa:n_kv_head=0: n_kv_head = '0': Input should be greater than or equal to 1"),
        (["mha", "gqa:n_kv_head=13"], "--n-kv-head 13 must divide --n-head 4"),
        (["mha", "--checks", "decodng"], "unknown check 'decodng'; did you mean 'decoding'?"),
        (["mha", "--oracle", "gqqa"], "unknown attention 'gqqa'; did you mean 'gqa'?"),
        (["mha", "--oracle", "mqa"], "its weights cannot be made from those of mha"),
        (["mla", "--checks", "oracle"], "the check 'oracle' needs a reference"),
        (["mha", "--n-embd", "30", "--n-head", "4"], "--n-head 4 must divide --n-embd 30"),
        (["local", "--window-size", "9"], "write it with the variant"),
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


def test_settings_of_a_model_are_those_that_are_checked(vgpt):
    words = ("--checks", "parameters,oracle", "--oracle", "mha", "--json")
    small, flags, preset = (
        json.loads(vgpt("verify", "gqa", *words, *more).out)["variants"][0]
        for more in ((), ("--n-embd", "48", "--n-head", "6", "--pos", "rope"), ("--preset", "demo"))
    )
    assert [found["trunk"]["n_embd"] for found in (small, flags, preset)] == [32, 48, 128]
    assert (flags["trunk"]["pos"], preset["trunk"]["block_size"]) == ("rope", 128)
    assert preset["probed"] == "sequences of 128 tokens, counts of pairs up to 128, single sequences up to 128"
    assert all(check["passed"] for found in (small, flags, preset) for check in found["checks"])


def test_settings_of_variants_in_a_preset_are_those_that_are_checked(vgpt):
    result = vgpt("verify", "local", "--preset", "demo", "--checks", "pairs", "--json")
    assert json.loads(result.out)["variants"][0]["checks"][0]["subject"] == "local:window_size=32"


def test_a_reference_tells_what_is_wrong_everywhere_alike(vgpt, register):
    class WrongScale(GroupedAttention):
        def _heads(self, x, start):
            q, k, v = super()._heads(x, start)
            return 0.5 * q, k, v

    class Mine(GQAConfig):
        pass

    register(Mine, WrongScale)
    result = vgpt("verify", "planted", "--oracle", "mha", "--checks", "oracle,parameters")
    assert result.code == 1
    assert "planted fails oracle" in result.out


def test_only_a_full_pass_is_recorded_beside_the_runs(vgpt, tmp_path, monkeypatch):
    from vgpt.conformance import kit

    kept = {name: kit.LAYER_CHECKS[name] for name in ("parameters", "switches")}
    monkeypatch.setattr(kit, "LAYER_CHECKS", kept)
    runs = tmp_path / "runs"
    assert vgpt("verify", "mqa", "--checks", "parameters", "--runs-dir", runs).code == 0
    assert not runs.exists()
    result = vgpt("verify", "mqa", "2xmha+mqa", "--runs-dir", runs)
    assert f"recorded: {runs / 'verified.json'}" in result.err
    assert "no reference given" in result.out
    assert "n_embd 32, n_head 4, block_size 4,096" in result.out
    entries = json.loads((runs / "verified.json").read_text())["variants"]
    assert sorted(entries) == ["mha", "mqa"]
    assert entries["mqa"]["checks"] == ["parameters", "switches", "same_trunk", "in_a_model"]
    assert entries["mqa"]["trunk"]["block_size"] == 4096
    assert {"date", "torch", "vgpt", "python", "device", "attention_sha256"} <= entries["mqa"].keys()


def test_what_fails_is_not_recorded_and_a_directory_that_cannot_be_made_costs_only_the_record(
    vgpt, register, tmp_path, monkeypatch
):
    from vgpt.conformance import kit

    monkeypatch.setattr(kit, "LAYER_CHECKS", {"parameters": kit.LAYER_CHECKS["parameters"]})
    monkeypatch.setattr(kit, "MODEL_CHECKS", {})
    register(Broken, GroupedAttention)
    assert vgpt("verify", "planted", "mha", "--runs-dir", tmp_path / "runs").code == 1
    assert list(json.loads((tmp_path / "runs" / "verified.json").read_text())["variants"]) == ["mha"]
    (tmp_path / "file").write_text("")
    result = vgpt("verify", "mha", "--runs-dir", tmp_path / "file")
    assert result.code == 0
    assert "the pass is NOT recorded" in result.err
