import pytest

from vgpt.compare.choose import compare
from vgpt.errors import SettingsError, UsageError
from vgpt.settings.compare import CompareConfig
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.presets import load_preset


def labels(comparison):
    return [row.label for row in comparison.rows]


def test_given_conditions_choose_exactly_the_runs_of_these_settings(make_run, ask):
    right = [make_run("mha"), make_run("gqa")]
    wrong = [make_run("mha", settings={"lr": 0.1}), make_run("gqa:n_kv_head=4")]
    found = compare(ask("mha", "gqa", preset="demo"), [*wrong, *right])
    assert [row.runs for row in found.rows] == [(right[0],), (right[1],)]
    assert labels(found) == ["mha", "gqa:n_kv_head=2"]
    assert not found.missing
    assert found.audit.equal


def test_the_newest_of_several_runs_with_the_same_settings_counts(make_run, ask):
    older, newer = make_run("mha", run_name="a"), make_run("mha", run_name="b")
    for order in ([older, newer], [newer, older]):
        assert compare(ask("mha", preset="demo"), order).rows[0].runs == (newer,)


def test_a_missing_variant_is_wanted_with_the_flags_that_were_given(make_run, ask):
    found = compare(ask("mha", "mqa", preset="demo", max_steps="50", flash=False, experiment="my lab"), [])
    assert [wanted.command for wanted in found.missing] == [
        f"vgpt train --preset demo --attn {attn} --no-flash --max-steps 50 --experiment 'my lab'"
        for attn in ("mha", "mqa")
    ]


def test_the_command_for_a_missing_run_rebuilds_its_settings(make_run, ask):
    wanted = compare(ask("mha", "gqa", preset="demo", n_kv_head="4", lr="3e-4"), []).missing[1]
    assert wanted.arguments == ("train", "--preset", "demo", "--attn", "gqa:n_kv_head=4", "--lr", "3e-4")
    assert wanted.title == "gqa:n_kv_head=4"
    trained = make_run("gqa", settings={"n_kv_head": 4, "lr": 3e-4})
    assert trained.tags["vgpt.settings_hash"] == wanted.config.settings_hash


def test_seeds_count_up_from_the_given_one_and_only_missing_ones_are_wanted(make_run, ask):
    runs = [make_run("mha", settings={"seed": seed}) for seed in (5, 6)]
    found = compare(ask("mha", preset="demo", seed="5", seeds="3"), runs)
    assert found.rows[0].seeds == ("5", "6")
    assert [(wanted.seed, wanted.arguments[-2:]) for wanted in found.missing] == [(7, ("--seed", "7"))]
    assert found.rows[0].wanted == 3


def test_more_seeds_on_record_are_mentioned(make_run, ask):
    runs = [make_run("mla", settings={"kv_lora_rank": 8, "seed": seed}) for seed in (1337, 1338, 1339)]
    found = compare(ask("mla:kv_lora_rank=8", preset="demo"), runs)
    assert found.rows[0].seeds == ("1337",)
    assert found.remarks == ("mla:kv_lora_rank=8 has 3 seeds on record: --seeds 3",)


def test_an_environment_variable_fixes_the_conditions_as_a_flag_does(make_run, ask):
    assert ask("mha", env={"VGPT_LR": "0.1"}).fixed
    assert ask("mha", lr="0.1").fixed
    assert not ask("mha", env={"VGPT_TRACKER": "journal"}, seeds="3", experiment="other", kv_at="16").fixed


def test_without_conditions_the_newest_runs_count_and_those_like_the_baseline_come_first(make_run, ask):
    mha = make_run("mha", settings={"lr": 0.01})
    fair, newer_but_other = make_run("gqa", settings={"lr": 0.01}), make_run("gqa")
    found = compare(ask("mha", "gqa"), [newer_but_other, fair, mha])
    assert [row.runs for row in found.rows] == [(mha,), (fair,)]
    assert found.audit.equal


