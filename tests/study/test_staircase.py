import pytest

from vgpt.errors import UsageError
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.estimate import ThroughputEstimate
from vgpt.study.plan import make_plan
from vgpt.study.study import make_study


def stairs(*words, **typed):
    return make_study(words, Sources(load_preset("demo"), command_line=typed))


def test_a_plan_holds_every_stair_once_and_those_that_are_one_function_as_one():
    found = stairs(from_="gqa", to="mla", pos="learned", seeds="3")
    plan = make_plan([part.answer([]) for part in found.parts], ThroughputEstimate([]))
    kinds = [item.label.partition(":")[0] for item in plan.items]
    assert kinds == ["gqa", "mha", "mla", "mla", "mla"]
    assert {item.missing for item in plan.items} == {3}


def test_flags_and_presets_set_the_ends_as_they_set_variants():
    found = stairs(from_="mha", to="mla", pos="learned", q_lora_rank="24")
    assert found.parts[0].staircase.stairs[-1].label.startswith("mla:kv_lora_rank=64,q_lora_rank=24")


def test_each_value_of_an_axis_has_the_path_of_its_backbone():
    found = stairs(from_="mha", to="mla", pos="learned,rope")
    assert [len(part.staircase.stairs) for part in found.parts] == [4, 3]


@pytest.mark.parametrize(
    ("words", "typed", "said"),
    [
        ((), {"from_": "mha"}, "--from mha is one end of a staircase, and --to is missing"),
        ((), {"to": "mha"}, "--to mha is one end of a staircase, and --from is missing"),
        ((), {"via": "kv_lora_rank"}, "--via orders the steps between --from and --to, which are missing"),
        (("gqa",), {"from_": "mha", "to": "mla"}, "--from and --to name what is compared, and gqa stands beside them"),
        ((), {"from_": "mha", "to": "my_run"}, "--to my_run is a run, and a path leads between variants"),
        ((), {"from_": "mha", "to": "mla", "match": "cache"}, "--match cache changes the variants' own settings"),
        ((), {"from_": "mha", "to": "gqa:n_kv_head=3"}, "--n-kv-head 3 must divide --n-head 4"),
    ],
)
def test_what_makes_no_staircase_is_refused(words, typed, said):
    with pytest.raises(UsageError) as error:
        stairs(*words, **typed)
    assert said in error.value.message
