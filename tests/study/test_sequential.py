"""Plans that add seeds: followed look by look from what is on record, written down, and held to ever after."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.tiny import TINY
from vgpt.errors import SettingsError, TrackingError, UsageError
from vgpt.report.as_json import as_json
from vgpt.report.formats import as_markdown
from vgpt.report.html.page import ReportSection, as_html
from vgpt.report.json_schema import ComparisonTable
from vgpt.report.tables import tables
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.answers import answer_study
from vgpt.study.requirements import make_required_study
from vgpt.study.sealing import allowed_seeds
from vgpt.study.sequential import follow, plan_of, read_plans, refuse_another, rule_of, study_at, write_plan
from vgpt.study.study import make_study

NOISE = (0.001, -0.002, 0.0015, -0.0005, 0.002, -0.001, 0.0, 0.001)
RUNS = Path("runs")


def study_of(*requirements, words=("mha", "mqa"), **typed):
    sources = Sources(load_preset("demo"), command_line={"seeds": "auto", "max_seeds": "6", **typed})
    return make_required_study(list(words), sources, requirements)


@pytest.fixture
def record(make_run):
    """Make runs of some seeds from 1337 on; `shift` is the difference to mha."""

    def make(seeds, shift=0.05, attn="mqa", status="finished", first=0):
        return [
            make_run(
                name,
                settings={"seed": 1337 + number},
                metrics={"val/loss": 2.3 + 0.01 * number + (shift + NOISE[number] if name == attn else 0)},
                status=status if name == attn else "finished",
            )
            for number in range(first, seeds)
            for name in ("mha", attn)
        ]

    return make


def followed(study, runs):
    rule = rule_of(study)

    def answer(asked):
        return answer_study(asked, runs, lambda run: None, print, plan)

    plan = None
    plan = plan_of(study, rule, answer(study_at(study, rule.most)))
    return follow(study, rule, answer), plan


def seeds_missing(answers):
    return sorted({wanted.seed for one in answers for wanted in one.comparison.missing})


def test_the_look_at_hand_follows_from_what_is_on_record(record):
    study = study_of(margin="0.01")
    answers, _ = followed(study, [])
    assert seeds_missing(answers) == [1337, 1338, 1339]
    half_a_look = [*record(3, shift=0.009), *record(4, shift=0.009, first=3)[:1]]
    for runs in (record(3, shift=0.009), half_a_look):  # killed between two runs or not
        answers, _ = followed(study, runs)
        assert seeds_missing(answers) == [1340]
    answers, _ = followed(study, record(3, shift=0.5))
    assert seeds_missing(answers) == []
    assert answers[0].comparison.statistics[1].difference.verdict == "worse"


def test_it_ends_at_the_limit_decided_or_not_and_at_the_first_look_that_decides(record):
    answers, _ = followed(study_of(margin="0.01"), record(6, shift=0.0101))
    assert seeds_missing(answers) == []
    assert answers[0].part.request.look == 6
    assert answers[0].comparison.statistics[1].difference.verdict == "worse"
    assert not answers[0].comparison.statistics[1].difference.answer.decided
    answers, _ = followed(study_of(margin="0.01"), record(6, shift=0.2))
    assert answers[0].part.request.look == 3, "seeds beyond the look that decided are not shown"


@pytest.mark.parametrize("attn", ["gqa", "linear"])
def test_a_row_that_lost_a_seed_gets_no_more_of_them_and_the_others_go_on(record, attn):
    lost = record(4, attn=attn, status="diverged", first=3)
    runs = [*record(4, shift=0.009), *record(3, attn=attn), *lost]
    study = study_of(words=("mha", "mqa", attn), margin="0.01")
    answers, _ = followed(study, runs)
    wanted = {(run.config.model.attn.kind, run.seed) for run in answers[0].comparison.missing}
    assert wanted <= {(kind, seed) for kind in ("mha", "mqa") for seed in (1341, 1342)}
    assert any("gets no more seeds" in remark for remark in answers[0].comparison.remarks)


def test_requirements_are_what_is_to_be_decided_and_the_plan_has_the_seeds(record):
    study = study_of("mqa equal-within 0.01")
    assert not study.first.every_seed
    answers, _ = followed(study, record(3, shift=-0.0085))  # no worse at once; equal within only later
    assert answers[0].comparison.statistics[1].difference.answer.decided
    assert seeds_missing(answers) == [1340]
    with pytest.raises(UsageError, match="--seed "):
        study_of("mqa equal-within 0.01", seed="7")


def rendered(comparison):
    console = Console(file=io.StringIO(), width=200, no_color=True)
    for part in tables(comparison):
        console.print(part)
    return " ".join(console.file.getvalue().split())


def test_later_comparisons_of_such_runs_say_so_and_have_the_intervals_of_the_look(record):
    runs = record(5, shift=0.004)
    plain = make_study(["mha", "mqa"], Sources(load_preset("demo"), command_line={"seeds": "5", "margin": "0.01"}))
    (before,) = answer_study(plain, runs, lambda run: None, print)
    _, plan = followed(study_of(margin="0.01"), runs)
    write_plan(RUNS, plan, [])
    (after,) = answer_study(plain, runs, lambda run: None, print)
    fixed, found = before.comparison.statistics[1].difference, after.comparison.statistics[1].difference
    assert found.half_width > fixed.half_width
    assert after.comparison.statistics[0].interval.half_width > before.comparison.statistics[0].interval.half_width
    assert before.comparison.sequential is None
    assert (after.comparison.sequential.look, after.comparison.sequential.rule.looks) == (3, 4)
    says = "look 3 of at most 4 (5 of at most 6 seeds)"
    page = as_html([ReportSection(after.comparison, [])], command="vgpt", made=0)
    for view in (rendered(after.comparison), page, as_markdown(after.comparison)):
        assert says in " ".join(view.split())
    told = as_json(after.comparison)
    ComparisonTable.model_validate(told)
    assert (told["sequential"]["look"], told["sequential"]["max_seeds"]) == (3, 6)
    assert told["rows"][1]["statistics"]["difference"]["ci95"][1] == pytest.approx(found.bounds.high)


def test_seeds_beyond_the_plan_get_no_verdict_and_other_runs_keep_their_intervals(record):
    _, plan = followed(study_of(margin="0.01"), record(6))
    write_plan(RUNS, plan, [])
    beyond = make_study(["mha", "mqa"], Sources(load_preset("demo"), command_line={"seeds": "8"}))
    (answer,) = answer_study(beyond, record(8), lambda run: None, print)
    one = answer.comparison.statistics[1].difference
    assert (one.judged, one.half_width) == (None, None)
    assert one.verdict == "n=8 is beyond the 6 seeds of its plan: no verdict"
    other = make_study(["mha", "gqa"], Sources(load_preset("demo"), command_line={"seeds": "8"}))
    (answer,) = answer_study(other, record(8, attn="gqa"), lambda run: None, print)
    assert answer.comparison.sequential is None


def test_a_plan_is_written_once_and_another_limit_is_refused(record):
    study = study_of(margin="0.01")
    answers, plan = followed(study, record(2))
    assert plan.seeds_before == 2
    write_plan(RUNS, plan, [])
    write_plan(RUNS, plan, read_plans(RUNS))
    (made,) = read_plans(RUNS)
    assert replace(made, made=0.0) == plan
    _, longer = followed(study_of(margin="0.01", max_seeds="8"), record(3))
    with pytest.raises(UsageError, match="--max-seeds 8 is not that of the plan") as failure:
        refuse_another(longer, [made], [one.comparison for one in followed(study, record(3))[0]])
    assert failure.value.hint.endswith("--max-seeds 6")
    assert answers


@pytest.mark.parametrize("text", ["{", "{}", '{"schema": "vgpt.seed-plan/1", "max_seeds": 1}', "[1]"])
def test_a_plan_that_cannot_be_read_is_an_error_and_no_fixed_number(text):
    RUNS.mkdir()
    (RUNS / "seed-plan-0.json").write_text(text)
    with pytest.raises(TrackingError, match=r"seed-plan-0\.json cannot be read"):
        read_plans(RUNS)


def test_sealing_allows_every_seed_up_to_the_limit():
    assert allowed_seeds(study_of().first) == list(range(1337, 1343))
    unlimited = make_study(["mha", "mqa"], Sources(load_preset("demo"), command_line={"seeds": "auto"}))
    assert len(allowed_seeds(unlimited.first)) == rule_of(unlimited).most == 12


def test_what_makes_no_sense_is_refused():
    with pytest.raises(SettingsError, match="--max-seeds limits --seeds auto"):
        make_study(["mha", "mqa"], Sources(command_line={"max_seeds": "5"}))
    with pytest.raises(SettingsError, match="--sweep-lr exclude each other"):
        make_study(["mha", "mqa"], Sources(command_line={"seeds": "auto", "sweep_lr": "3"}))
    for words in ([], ["mha"], ["mha", "some-run"]):
        with pytest.raises(UsageError, match="adds seeds to variants"):
            rule_of(study_of(words=words))


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["mha", "mqa"], {"equivalent": "tokens"}),
        (["mha", "mqa"], {"ladder": "presets/ladders/cpu.toml"}),
        ([], {"from_": "mha", "to": "mqa"}),
    ],
)
def test_intervals_of_a_fixed_number_of_seeds_are_not_mixed_with_those_of_looks(words, typed, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(UsageError, match="exclude each other"):
        rule_of(make_study(words, Sources(command_line={"seeds": "auto", **typed}, preset=load_preset("demo"))))


@pytest.mark.slow
def test_real_runs_stop_where_they_are_decided_and_go_on_where_they_were_left(vgpt):
    words = ["compare", "mha", "mqa", *TINY, "--n-layer", "2", "--json", "--no-bench"]
    auto = [*words, "--seeds", "auto", "--max-seeds", "4"]
    loose, tight = [*auto, "--margin", "2"], [*auto, "--margin", "0.0000001"]

    def told(arguments):
        result = vgpt(*arguments)
        assert result.code == 0, result.err
        return json.loads(result.out)

    plan = told([*loose, "--plan"])
    assert (plan["missing"], plan["sequential"]["at_most"]["missing"]) == (6, 8)
    assert read_plans(RUNS) == []
    found = told([*loose, "--run-missing"])
    assert (found["rows"][1]["n"], found["sequential"]["look"]) == (3, 1)
    assert len(read_plans(RUNS)) == 1
    found = told([*tight, "--run-missing"])
    assert (found["rows"][1]["n"], found["sequential"]["look"]) == (4, 2)
    assert found["rows"][1]["statistics"]["difference"]["decided"] is False
    later = told([*words, "--seeds", "4"])
    assert later["sequential"]["look"] == 2
