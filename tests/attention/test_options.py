"""The table of options: whole on both sides, and refusals that what is derived from a variant inherits."""

from dataclasses import replace
from typing import ClassVar

from vgpt.attention.config import AttentionConfig, Shape, SoftmaxConfig
from vgpt.attention.grouped.config import GQAConfig
from vgpt.attention.latent.config import MLAConfig
from vgpt.attention.options import OPTIONS, SWITCHES, choices, chosen
from vgpt.attention.switches import FORMULAS
from vgpt.settings.model import ModelSettings

BY_NAME = {option.name: option for option in OPTIONS}


def test_every_switch_has_a_formula_and_no_formula_is_without_an_entry():
    assert set(SWITCHES) <= FORMULAS.keys() <= BY_NAME.keys()


def test_a_backbone_and_the_settings_of_a_model_take_the_same_options_all_off_by_default():
    assert [option.name for option, _ in chosen(Shape(64, 4, 32))] == ["learned"]
    assert [option.name for option, _ in chosen(ModelSettings())] == ["learned"]
    assert choices(Shape(64, 4, 32)) == choices(ModelSettings())
    for option in OPTIONS:
        for value in option.values:
            settings = ModelSettings.model_validate({option.setting: value})
            assert getattr(settings.shape, option.setting) == value
            assert (option, value) in chosen(settings.shape)


def test_what_is_derived_from_a_variant_refuses_what_that_refuses():
    class Derived(MLAConfig):
        pass

    faults = Derived().check(Shape(64, 4, 32, qk_norm=True))
    assert ["--qk-norm does not apply" in fault for fault in faults] == [True]
    assert faults == MLAConfig().check(Shape(64, 4, 32, qk_norm=True))


def test_a_derived_class_that_lists_what_it_honors_is_taken_at_its_word():
    class Normed(MLAConfig):
        switches: ClassVar[tuple[str, ...]] = ("qk_norm",)

    assert Normed().check(Shape(64, 4, 32, qk_norm=True)) == []
    assert Normed().check(Shape(64, 4, 32, sinks=True)) == ["--sinks does not apply to --attn mla"]


def test_an_entry_may_refuse_one_variant_of_a_family():
    option = replace(BY_NAME["sinks"], refused={"gqa": "say why"})
    assert GQAConfig.refusal(option) == "say why"
    assert [config.refusal(option) for config in (SoftmaxConfig, MLAConfig)] == [None, None]


def test_without_a_word_a_variant_takes_only_what_is_no_matter_of_attention():
    assert [option.name for option in OPTIONS if AttentionConfig.refusal(option) is None] == ["learned", "none"]
