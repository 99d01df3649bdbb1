"""`--require`: what is judged, how the command ends, and that who asks the judge picks no seeds."""

import json
from pathlib import Path

import pytest

import vgpt as package
from tests.cli.tiny import TINY
from vgpt.data.prepare import prepare
from vgpt.errors import UsageError
from vgpt.settings.commands import PrepareConfig
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.requirements import exit_code, judgments, make_required_study
from vgpt.study.sealing import plan_path, seal
from vgpt.study.study import Answered, make_study


def study_of(*texts, words=("mha", "mqa", "gqa"), preset="demo", **typed):
    sources = Sources(load_preset(preset) if preset else None, command_line=typed)
    return make_required_study(list(words), sources, texts)


@pytest.fixture
def answered(make_run):
    """Answer a study from made-up losses: mqa is worse by 0.004, gqa by 0.05, each with slight noise."""

    def make(study, seeds=range(1337, 1341), seeds_of_gqa=None):
        runs = []
        for attn, shift in {"mha": 0.0, "mqa": 0.004, "gqa": 0.05}.items():
            own = seeds_of_gqa if attn == "gqa" and seeds_of_gqa is not None else seeds
            runs += [
                make_run(
                    attn,
                    settings={"seed": seed},
                    metrics={"val/loss": 2.3 + 0.01 * (seed % 7) + shift * (1 + 0.05 * (seed % 3))},
                )
                for seed in own
            ]
        return [Answered(part, part.answer(runs)) for part in study.parts]

    return make


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A folder of data in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    prepare([str(Path(package.__file__).parent / "text")], PrepareConfig(out="data", vocab_size=300, workers=1))


def test_a_claim_is_shown_refuted_or_neither_and_the_worst_decides_the_code(answered):
    study = study_of("mqa no-worse-than 0.01", "gqa no-worse-than 0.01", "gqa better-than 0", "mqa equal-within 0.01")
    found = judgments(study, answered(study))
    assert [one.outcome for one in found] == ["shown", "refuted", "refuted", "shown"]
    assert [exit_code(part) for part in (found[:1], found, found[3:], [])] == [0, 10, 0, 0]
    study = study_of("gqa no-worse-than 0.052")
    found = judgments(study, answered(study))
    assert [one.outcome for one in found] == ["undecided"]
    assert exit_code(found) == 11


def test_a_sentence_says_what_the_difference_is_and_would_have_to_be(answered):
    study = study_of("mqa no-worse-than 0.01")
    answers = answered(study)
    (one,) = judgments(study, answers)
    bounds, delta = one.bounds, answers[0].comparison.statistics[1].difference.delta
    assert one.sentence == (
        f"mqa no-worse-than 0.01: shown: difference {delta:+.4f} nats per token over 4 seeds, loses at most "
        f"{bounds.at_most:+.4f}, 95% interval {bounds.low:+.4f} to {bounds.high:+.4f}; must be below 0.01"
    )


def test_better_than_nothing_lies_below_zero(answered):
    study = study_of("mqa better-than 0")
    (one,) = judgments(study, answered(study))
    assert one.sentence.endswith("; must be below 0")


def test_the_margin_of_a_claim_is_that_of_the_tables(answered):
    study = study_of("mqa no-worse-than 0.5%")
    (answer,) = answered(study)
    assert answer.comparison.margin == "0.5%"
    assert answer.comparison.statistics[1].difference.verdict == "equal within 0.5%"
    with pytest.raises(UsageError, match="several margins"):
        study_of("mqa no-worse-than 0.01", "gqa equal-within 0.02")
    with pytest.raises(UsageError, match="several margins"):
        study_of("mqa no-worse-than 0.01", margin="0.02")
    assert study_of("mqa no-worse-than 0.010", margin="0.01").first.settings.compare.margin == "0.01"
    assert study_of("mqa better-than 0.002", margin="0.01").first.settings.compare.margin == "0.01"


