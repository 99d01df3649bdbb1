import pytest

from vgpt.compare.architecture import architecture_of
from vgpt.compare.audit.conditions import NOT_RECORDED, audit
from vgpt.compare.rows import make_row

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


def test_positions_that_a_variant_brings_along_are_an_unequal_condition(make_run):
    rows = [
        make_row([make_run("mha", settings={"pos": "learned"})]),
        make_row([make_run("mla", settings={"pos": "learned"})]),
    ]
    (difference,) = audit(rows).differences
    assert (difference.aspect, difference.name) == ("positions", "effective_positions")
    assert list(difference.values.values()) == ["learned", "learned+rope:16"]
    rotary = [make_row([make_run(attn, settings={"pos": "rope"})]) for attn in ("mha", "mla")]
    assert audit(rotary).equal


def test_mla_without_its_rotary_part_has_the_positions_of_the_others(make_run):
    settings = {"pos": "learned"}
    rows = [make_row([make_run(attn, settings=settings)]) for attn in ("mha", "mla:qk_rope_head_dim=0")]
    assert audit(rows).equal


def test_what_no_run_recorded_is_named_and_not_called_equal(make_run):
    bare = dict.fromkeys(("vgpt.source", "vgpt.numpy", "vgpt.batches", "vgpt.start", "vgpt.threads"), "")
    found = audit([make_row([make_run(attn, tags=bare)]) for attn in ("mha", "mqa")])
    assert {"source", "numpy", "batches", "first_weights", "threads", "seal"} <= set(found.unrecorded)
    assert not {"source", "numpy", "batches"} & set(found.shared)
    assert found.equal


@pytest.mark.parametrize(
    ("tag", "name"),
    [("vgpt.batches", "batches"), ("vgpt.start", "first_weights"), ("vgpt.start_mlp", "first_mlp_weights")],
)
def test_what_runs_of_one_seed_must_share_is_held_against_each_other(make_run, tag, name):
    rows = [make_row([make_run("mha")]), make_row([make_run("mqa", tags={tag: "other"})])]
    found = audit(rows)
    assert [one.name for one in found.differences] == [name]
    assert found.flagged == {"mqa": (name,)}
    seeds = [make_row([make_run("mha")]), make_row([make_run("mqa", settings={"seed": 7}, tags={tag: "other"})])]
    assert audit(seeds).equal


def test_plug_ins_that_changed_between_seeds_flag_their_row(make_run):
    def run(seed, digest):
        return make_run("mqa", settings={"seed": seed}, tags={"vgpt.plugins": f'{{"mqa": "{digest}"}}'})

    rows = [make_row([make_run("mha")]), make_row([run(1, "a" * 64), run(2, "b" * 64)])]
    assert audit(rows).flagged == {"mqa": ("plug-in of mqa",)}
    assert audit([rows[0], make_row([run(1, "a" * 64), run(2, "a" * 64)])]).equal


def test_commits_that_differ_decide_nothing_where_the_source_is_the_same(make_run):
    rows = [make_row([make_run(attn, tags={"vgpt.git": commit})]) for attn, commit in (("mha", "abc"), ("mqa", "def"))]
    found = audit(rows)
    assert found.equal
    assert "commits differ: abc, def" in found.notes[0]


@pytest.mark.parametrize("pos", ["learned", "none"])
def test_the_architecture_of_a_recorded_run_is_known_whatever_its_positions(make_run, pos):
    config = architecture_of(make_run("mha", settings={"pos": pos}))
    assert config is not None
    assert config.pos == pos
