import pytest

from vgpt.report.audit import NOT_RECORDED, audit
from vgpt.report.grouping import make_row

PLANTED_SETTINGS = [
    ("batch_size", 8, "batch"),
    ("grad_accum", 2, "batch"),
    ("max_steps", 500, "schedule"),
    ("max_tokens", 1_000_000, "schedule"),
    ("lr", 0.001, "schedule"),
    ("min_lr", 0.0001, "schedule"),
    ("warmup_steps", 10, "schedule"),
    ("weight_decay", 0.2, "optimizer"),
    ("beta1", 0.8, "optimizer"),
    ("beta2", 0.99, "optimizer"),
    ("grad_clip", 0.5, "optimizer"),
    ("n_layer", 3, "trunk"),
    ("n_head", 8, "trunk"),
    ("n_embd", 64, "trunk"),
    ("block_size", 64, "trunk"),
    ("mlp_hidden", 300, "trunk"),
    ("activation", "relu2", "trunk"),
    ("bias", False, "trunk"),
    ("tie_weights", False, "trunk"),
    ("dropout", 0.1, "trunk"),
    ("flash", False, "trunk"),
    ("pos", "learned", "positions"),
    ("compile", True, "device"),
    ("eval_interval", 7, "evaluation"),
    ("patience", 3, "evaluation"),
]
PLANTED_TAGS = [
    ("vgpt.data_digest", "data_digest", "data"),
    ("vgpt.tokenizer", "tokenizer", "data"),
    ("vgpt.eval_windows", "eval_windows", "evaluation"),
    ("vgpt.device", "device", "device"),
    ("vgpt.dtype", "dtype", "precision"),
    ("vgpt.torch", "torch", "software"),
    ("vgpt.version", "vgpt", "software"),
]


def test_variant_settings_seed_and_names_may_differ(make_run):
    rows = [
        make_row([make_run("mha"), make_run("mha", settings={"seed": 1338})]),
        make_row([make_run("gqa:n_kv_head=4", settings={"seed": 7, "run_name": "other", "log_interval": 3})]),
    ]
    found = audit(rows)
    assert found.equal
    assert found.flagged == {}
    assert {"data", "budget", "batch", "schedule", "optimizer", "trunk", "positions", "precision"} <= set(found.checked)
    assert {"device", "evaluation", "software"} <= set(found.checked)


@pytest.mark.parametrize(("name", "value", "aspect"), PLANTED_SETTINGS)
def test_a_planted_difference_in_a_setting_is_found_and_named(make_run, name, value, aspect):
    rows = [make_row([make_run("mha")]), make_row([make_run("mqa", settings={name: value})])]
    differences = {entry.name: entry for entry in audit(rows).differences}
    assert differences[name].aspect == aspect
    assert differences[name].values["mqa"].lower() == str(value).lower()
    assert name in audit(rows).flagged["mqa"]
    assert "mha" not in audit(rows).flagged


@pytest.mark.parametrize(("tag", "name", "aspect"), PLANTED_TAGS)
def test_a_planted_difference_in_what_was_computed_is_found_and_named(make_run, tag, name, aspect):
    rows = [make_row([make_run("mha")]), make_row([make_run("mqa", tags={tag: "something else"})])]
    (difference,) = audit(rows).differences
    assert (difference.name, difference.aspect) == (name, aspect)
    assert difference.values["mqa"] == "something else"


def test_fewer_tokens_are_found_where_all_settings_agree(make_run):
    rows = [make_row([make_run("mha")]), make_row([make_run("mqa", metrics={"train/tokens": 1000.0})])]
    (difference,) = audit(rows).differences
    assert (difference.name, difference.values["mqa"]) == ("tokens", "1000")


def test_auto_and_cpu_are_equal_where_the_device_was_the_same(make_run):
    runs = [make_run("mha"), make_run("mqa", settings={"device": "cpu", "dtype": "float32"})]
    assert audit([make_row([run]) for run in runs]).equal


def test_the_place_of_the_data_does_not_matter_but_its_digest_does(make_run):
    moved = make_run("mqa", settings={"data": "elsewhere"})
    assert audit([make_row([make_run("mha")]), make_row([moved])]).equal


def test_a_condition_that_only_one_run_recorded_is_a_difference(make_run):
    bare = make_run("mqa", tags={"vgpt.data_digest": ""})
    (difference,) = audit([make_row([make_run("mha")]), make_row([bare])]).differences
    assert difference.values["mqa"] == NOT_RECORDED


def test_runs_of_one_row_that_disagree_flag_their_row(make_run):
    mixed = make_row([make_run("mha"), make_run("mha", settings={"seed": 2, "lr": 0.001})])
    found = audit([mixed])
    assert [entry.name for entry in found.differences] == ["lr"]
    assert found.flagged == {"mha": ("lr",)}
    assert found.differences[0].values["mha"] == "0.001, 0.002"


def test_nothing_to_compare_is_equal():
    assert audit([]).equal