def test_every_seed_on_record_counts(answered):
    study = study_of("mqa no-worse-than 0.01")
    (answer,) = answered(study, seeds=[3, 11, 1338, 1337])
    assert [row.seeds for row in answer.comparison.rows] == [("3", "11", "1337", "1338")] * 3
    assert answer.comparison.remarks == ()
    # A seed that a variant lacks is wanted of it: none is left out because it suits nobody.
    (answer,) = answered(study, seeds=[1, 2, 3, 4], seeds_of_gqa=[1, 2])
    assert [(one.label.partition(":")[0], one.seed) for one in answer.comparison.missing] == [("gqa", 3), ("gqa", 4)]


def test_a_seed_that_diverged_is_not_passed_over(make_run, answered):
    study = study_of("mqa no-worse-than 0.01")
    lost = make_run("mqa", settings={"seed": 99}, status="diverged")
    part = study.parts[0]
    runs = [run for answer in answered(study) for row in answer.comparison.rows for run in row.runs]
    comparison = part.answer([*runs, lost])
    assert comparison.statistics[1].difference.verdict == "diverged 1/5: no verdict"
    (one,) = judgments(study, [Answered(part, comparison)])
    assert (one.outcome, one.reason) == ("undecided", "diverged 1/5: no verdict")


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ({"seeds": "3"}, r"--seeds \(command line\)"),
        ({"seed": "1337"}, "--seed "),
        ({"sweep_lr": "3", "sweep_seeds": "2"}, "--sweep-seeds"),
        ({"force": True}, "--force and --require"),
        ({"plan": True}, "--plan and --require"),
    ],
)
def test_who_asks_the_judge_picks_nothing_that_sways_it(typed, why):
    with pytest.raises(UsageError, match=why):
        study_of("mqa no-worse-than 0.01", **typed)


def test_seeds_from_the_surroundings_a_preset_or_a_study_file_are_picked_too(tmp_path):
    with pytest.raises(UsageError, match="environment"):
        make_required_study(["mha", "mqa"], Sources(None, environment={"VGPT_SEEDS": "3"}), ["mqa better-than 0"])
    (tmp_path / "mine.toml").write_text("[train]\nseed = 7\n")
    with pytest.raises(UsageError, match=r"preset .*mine"):
        study_of("mqa better-than 0", preset=str(tmp_path / "mine.toml"))
    (tmp_path / "study.toml").write_text('name = "mine"\nvariants = ["mha", "mqa"]\npreset = "demo"\nseeds = 3\n')
    with pytest.raises(UsageError, match="study file"):
        study_of("mqa better-than 0", words=(), preset=None, study=str(tmp_path / "study.toml"))


def test_a_plan_sealed_before_the_first_run_may_name_its_seeds_and_a_later_or_changed_one_may_not(prepared, tmp_path):
    place = tmp_path / "study.toml"
    text = 'name = "mine"\nvariants = ["mha", "mqa"]\npreset = "demo"\nseeds = 4\n[settings]\nmargin = "0.01"\n'
    text += 'data = "data"\nblock_size = 16\neval_windows = 2\n'

    def asked(claim="mqa no-worse-than 0.01"):
        return study_of(claim, words=(), preset=None, study=str(place))

    place.write_text(text)
    plain = make_study([], Sources(None, command_line={"study": str(place)}))
    seal(plain, existed=[], begun=[], looked=0, made=0)
    assert not asked().first.every_seed
    assert asked().first.seeds_from(1337) == [1337, 1338, 1339, 1340]
    assert asked().requirements[0].relation == "no-worse-than"
    with pytest.raises(UsageError, match="several margins"):
        asked("mqa no-worse-than 0.02")
    place.write_text(text.replace("seeds = 4", "seeds = 3"))
    with pytest.raises(UsageError, match="picks no seeds"):
        asked()
    place.write_text(text)
    assert asked().requirements
    plan_path(plain).unlink()
    seal(plain, existed=["id1"], begun=[], looked=0, made=0)
    with pytest.raises(UsageError, match="picks no seeds"):
        asked()


