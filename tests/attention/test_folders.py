"""A built-in variant is a folder: what lies in vgpt/attention is known everywhere, and nothing else names it."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from vgpt.attention.config import AttentionConfig
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.registry import variants
from vgpt.package import PACKAGE

FAMILIES = PACKAGE / "attention"
CONFIG = '''
from typing import Annotated

from pydantic import Field

from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.registry import register_attention


@register_attention("nearest", module="vgpt.attention.{folder}.module:Nearest", summary="sees the nearest tokens only")
class NearestConfig(MHAConfig):
    """Multi-head attention that sees the nearest tokens only."""

    nearest_tokens: Annotated[int, Field(ge=1)] = 64
    """tokens a query may see, itself included"""

    def visible(self, q, k, layer=0, head=0):
        return (k <= q) & (q - k < self.nearest_tokens)

    def pairs(self, tokens):
        full = min(self.nearest_tokens, tokens)
        return full * (full + 1) // 2 + (tokens - full) * full


@register_attention("nearby", module="vgpt.attention.{folder}.module:Nearest", summary="a second one of the folder")
class NearbyConfig(NearestConfig):
    """The same under another name."""
'''
MODULE = '''
from vgpt.attention.grouped.module import GroupedAttention


class Nearest(GroupedAttention):
    """The module of mha with another mask."""
'''


@pytest.fixture(scope="module")
def enlarged(tmp_path_factory):
    """A copy of the package with one more folder, and a way to run it."""
    place = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, place / "vgpt", ignore=shutil.ignore_patterns("__pycache__"))
    folder = place / "vgpt" / "attention" / "aaa"  # the first by name, which must not make it the first in tables
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "config.py").write_text(CONFIG.replace("{folder}", folder.name))
    (folder / "module.py").write_text(MODULE)

    def run(*words: str) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONPATH": str(place), "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
        done = subprocess.run(
            [sys.executable, "-m", "vgpt", *words], cwd=place, env=environment, capture_output=True, text=True
        )
        return done.returncode, " ".join((done.stdout + done.stderr).replace("│", " ").split())

    return run


def test_a_folder_dropped_into_the_package_is_offered_by_help_with_its_flags(enlarged):
    code, text = enlarged("train", "--help")
    assert code == 0
    # After those that have a place of their own, before the patterns made of them all.
    assert "mha, mqa, gqa, local, sparse, linear, mla, nearest, nearby, mix" in text
    assert "--nearest-tokens" in text
    assert "(nearest: 64, nearby: 64)" in text


def test_a_folder_dropped_into_the_package_is_named_by_compare_and_listed_with_its_costs(enlarged):
    code, text = enlarged("compare", "neerest")
    assert code == 2
    assert "mla, nearest, nearby, mix" in text
    code, text = enlarged("variants", "nearest", "--nearest-tokens", "8")
    assert code == 0
    assert "nearest nearest_tokens=8" in text


@pytest.mark.slow
def test_a_folder_dropped_into_the_package_is_verified_also_inside_a_pattern(enlarged):
    code, text = enlarged("verify", "nearest:nearest_tokens=5+mha", "--checks", "pairs,visibility,in_a_model")
    assert code == 0, text
    assert "all 5 checks passed" in text


def test_every_folder_with_settings_registers_a_variant_and_every_variant_lies_in_one():
    folders = {path.parent.name for path in FAMILIES.glob("*/config.py")}
    homes = [config.__module__ for config in variants().values() if config.__module__.startswith("vgpt.")]
    assert {home.removeprefix("vgpt.attention.").removesuffix(".config") for home in homes} == folders


def test_every_variant_that_is_a_layer_has_its_module_in_its_own_folder():
    for config in variants().values():
        if issubclass(config, AttentionConfig) and config.__module__.startswith("vgpt.attention."):
            assert (FAMILIES / config.__module__.split(".")[2] / "module.py").is_file(), config


def test_no_code_outside_of_a_family_names_it_but_mha_which_all_are_held_against_and_patterns_of_them():
    # The exchange with other models is about particular variants: a variant without a map there is refused or carries
    # its own code.
    named = {
        (path.relative_to(PACKAGE).as_posix(), family)
        for family in {path.parent.name for path in FAMILIES.glob("*/config.py")} - {"grouped", "mix"}
        for path in PACKAGE.rglob("*.py")
        if f"vgpt.attention.{family}." in path.read_text(encoding="utf-8")
        and path.parent.name not in (family, "interchange")
    }
    assert named == set()


def test_a_pattern_is_no_variant_and_states_no_costs_of_its_own():
    pattern = resolve_attention("2xmqa+mha")
    assert not isinstance(pattern, AttentionConfig)
    assert [pattern.at(layer).kind for layer in range(4)] == ["mqa", "mqa", "mha", "mqa"]
    costs = ("params", "matmul_params", "flops", "dense_flops", "decode_flops", "pairs", "visible", "cache_cost")
    assert [name for name in costs if hasattr(pattern, name)] == []


def test_only_patterns_themselves_and_the_grammar_ask_whether_something_is_one():
    askers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"MixConfig|[\"']mix[\"']", path.read_text(encoding="utf-8"))
    }
    assert askers == {"attention/mix/config.py", "attention/grammar.py"}
