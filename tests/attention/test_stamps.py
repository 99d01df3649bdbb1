"""What is recorded of variants that passed, and whether it still holds."""

import json
import shutil
from datetime import date
from pathlib import Path

import pytest

import vgpt
from vgpt.attention import stamps
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.plugins import load_plugin, named
from vgpt.attention.stamps import stamp_for, write_stamps

TODAY = f"verified {date.today().isoformat()}"
PLUGIN = Path(__file__).parents[1] / "plugin" / "decayed_average.py"


def write(runs, *words):
    remarks = []
    write_stamps(runs, [resolve_attention(word) for word in words], {"vgpt": "0"}, remarks.append)
    return remarks


def stamp(runs, word, n_layer=4):
    return stamp_for(runs, resolve_attention(word), n_layer)


@pytest.fixture
def other_source(monkeypatch):
    """A function that makes vgpt's attention another one than it was."""
    return lambda: monkeypatch.setattr(stamps, "attention_digest", lambda: "another")


def test_a_pass_counts_for_the_settings_that_passed_and_no_others(tmp_path):
    assert stamp(tmp_path, "gqa") == "not verified"
    assert write(tmp_path, "gqa:n_kv_head=4", "mha") == []
    assert stamp(tmp_path, "gqa:n_kv_head=4") == TODAY
    assert stamp(tmp_path, "gqa") == "not verified"


def test_a_mix_is_verified_once_all_its_layers_are(tmp_path):
    write(tmp_path, "mha", "local")
    assert stamp(tmp_path, "local+mha") == TODAY
    assert stamp(tmp_path, "local+mqa") == "not verified: mqa"
    assert stamp(tmp_path, "3xlocal+mqa", n_layer=3) == TODAY  # the pattern is cut off before its last


def test_the_earliest_day_counts(tmp_path):
    write(tmp_path, "mha", "local")
    document = json.loads((tmp_path / stamps.FILE).read_text())
    document["variants"]["mha"]["date"] = "2020-02-02"
    (tmp_path / stamps.FILE).write_text(json.dumps(document))
    assert stamp(tmp_path, "local+mha") == "verified 2020-02-02"


def test_other_source_code_has_not_been_verified(tmp_path, other_source):
    write(tmp_path, "mha")
    other_source()
    assert stamp(tmp_path, "mha") == "changed since verified"
    assert stamp(tmp_path, "mha+mqa") == "not verified: mqa"
    write(tmp_path, "mqa")
    assert stamp(tmp_path, "mha+mqa") == "changed since verified: mha"


def test_a_plug_in_that_was_changed_has_not_been_verified(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.read_text().replace('"decay"', '"stamped_decay"'))
    from vgpt.attention import plugins, registry

    configs, modules, origins = dict(registry._configs), dict(registry._modules), dict(plugins._origins)
    try:
        load_plugin(named(str(file)), lambda: None)
        write(tmp_path, "stamped_decay")
        assert stamp(tmp_path, "stamped_decay") == TODAY
        file.write_text(file.read_text() + "# another\n")
        assert stamp(tmp_path, "stamped_decay") == "changed since verified"
    finally:
        for table, old in ((registry._configs, configs), (registry._modules, modules), (plugins._origins, origins)):
            table.clear()
            table.update(old)


def test_the_digest_is_that_of_all_sources_but_the_kit(tmp_path, monkeypatch):
    package = tmp_path / "vgpt"
    shutil.copytree(Path(vgpt.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    copy = package / "attention"
    monkeypatch.setattr(stamps, "__file__", str(copy / "stamps.py"))
    digest = stamps.attention_digest.__wrapped__
    before = digest()
    assert before == stamps.attention_digest()
    (package / "conformance" / "kit.py").write_text("")
    assert digest() == before
    (copy / "linear" / "module.py").write_text("")
    assert digest() != before


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": 1}', '{"version": 9, "variants": {}}', '{"variants": 1', "\0"]
)
def test_a_file_that_cannot_be_read_is_replaced_with_a_remark(tmp_path, content):
    (tmp_path / stamps.FILE).write_text(content)
    assert stamp(tmp_path, "mha") == "not verified"
    (remark,) = write(tmp_path, "mha")
    assert "cannot be read" in remark
    assert stamp(tmp_path, "mha") == TODAY
    assert [path.name for path in tmp_path.iterdir()] == [stamps.FILE]