def test_runs_are_not_judged_by_name():
    with pytest.raises(UsageError, match="who picks runs picks their seeds"):
        study_of("mqa better-than 0", words=("mha", "mqa", "my_run"), preset=None)
    with pytest.raises(UsageError, match="is no variant; did you mean 'mqa'"):
        study_of("mqaa better-than 0")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mla no-worse-than 0.01", "mla is not compared"),
        ("mha no-worse-than 0.01", "mha is the baseline"),
        ("mqa", "is not of the form 'mla no-worse-than 0.01'"),
        ("mqa not-worse-than 0.01", "did you mean 'no-worse-than'"),
        ("mqa no-worse-than 0", "above zero"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused_before_anything_is_trained(text, why):
    with pytest.raises(UsageError, match=why):
        study_of(text)


def test_a_variant_is_named_as_it_is_compared_or_by_settings_that_single_it_out(make_run):
    words = ("mha", "gqa:n_kv_head=2", "gqa:n_kv_head=4")
    with pytest.raises(UsageError, match="may be any of gqa:n_kv_head=2, gqa:n_kv_head=4"):
        study_of("gqa better-than 0", words=words)
    study = study_of("gqa:n_kv_head=4 better-than 0", words=words)
    runs = [
        make_run(attn, settings={"seed": s}, metrics={"val/loss": 2.3 - 0.1 * (attn == words[2]) + 0.001 * s * s})
        for attn in words
        for s in range(3)
    ]
    (one,) = judgments(study, [Answered(part, part.answer(runs)) for part in study.parts])
    assert (one.label, one.outcome) == ("gqa:n_kv_head=4", "shown")
    study = study_of("gqa:n_kv_head=4 better-than 0", words=(), preset=None)
    (one,) = judgments(study, [Answered(part, part.answer(runs)) for part in study.parts])
    assert one.label == "gqa:n_kv_head=4"


def test_a_claim_holds_in_every_part_of_a_study_or_not_at_all(make_run):
    study = study_of("mqa no-worse-than 0.01", words=("mha", "mqa"), pos="learned,rope")
    answers = []
    for part, shift in zip(study.parts, (0.0, 0.05), strict=True):
        runs = [
            make_run(
                attn,
                settings={**part.values, "seed": s},
                metrics={"val/loss": 2.3 + (shift + 0.0001 * s) * (attn == "mqa")},
            )
            for attn in ("mha", "mqa")
            for s in range(4)
        ]
        answers.append(Answered(part, part.answer(runs)))
    found = judgments(study, answers)
    assert [(one.part, one.outcome) for one in found] == [("pos = rope", "refuted"), ("pos = learned", "shown")][::-1]
    assert exit_code(found) == 10
    assert "(pos = rope): refuted" in found[1].sentence


def test_the_command_ends_with_0_10_or_11_and_says_why_on_stderr(vgpt, prepared):
    for attn, seeds in {"mha": 3, "mqa": 3, "linear": 1}.items():
        for seed in range(seeds):
            done = vgpt("train", "--attn", attn, "--seed", seed, "--data", "data", *TINY)
            assert done.code == 0, done.err
    words = ["compare", "mha", "mqa", "linear", "--tracker", "journal"]
    shown = vgpt(*words, "--require", "mqa no-worse-than 1.0", "--json")
    assert shown.code == 0, shown.err
    assert "mqa no-worse-than 1.0: shown: difference" in shown.err
    table = json.loads(shown.out)
    assert [(one["row"], one["outcome"]) for one in table["requirements"]] == [("mqa", "shown")]
    assert table["rows"][1]["statistics"]["difference"]["verdict"] == "equal within 1.0"
    refuted = vgpt(*words, "--require", "mqa better-than 1.0", "--require", "linear no-worse-than 1.0")
    assert refuted.code == 10
    assert "mqa better-than 1.0: refuted" in refuted.err
    assert "linear no-worse-than 1.0: undecided: n=1: no verdict" in refuted.err
    undecided = vgpt(*words, "--require", "linear no-worse-than 1.0", "--html", "report.html")
    assert undecided.code == 11
    assert "equal within 1.0" in Path("report.html").read_text(encoding="utf-8")
    wrong = vgpt(*words, "--require", "mqa no-worse-than 1.0", "--seeds", "3")
    assert wrong.code == 2
    assert "picks no seeds" in " ".join(wrong.err.split())
