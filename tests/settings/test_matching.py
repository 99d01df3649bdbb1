"""Matched budgets: published widths, our own at GPT-2 small, against whole models' counts, and what is refused."""

import pytest
from pydantic import ValidationError

from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.registry import variants
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes, count_parameters, forward_flops
from vgpt.settings.matching import Backbone, Match, budget, match_cache, nearest_width, resolve_reference
from vgpt.settings.model import ModelSettings
from vgpt.settings.train import TrainConfig

SMALL = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024}


def small(attn, **changes):
    kind = attn.partition(":")[0].split("+")[0].split("x")[-1]
    if kind not in variants():
        pytest.skip(f"no variant {kind} here")
    return GPT2Config.model_validate({**SMALL, "vocab_size": 50_257, "attn": attn, **changes})


def test_multi_query_decoders_get_the_width_that_shazeer_gave_them():
    # "Fast Transformer Decoding", section 4.2: d 1024, 8 heads of 128, MLP 8192 -> 9088 for multi-query
    table = {"n_layer": 6, "n_head": 8, "n_embd": 1024, "block_size": 256, "mlp_hidden": 8192, "attn": "mqa"}
    for bias in (False, True):
        assert ModelSettings.model_validate({**table, "bias": bias, "match": "params"}).hidden == 9088


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(8, 1, 5440), (1, 1, 6784)])
def test_translation_models_get_the_widths_that_shazeer_gave_them(heads, kv_heads, width):
    # Section 4.1: d 1024, MLP 4096. Of three attention layers (encoder, decoder, decoder to encoder) two pairs of
    # stacks share two MLPs; heads are 128 wide, also where there is but one.
    def attention(queries, keys):
        return 1024 * 128 * (2 * queries + 2 * keys)

    deficit = 3 * (attention(8, 8) - attention(heads, kv_heads))
    assert nearest_width(4096, deficit, 2 * 2 * 1024, 8) == width


GPT2_SMALL = [
    ("mha", 3072, 3072),
    ("mqa", 3776, 3776),
    ("gqa:n_kv_head=4", 3584, 3584),
    ("gqa:n_kv_head=2", 3712, 3712),
    ("local:window_size=256", 3072, 3360),
    ("linear", 3072, 3488),
    ("sparse", 3072, 3248),
    ("mla:kv_lora_rank=192", 3344, 3216),
    ("mla:kv_lora_rank=192,q_lora_rank=384", 3440, 3312),
]


@pytest.mark.parametrize(("attn", "params", "flops"), GPT2_SMALL)
def test_widths_at_gpt2_small(attn, params, flops):
    assert small(attn, match="params").hidden == params
    assert small(attn, match="flops").hidden == flops


