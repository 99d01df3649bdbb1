import re
from pathlib import Path

import vgpt
from vgpt.settings.fields import leaves
from vgpt.settings.train import TrainConfig
from vgpt.tracking import schema
from vgpt.tracking.schema import Metric, Tag

HERE = Path(schema.__file__)
SOURCES = [path.read_text(encoding="utf-8") for path in Path(vgpt.__file__).parent.rglob("*.py") if path != HERE]
GROUPS = {name.split("/")[0] for name in Metric}


def named(pattern):
    return {name for text in SOURCES for name in re.findall(pattern, text)}


def members(kind):
    return {kind[name].value for name in named(rf"\b{kind.__name__}\.([A-Z][A-Z_]+)\b")}


def test_every_metric_that_the_package_names_is_in_the_schema_and_the_other_way_round():
    used = named(rf'"((?:{"|".join(GROUPS)})/[a-z_]+)"')
    assert used | members(Metric) == set(Metric)


def test_every_tag_that_the_package_names_is_in_the_schema_and_the_other_way_round():
    used = named(r'"(vgpt\.[a-z_]+)"') - {"vgpt.attention", "vgpt.tasks"}  # groups of entry points
    assert used | members(Tag) == set(Tag)


def test_every_param_that_the_package_reads_of_a_record_is_a_setting():
    used = named(r'\bparams(?:\.get\(|\[)"([a-z_]+)"')
    assert used
    assert used <= leaves(TrainConfig).keys()


def test_no_name_means_two_things():
    names = [*Metric, *Tag]
    assert len(set(names)) == len(names) == len(Metric.__members__) + len(Tag.__members__)


def test_every_name_is_one_that_mlflow_takes():
    for name in [*Metric, *Tag]:
        assert re.fullmatch(r"[A-Za-z0-9_./-]+", name)
