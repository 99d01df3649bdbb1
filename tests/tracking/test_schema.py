import re
from pathlib import Path

import vgpt
from vgpt.tracking import schema

SOURCES = [path.read_text(encoding="utf-8") for path in Path(vgpt.__file__).parent.rglob("*.py")]
GROUPS = {name.split("/")[0] for name in schema.HISTORY_METRICS | schema.SUMMARY_METRICS}


def test_every_metric_that_the_package_names_is_in_the_schema():
    used = {name for text in SOURCES for name in re.findall(rf'"((?:{"|".join(GROUPS)})/[a-z_]+)"', text)}
    assert used <= set(schema.HISTORY_METRICS | schema.SUMMARY_METRICS)


def test_every_tag_that_the_package_names_is_in_the_schema():
    used = {name for text in SOURCES for name in re.findall(r'"(vgpt\.[a-z_]+)"', text)}
    assert used - {"vgpt.attention"} <= set(schema.TAGS)


def test_no_name_means_two_things():
    assert not set(schema.HISTORY_METRICS) & set(schema.SUMMARY_METRICS)


def test_every_name_is_one_that_mlflow_takes():
    for name in [*schema.HISTORY_METRICS, *schema.SUMMARY_METRICS, *schema.TAGS]:
        assert re.fullmatch(r"[A-Za-z0-9_./-]+", name)
