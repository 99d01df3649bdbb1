"""Studies that do more than train named variants over counted seeds are sealed whole, and changes of them are found."""

import json
import shutil

import pytest

from tests.cheats.conftest import STUDY, inside

RULE = STUDY.replace("seeds = 3", 'seeds = "auto"') + 'max_seeds = 4\nmargin = "0.05"\n'
STAIRS = STUDY.replace('variants = ["mha", "mqa"]', 'from = "mha"\nto = "mla:kv_lora_rank=8"')
WORTH = STUDY.replace("max_steps = 4", "max_steps = 20") + 'equivalent = "tokens"\n'


@pytest.fixture
def world(original, tmp_path):
    with inside(tmp_path) as found:
        shutil.copytree(original / "data", "data")
        yield found


@pytest.mark.parametrize(
    ("text", "number", "old", "new", "said"),
    [
        (RULE, 8, "max_seeds = 4", "max_seeds = 6", "compare.max_seeds: 4 when sealed, 6 now"),
        (RULE, 8, '"0.05"', '"0.5"', "compare.margin: 0.05 when sealed, 0.5 now"),
        (RULE, 8, 'seeds = "auto"', "seeds = 4", "compare.seeds: auto when sealed, 4 now"),
        (STAIRS, 12, "kv_lora_rank=8", "kv_lora_rank=12", "staircase: mha -> "),
        (WORTH, 18, 'equivalent = "tokens"', 'equivalent = "flops"', "compare.equivalent: tokens when sealed"),
    ],
)
def test_what_was_sealed_holds_for_every_kind_of_study(world, text, number, old, new, said):
    place = world.place / "study.toml"
    place.write_text(text)
    assert "sealed: plan " in world.says(seal=True)
    assert "what was sealed" not in world.says()
    plan = json.loads((world.runs / "plans" / "pledge.json").read_text())
    assert len(plan["runs"]) == number
    changed = text.replace(old, new)
    place.write_text(changed if "auto" in changed else changed.replace("max_seeds = 4\n", ""))
    told = world.says()
    assert "is not what was sealed" in told
    assert said in told
