from itertools import pairwise, permutations

import pytest

from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.grouped.config import GQAConfig, MHAConfig
from vgpt.attention.options import POSITIONS
from vgpt.attention.registry import variants
from vgpt.compare.staircase import build_staircase, function_of
from vgpt.errors import UsageError

SETTINGS = {
    "mha": "mha",
    "mqa": "mqa",
    "gqa": "gqa:n_kv_head=2",
    "local": "local:window_size=8",
    "sparse": "sparse:sparse_block_size=4",
    "linear": "linear:linear_norm=rms",
    "mla": "mla:kv_lora_rank=16,q_lora_rank=24,v_head_dim=8",
    "mix": "local:window_size=8+mha",
}


def shape(pos="learned"):
    return Shape(64, 4, 64, pos=pos)


def path(start, end, *, pos="learned", via=()):
    found = build_staircase(resolve_attention(start), resolve_attention(end), shape(pos), via)
    return [(stair.label.partition(":")[0], stair.what) for stair in found.stairs]


def test_every_builtin_variant_has_a_place_among_the_paths():
    assert SETTINGS.keys() == variants().keys()


@pytest.mark.parametrize("pos", POSITIONS)
@pytest.mark.parametrize(("start", "end"), [*permutations(SETTINGS.values(), 2)])
def test_a_path_between_any_two_kinds_changes_one_thing_at_a_time(start, end, pos):
    first, last = resolve_attention(start), resolve_attention(end)
    stairs = build_staircase(first, last, shape(pos)).stairs
    assert (stairs[0].attn, stairs[-1].attn) == (first, last)
    assert not any(stair.attn.check(shape(pos)) for stair in stairs)
    for before, stair in pairwise(stairs):
        assert len(stair.changes) == 1
        # Read from the settings themselves: mqa is gqa with one head, and mha what gqa is with all.
        here, there = ({"kind": one.attn.kind, **one.attn.model_dump(exclude={"kind"})} for one in (stair, before))
        if stair.changes[0].name and here["kind"] == there["kind"]:
            assert [name for name in here if here[name] != there[name]] == [stair.changes[0].name]
    functions = [function_of(stair.attn, shape(pos)) for stair in stairs]
    assert len(set(functions)) == len(functions)


def test_the_way_back_has_the_same_stairs():
    for start, end in permutations(SETTINGS.values(), 2):
        there = build_staircase(resolve_attention(start), resolve_attention(end), shape())
        back = build_staircase(resolve_attention(end), resolve_attention(start), shape())
        if "mqa" not in (start, end):  # of mqa and gqa one stands for both
            assert [stair.label for stair in reversed(back.stairs)] == [stair.label for stair in there.stairs]


def test_from_shared_heads_to_a_latent_one_thing_after_the_other():
    assert path("gqa:n_kv_head=2", "mla:kv_lora_rank=16") == [
        ("gqa", ""),
        ("mha", "n_kv_head 2 -> 4"),
        ("mla", "mha -> mla"),
        ("mla", "kv_lora_rank 64 -> 16"),
        ("mla", "qk_rope_head_dim 0 -> 8"),
    ]


def test_under_rotary_positions_the_rotary_part_cannot_be_left_out_and_the_step_says_so():
    found = build_staircase(resolve_attention("mha"), resolve_attention("mla:kv_lora_rank=16"), shape("rope"))
    assert [stair.what for stair in found.stairs] == ["", "mha -> mla", "kv_lora_rank 64 -> 16"]
    assert "rotary positions in 8 of 24 features per head" in found.stairs[1].note


def test_a_window_over_the_whole_context_and_all_key_heads_are_mha_and_one_stair():
    assert path("gqa:n_kv_head=2", "local:window_size=8") == [
        ("gqa", ""),
        ("mha", "n_kv_head 2 -> 4"),
        ("local", "window_size 64 -> 8"),
    ]
    assert path("gqa:n_kv_head=4", "local:window_size=8") == [("gqa", ""), ("local", "window_size 64 -> 8")]


def test_the_order_of_the_steps_can_be_given():
    given = path("mha", "mla:kv_lora_rank=16,v_head_dim=8", via=["v_head_dim", "qk_rope_head_dim"])
    assert [what.split()[0] for _, what in given[2:]] == ["v_head_dim", "qk_rope_head_dim", "kv_lora_rank"]


@pytest.mark.parametrize(
    ("start", "end", "via", "said"),
    [
        ("gqa:n_kv_head=4", "mha", (), "are the same function on this backbone"),
        ("linear:chunk_size=8", "linear", (), "are the same function"),
        ("mha", "mla", ("window_size",), "--via: window_size does not change on this path"),
        ("mha", "mla", ("kv_lora_rank", "kv_lora_rank"), "--via: kv_lora_rank is named twice"),
        ("linear", "linear:feature_map=identity,linear_norm=rms", (), "the step feature_map elu1 -> identity after"),
    ],
)
def test_what_is_no_path_is_refused_with_the_reason(start, end, via, said):
    with pytest.raises(UsageError) as error:
        path(start, end, via=via)
    assert said in error.value.message


def test_the_order_that_a_refusal_advises_is_one_that_works():
    ends = ("linear", "linear:feature_map=identity,linear_norm=rms")
    with pytest.raises(UsageError) as error:
        path(*ends)
    advised = error.value.hint.rpartition("--via ")[2].split(",")
    assert [what for _, what in path(*ends, via=advised)][1:] == [
        "linear_norm denom -> rms",
        "feature_map elu1 -> identity",
    ]


def test_a_variant_without_common_ground_is_one_step_away_and_says_so():
    found = build_staircase(resolve_attention("gqa:n_kv_head=2"), resolve_attention(SETTINGS["mix"]), shape())
    assert [stair.what for stair in found.stairs] == ["", "n_kv_head 2 -> 4", "mha -> mix"]
    assert "mix declares no settings at which it is near mha" in found.stairs[-1].note


def test_what_a_variant_says_of_itself_does_not_hold_for_one_derived_from_it():
    class Derived(GQAConfig):
        kind = "derived"

    found = build_staircase(Derived(n_kv_head=4), MHAConfig(), shape())
    assert [stair.what for stair in found.stairs] == ["", "derived -> mha"]