def test_without_conditions_unequal_runs_are_shown_flagged_and_the_fair_run_is_wanted(make_run, ask):
    mha, gqa = make_run("mha", settings={"lr": 0.01, "n_layer": 3}), make_run("gqa")
    found = compare(ask("mha", "gqa"), [gqa, mha])
    assert labels(found) == ["mha", "gqa:n_kv_head=2"]
    assert set(found.audit.flagged) == {"gqa:n_kv_head=2"}
    (wanted,) = found.missing
    fair = make_run("gqa", settings={"lr": 0.01, "n_layer": 3})
    assert wanted.config.settings_hash == fair.tags["vgpt.settings_hash"]
    assert compare(ask("mha", "gqa"), [gqa, mha, fair]).audit.equal


def test_without_conditions_all_seeds_of_the_newest_settings_are_averaged(make_run, ask):
    runs = [make_run(attn, settings={"seed": seed}) for seed in (1, 2, 3) for attn in ("mha", "mqa")]
    found = compare(ask("mha", "mqa"), runs)
    assert [row.seeds for row in found.rows] == [("1", "2", "3"), ("1", "2", "3")]


def test_seeds_without_conditions_start_at_the_lowest_of_the_baseline(make_run, ask):
    found = compare(ask("mha", "mqa", seeds="2"), [make_run("mha", settings={"seed": 4})])
    assert [(wanted.label, wanted.seed) for wanted in found.missing] == [("mha", 5), ("mqa", 4), ("mqa", 5)]


def test_no_terms_show_every_variant_on_record_under_its_settings(make_run, ask):
    runs = [make_run("mqa"), make_run("gqa:n_kv_head=4"), make_run("gqa"), make_run("mha")]
    for request in (ask(), ask(preset="demo")):
        found = compare(request, runs)
        assert labels(found) == ["mha", "mqa", "gqa:n_kv_head=2", "gqa:n_kv_head=4"]
        assert not found.missing


def test_unfinished_runs_are_mentioned_and_never_averaged_in(make_run, ask):
    runs = [make_run("mha"), make_run("mqa", status="running", run_name="my_run")]
    runs += [make_run("gqa", status=status, run_name=status) for status in ("failed", "killed", "diverged")]
    for request in (ask("mha", "mqa", "gqa"), ask("mha", "mqa", "gqa", preset="demo")):
        found = compare(request, runs)
        assert labels(found) == ["mha"]
        assert found.remarks == (
            "1 run of mqa is still running: my_run",
            "1 run of gqa failed: failed",
            "1 run of gqa was stopped early: killed",
            "1 run of gqa diverged: diverged",
        )
        assert [wanted.label for wanted in found.missing] == ["mqa", "gqa:n_kv_head=2"]


def test_a_run_is_named_by_its_name_its_directory_or_its_checkpoint(make_run, ask):
    runs = [make_run("mha"), make_run("gqa", run_name="mine"), make_run("gqa")]
    for word in ("mine", "runs/mine", "runs/mine/", "/data/runs/mine/ckpt/best"):
        found = compare(ask("mha", word), runs)
        assert labels(found) == ["mha", "mine (gqa:n_kv_head=2)"]
        assert found.rows[1].runs == (runs[1],)


def test_a_word_that_is_neither_variant_nor_run_is_refused_with_the_nearest_name(make_run, ask):
    with pytest.raises(UsageError, match="'mqq' is neither a variant nor a recorded run; did you mean 'mqa'"):
        compare(ask("mha", "mqq"), [make_run("mha")])


def test_a_missing_baseline_is_said(make_run, ask):
    found = compare(ask("mha", "mqa", preset="demo"), [make_run("mqa")])
    assert found.remarks == ("mha has no run to show; differences are against mqa",)


def test_two_terms_that_mean_the_same_runs_give_one_row(make_run, ask):
    assert labels(compare(ask("gqa", "gqa:n_kv_head=2"), [make_run("gqa")])) == ["gqa:n_kv_head=2"]