@pytest.mark.parametrize("attn", [*(name for name, *_ in GPT2_SMALL), "5xlocal+mha", "3xmqa+mha", "2xgqa+mqa"])
def test_whole_models_at_gpt2_small_are_matched_within_a_thousandth(attn):
    reference = small("mha")
    matched = small(attn, match="params")
    assert count_parameters(matched).total == pytest.approx(count_parameters(reference).total, rel=1e-3)
    assert matched.budget.params == pytest.approx(0, abs=1e-3)
    matched = small(attn, match="flops")
    assert forward_flops(matched, 1024) == pytest.approx(forward_flops(reference, 1024), rel=5e-3)
    assert matched.budget.flops == pytest.approx(0, abs=5e-3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attn", ["mqa", "gqa:n_kv_head=3", "mha+mqa"])
def test_budgets_are_what_the_costs_of_whole_models_say(attn, bias):
    there = small("mha", bias=bias, n_layer=3, mlp_hidden=2000)
    here = small(attn, bias=bias, n_layer=3, mlp_hidden=2304)
    backbone = Backbone(there.shape, 3, 2000)
    left, right = backbone.params(here.attn, 2304), backbone.params(there.attn, 2000)
    assert left - right == count_parameters(here).total - count_parameters(there).total
    count = count_parameters(there)
    assert right == count.attention + count.mlp
    left, right = backbone.flops(here.attn, 2304), backbone.flops(there.attn, 2000)
    assert left - right == forward_flops(here, 1024) - forward_flops(there, 1024)
    assert backbone.cache_bytes(here.attn) == cache_bytes(here, 1024)
    found = budget(here.attn, there.attn, backbone, 2304)
    assert found.params == pytest.approx(backbone.params(here.attn, 2304) / (count.attention + count.mlp) - 1)
    assert found.raw_flops == pytest.approx(backbone.flops(here.attn, 2000) / right - 1)


def test_the_reference_and_all_of_its_size_keep_their_width_to_the_unit():
    assert small("mha", match="params", mlp_hidden=3001).hidden == 3001
    assert small("gqa:n_kv_head=12", match="flops", mlp_hidden=3001).hidden == 3001


def test_a_reference_may_be_any_variant_and_is_spelled_out():
    to_gqa = small("mha", match="params", match_to="gqa")
    assert to_gqa.match_to == "gqa:n_kv_head=2"
    assert to_gqa.hidden < 3072
    mixed = small("mqa", match="params", match_to="mha+mqa")
    assert mixed.match_to == "mha+mqa"
    assert mixed.hidden == pytest.approx((3072 + small("mqa", match="params").hidden) / 2, abs=8)


@pytest.mark.parametrize(("multiple", "width"), [(1, 3776), (8, 3776), (64, 3776), (100, 3800), (256, 3840)])
def test_widths_are_multiples_of_what_was_asked(multiple, width):
    assert nearest_width(3072, 12 * 1_082_752, 12 * 1537, multiple) == width


def test_of_two_equally_near_widths_the_narrower_is_taken():
    assert nearest_width(3072, 180, 1, 8) == 3248  # 3252 lies half-way between 3248 and 3256
    assert nearest_width(3072, -180, 1, 8) == 2888  # 2892 between 2888 and 2896


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn": "mqa", "match": "params", "mlp_hidden": 12_000}, "an MLP of width 12704; possible: 768 to 12288"),
        ({"attn": "mha", "match": "params", "match_to": "mqa", "mlp_hidden": 1000}, "width 296; possible: 768"),
        ({"attn": "mqa", "match": "params", "match_multiple": 1000}, "mqa, 4000, misses by +4.85%, more than 0.5%"),
        ({"match_to": "mqa"}, "--match-to mqa needs --match params, flops or cache"),
        ({"match_multiple": 64}, "--match-multiple 64 needs --match params or flops"),
        ({"match": "cache", "match_multiple": 64}, "--match-multiple 64 needs --match params or flops"),
        ({"match": "params", "match_to": "mqx"}, "--match-to: unknown attention 'mqx'"),
        ({"match": "params", "match_to": "gqa:n_kv_head=5"}, "--match-to gqa:n_kv_head=5: --n-kv-head 5 must divide"),
        ({"match": "params", "match_to": "gqa:n_kv_head=x"}, "--match-to gqa:n_kv_head=x: n_kv_head = 'x'"),
        ({"attn": "mha", "match": "cache", "match_to": "mqa"}, "no one setting of mha sizes its cache"),
        ({"attn": "mha+mqa", "match": "cache"}, "no one setting of mha+mqa sizes its cache"),
        ({"attn": "gqa", "match": "cache", "match_to": "gqa+mqa"}, "that of gqa:n_kv_head=1, misses by -33.3%"),
        ({"match": "params", "n_head": 7}, "--n-head 7 must divide --n-embd 768"),
        ({"match": "speed"}, "'none', 'params', 'flops' or 'cache'"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_its_numbers(changes, message):
    with pytest.raises(ValidationError) as caught:
        ModelSettings.model_validate({**SMALL, **changes})
    assert message in str(caught.value)


def test_caches_are_matched_by_the_variants_own_setting():
    found = small("gqa", match="cache", match_to="gqa:n_kv_head=4")
    assert found.attn.n_kv_head == 4
    assert found.hidden == 3072
    assert found.budget.cache == 0
    near = small("gqa", match="cache", match_to="mha+mqa")  # 6.5 heads on average: 6 is 8 % less
    assert near.attn.n_kv_head == 6
    assert near.budget.cache == pytest.approx(6 / 6.5 - 1)


@pytest.mark.parametrize(
    ("attn", "reference", "knob"),
    [
        ("mla", "gqa:n_kv_head=2", "kv_lora_rank"),
        ("mla", "mqa", "kv_lora_rank"),
        ("local", "gqa:n_kv_head=4", "window_size"),
        ("local", "mqa", "window_size"),
        ("gqa", "mha", "n_kv_head"),
    ],
)
def test_no_other_value_of_the_setting_comes_nearer_in_cache(attn, reference, knob):
    found = small(attn, match="cache", match_to=reference)
    if found.attn.cache_knob() != knob:
        pytest.skip(f"{attn} names no setting yet")
    target = cache_bytes(small(reference), 1024)
    miss = abs(cache_bytes(found, 1024) - target)
    for value in range(1, 1025):
        other = found.attn.model_copy(update={knob: value})
        if not other.check(found.shape):
            assert abs(12 * other.cache_cost(found.shape).nbytes(1024, 2) - target) >= miss


def test_a_setting_whose_values_have_gaps_is_searched_on_both_sides():
    backbone = Backbone(Shape(n_embd=768, n_head=12, block_size=64), 1, 3072)
    for heads, nearest in [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (12, 12)]:
        reference = resolve_reference(f"gqa:n_kv_head={heads}", backbone.shape)
        match = Match("cache", f"gqa:n_kv_head={heads}", 8)
        assert match_cache(match, resolve_attention("gqa:n_kv_head=12"), reference, backbone).n_kv_head == nearest


def test_matched_settings_survive_being_written_and_read():
    for attn, rule in [("mqa", "params"), ("gqa", "flops"), ("gqa", "cache")]:
        settings = ModelSettings.model_validate({**SMALL, "attn": attn, "match": rule, "mlp_hidden": 3000})
        again = ModelSettings.model_validate_json(settings.model_dump_json())
        assert again == settings
        assert (again.hidden, again.budget) == (settings.hidden, settings.budget)


def test_concrete_settings_need_no_reference_and_build_the_same_model():
    matched = small("mqa", match="params")
    concrete = GPT2Config.model_validate(matched.concrete())
    assert (concrete.hidden, concrete.match, concrete.match_to, concrete.budget) == (3776, "none", None, None)
    assert count_parameters(concrete) == count_parameters(matched)


def run_of(attn, **model):
    return TrainConfig.model_validate({"model": {**SMALL, "attn": attn, **model}})


def test_runs_matched_to_one_reference_share_their_conditions_and_others_do_not():
    matched = [run_of(attn, match="params").conditions() for attn in ("mha", "mqa", "gqa")]
    assert matched[0] == matched[1] == matched[2]
    for other in (
        run_of("mqa"),
        run_of("mqa", match="flops"),
        run_of("mqa", match="params", match_to="gqa"),
        run_of("mqa", match="params", match_multiple=4),
        run_of("mqa", match="params", mlp_hidden=3000),
        run_of("mqa", mlp_hidden=3776),
    ):
        assert other.conditions() != matched[0]


def test_matching_that_changes_nothing_is_the_run_without_it():
    assert run_of("mha", match="params").settings_hash == run_of("mha").settings_hash
    assert run_of("mqa", match="params").settings_hash != run_of("mqa").settings_hash
    assert run_of("mqa", match="params").settings_hash != run_of("mqa", mlp_hidden=3776).settings_hash


def test_matched_caches_are_the_run_with_that_setting_under_the_same_conditions():
    matched = run_of("gqa", match="cache", match_to="gqa:n_kv_head=4")
    plain = run_of("gqa:n_kv_head=4")
    assert matched.settings_hash == plain.settings_hash
    assert matched.conditions() == plain.conditions()