def test_rows_are_sorted_after_the_baseline(make_run, ask):
    runs = [make_run(attn) for attn in ("mqa", "gqa", "mha")]
    assert labels(compare(ask("mqa", "gqa", "mha", sort="loss"), runs)) == ["mqa", "mha", "gqa:n_kv_head=2"]
    assert labels(compare(ask("mqa", "mha", "gqa", sort="kv"), runs)) == ["mqa", "gqa:n_kv_head=2", "mha"]


@pytest.mark.parametrize(
    ("words", "typed", "message"),
    [
        (("mha",), {"attn": "gqa"}, "--attn gqa makes no sense here"),
        (("mha",), {"run_name": "x"}, "--run-name x makes no sense here"),
        (("mha", "mha"), {}, "'mha' is named twice"),
        (("mha",), {"n_kv_head": "4"}, "--n-kv-head belongs to gqa; this comparison names mha"),
        ((), {"n_kv_head": "4"}, "--n-kv-head belongs to gqa; this comparison names no variant"),
        (("gqa:n_kv_head=2",), {"n_kv_head": "4"}, "--n-kv-head: every variant that has it sets it already"),
        (("gqa:n_kv_hed=2",), {}, "unknown setting; did you mean 'n_kv_head'"),
        (("gqa:n_kv_head=-1",), {}, "greater than or equal to 1"),
        (("gqqa:n_kv_head=2",), {}, "unknown attention 'gqqa'; did you mean 'gqa'"),
        (("mha",), {"lr": "-1", "n_layer": "0"}, "--n-layer = '0'(.|\n)*--lr = '-1'"),
        (("mha",), {"seeds": "0"}, "--seeds = '0'"),
    ],
)
def test_wrong_requests_are_refused_with_the_cause(ask, words, typed, message):
    with pytest.raises(UsageError, match=message):
        ask(*words, **typed)


def test_a_variant_that_does_not_fit_the_given_backbone_is_refused(ask):
    with pytest.raises(SettingsError, match="--n-kv-head 3 must divide --n-head 4"):
        compare(ask("gqa:n_kv_head=3", preset="demo"), [])


def test_a_variant_that_does_not_fit_the_baselines_backbone_is_a_remark(make_run, ask):
    found = compare(ask("mha", "gqa:n_kv_head=3"), [make_run("mha", run_name="base")])
    assert labels(found) == ["mha"]
    assert "gqa:n_kv_head=3 does not fit the conditions of base" in found.remarks[0]


def test_a_setting_from_the_environment_reaches_the_variants_that_have_it(ask):
    request = ask("mha", "gqa", "gqa:n_kv_head=1", preset="demo", env={"VGPT_N_KV_HEAD": "4", "VGPT_ATTN": "mqa"})
    assert [selector.attn for selector in request.selectors] == ["mha", "gqa:n_kv_head=4", "gqa:n_kv_head=1"]


def test_the_settings_of_a_variant_are_loaded_once_for_all_its_seeds(ask, monkeypatch):
    loaded = []

    def counted(model, sources):
        loaded.append(sources.command_line["attn"])
        return load_settings(model, sources)

    asked = ask("mha", "gqa", "mqa", preset="demo", seeds="5", seed="3")
    monkeypatch.setattr("vgpt.compare.request.load_settings", counted)
    missing = compare(asked, []).missing
    assert loaded == ["mha", "gqa", "mqa"]
    assert [run.seed for run in missing] == [run.config.train.seed for run in missing] == [3, 4, 5, 6, 7] * 3
    again = [load_settings(CompareConfig, Sources(load_preset("demo"), command_line=typed(run))) for run in missing]
    assert [one.settings.settings_hash for one in again] == [run.config.settings_hash for run in missing]


def typed(run):
    words = run.command.split()[4:]
    return {flag[2:].replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
