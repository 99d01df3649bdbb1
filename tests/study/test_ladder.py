"""A ladder as a study: one comparison per rung, scaled variants, predictions that are recorded and scored."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vgpt.compare.comparison import as_one_family
from vgpt.errors import SettingsError, UsageError
from vgpt.settings.loader import Sources
from vgpt.settings.presets import preset_directory
from vgpt.study.answers import answer_study
from vgpt.study.ladders.answers import answer_ladder, note_predictions
from vgpt.study.ladders.predictions import FILE, read_predictions
from vgpt.study.reproduce import study_command
from vgpt.study.study import make_study

LADDER = """
name = "three"
preset = "demo"
lr = "4e-3 * (n_embd / 32) ^ -0.5"
warmup = 0.1
evaluations = 2

[variants.gqa]
n_kv_head = "n_head / 2"

[variants.mla]
kv_lora_rank = "n_embd / 2"

[settings]
tracker = "journal"
batch_size = 4

[[rungs]]
name = "a"
n_layer = 2
n_embd = 32
n_head = 2
max_tokens = 20_000

[[rungs]]
name = "b"
n_layer = 2
n_embd = 64
n_head = 4
tokens_per_parameter = 0.5

[[rungs]]
name = "c"
n_layer = 2
n_embd = 128
n_head = 8
tokens_per_parameter = 0.5
"""
WORDS = ("mha", "gqa", "mla", "linear")


@pytest.fixture
def study(tmp_path):
    """Make the study of a ladder file's text, with settings as typed on the command line."""

    def make(*words, text=LADDER, **typed):
        (tmp_path / "ladder.toml").write_text(text)
        typed = {"ladder": "ladder.toml", "seeds": "3", **typed}
        return make_study(words or WORDS, Sources(command_line=typed))

    return make


@pytest.fixture
def train(make_run):
    """Make the runs that rungs lack, with losses in which linear loses more, the larger the model."""

    def train(study, rungs=(0, 1, 2), start=1000.0, loss=lambda kind, number: 0.02 * number * (kind == "linear")):
        generator, found = np.random.default_rng(1), []
        for number in rungs:
            for wanted in study.parts[number].answer([]).missing:
                train, model, kind = wanted.config.train, wanted.config.model, wanted.config.model.attn.kind
                settings = {name: getattr(model, name) for name in ("n_layer", "n_embd", "n_head")}
                names = ("lr", "max_steps", "warmup_steps", "batch_size", "eval_interval", "seed")
                settings |= {name: getattr(train, name) for name in names}
                value = 4 - 0.3 * number + loss(kind, number) + generator.normal(0, 0.003)
                run = make_run(wanted.label, settings=settings, metrics={"val/loss": value})
                assert run.settings_hash == wanted.config.settings_hash
                found.append(replace(run, start_time=round(1000 * (start + number))))
        return found

    return train


def answers_of(study, runs):
    return answer_study(study, runs, lambda run: None, print)


def test_every_rung_is_a_comparison_of_its_own_size_budget_and_rate(study):
    found = study()
    assert found.name == "three"
    assert [part.title for part in found.parts] == ["rung = a", "rung = b", "rung = c"]
    for part, width, heads in zip(found.parts, (32, 64, 128), (2, 4, 8), strict=True):
        config = part.request.settings
        assert (config.model.n_embd, config.model.n_head, config.model.n_layer) == (width, heads, 2)
        assert config.train.lr == pytest.approx(4e-3 * (32 / width) ** 0.5, rel=1e-3)
        assert config.run.group == "three"
        assert part.rung.tokens == config.steps * config.tokens_per_step
        assert config.train.warmup_steps == round(0.1 * config.steps)
        assert config.steps / 2 <= config.train.eval_interval < config.steps / 2 + 1
    assert found.parts[0].rung.tokens == 20_480  # 20,000 in whole steps of 512
    rung = found.parts[1].rung
    assert 0 <= rung.tokens - 0.5 * rung.parameters < 512


def test_settings_of_variants_grow_with_the_rung_and_the_words_stay(study):
    found = study("mha", "gqa", "mla", "linear", "mha+gqa")
    wanted = [{run.label for run in part.answer([]).missing} for part in found.parts]
    for labels, heads, rank in zip(wanted, (1, 2, 4), (16, 32, 64), strict=True):
        assert f"gqa:n_kv_head={heads}" in labels
        assert f"mha+gqa:n_kv_head={heads}" in labels
        assert any(label.startswith(f"mla:kv_lora_rank={rank},") for label in labels)
    assert [[term.text for term in part.request.selectors] for part in found.parts] == [[*WORDS, "mha+gqa"]] * 3
    assert found.parts[2].rung.variants[1:3] == ("gqa:n_kv_head=4", "mla:kv_lora_rank=64")


def test_what_is_typed_of_a_variant_goes_before_the_ladder(study):
    found = study("mha", "gqa:n_kv_head=1", "mla", kv_lora_rank="7")
    for part in found.parts:
        labels = {run.label.partition(",")[0] for run in part.answer([]).missing}
        assert labels == {"mha", "gqa:n_kv_head=1", "mla:kv_lora_rank=7"}


def test_the_command_of_a_run_trains_what_the_rung_asks_for(study):
    import shlex

    from vgpt.settings.loader import load_settings
    from vgpt.settings.presets import load_preset
    from vgpt.settings.train import TrainConfig

    for part in study().parts:
        for wanted in part.answer([]).missing:
            words = shlex.split(wanted.command)[4:]  # after vgpt train --preset demo
            typed = {flag[2:].replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
            again = load_settings(TrainConfig, Sources(load_preset("demo"), command_line=typed)).settings
            assert again.settings_hash == wanted.config.settings_hash
    assert study_command(study()) == "vgpt compare mha gqa mla linear --seeds 3 --ladder ladder.toml"


def test_runs_of_a_rung_are_those_of_the_same_settings_without_a_ladder(study, train):
    found = study()
    runs = train(found, rungs=[0])
    config = found.parts[0].request.settings
    typed = {"n_layer": "2", "n_embd": "32", "n_head": "2", "lr": str(config.train.lr), "batch_size": "4"}
    typed |= {"max_steps": "40", "warmup_steps": "4", "eval_interval": "20", "seeds": "3", "tracker": "journal"}
    from vgpt.settings.presets import load_preset

    (plain,) = make_study(["mha", "gqa:n_kv_head=1"], Sources(load_preset("demo"), command_line=typed)).parts
    answer = plain.answer(runs)
    assert (len(answer.rows), answer.missing) == (2, ())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"n_embd": "64"}, "--n-embd 64: the rungs of ladder.toml set this"),
        ({"lr": "0.1"}, "--lr 0.1: the rungs of"),
        ({"warmup_steps": "3"}, "--warmup-steps 3: the rungs of"),
        ({"pos": "rope,learned"}, "the only axis of a ladder"),
        ({"study": "s.toml"}, "--ladder and --study both say"),
    ],
)
def test_flags_that_would_undo_the_rungs_are_refused(study, typed, said):
    with pytest.raises(UsageError, match=said):
        study(**typed)


def test_a_ladder_without_variants_or_with_a_run_is_refused(study):
    (Path("ladder.toml")).write_text(LADDER)
    with pytest.raises(UsageError, match="Name the variants, the baseline first: vgpt compare mha gqa --ladder"):
        make_study([], Sources(command_line={"ladder": "ladder.toml"}))
    with pytest.raises(UsageError, match="'some_run' is a run"):
        study("mha", "some_run")
    with pytest.raises(UsageError, match="--rungs counts rungs"):
        make_study(["mha"], Sources(command_line={"rungs": "2"}))


def test_rungs_out_of_order_and_variants_that_do_not_fit_are_named(study):
    with pytest.raises(UsageError, match="rung b takes no more compute than a"):
        study(text=LADDER.replace("max_tokens = 20_000", "max_tokens = 20_000_000"))
    with pytest.raises(SettingsError, match=r"rung a: gqa.n_kv_head"):
        study(text=LADDER.replace("n_head / 2", "n_head / 4"))


def test_the_rungs_are_one_family(study, train):
    found = study()
    runs = train(found)
    answers = answers_of(found, runs)
    alone = as_one_family([part.answer(runs) for part in found.parts])
    for answer, own in zip(answers, alone, strict=True):
        assert [one.difference.judged.rows for one in answer.comparison.statistics[1:]] == [9] * 3
        assert answer.comparison.statistics == own.statistics
    ladder = answer_ladder(found, answers)
    told = [at.half_width for at in ladder.variants[2].rungs]
    assert told == [answer.comparison.statistics[3].difference.half_width for answer in answers]


def test_the_ladder_holds_trend_score_and_agreement_of_its_rungs(study, train):
    found = study()
    ladder = answer_ladder(found, answers_of(found, train(found)))
    linear = ladder.variants[2]
    xs = [rung.x for rung in ladder.rungs]
    assert linear.trend.slope == pytest.approx(np.polyfit(xs, [at.delta for at in linear.rungs], 1)[0], rel=0.3)
    (made,) = linear.predictions
    assert (made.left_out, made.rung, made.rests_on) == (True, "c", ("a", "b"))
    assert made.observed == linear.rungs[2].delta
    assert ladder.agreement.variants == 4
    assert [names[:2] for names in ladder.agreement.neighbors] == [("a", "b"), ("b", "c")]


def test_the_spelling_by_which_predictions_know_a_variant_stays(study, train):
    # Its digest is in journals of the past.
    found = study()
    (at, *_) = answer_ladder(found, answers_of(found, train(found, rungs=[0]))).variants[2].rungs
    assert at.labels == ("mha", "linear:chunk_size=64,feature_map=elu1,linear_norm=denom")


def test_a_prediction_is_recorded_once_and_scored_when_the_rung_is_run(study, train):
    found = study()
    runs = train(found, rungs=[0, 1])
    before = answers_of(found, runs)
    assert note_predictions(found, before) == 3
    assert note_predictions(found, before) == 0
    lines = [json.loads(line) for line in (Path("runs") / FILE).read_text().splitlines()]
    assert [(line["variant"], line["rung"], line["rests_on"]) for line in lines] == [
        (word, "c", ["a", "b"]) for word in WORDS[1:]
    ]
    shown = answer_ladder(replace(found, parts=found.parts[:2], ladder=study(rungs="2").ladder), before[:2])
    assert [one.next.made for one in shown.variants] == [line["made"] for line in lines]
    begun = lines[0]["made"] + 60
    after = answer_ladder(found, answers_of(found, runs + train(found, rungs=[2], start=begun)))
    for line, one in zip(lines, after.variants, strict=True):
        recorded, left_out = one.predictions
        assert (recorded.made, recorded.left_out, left_out.left_out) == (line["made"], False, True)
        assert [recorded.low, recorded.high] == line["interval95"]
        assert recorded.observed == one.rungs[2].delta
        # Nothing came between: what was foretold then is what leaving the rung out foretells now.
        assert recorded.value == pytest.approx(left_out.value)


def test_a_prediction_that_was_made_after_the_rung_was_begun_is_none(study, train):
    found = study()
    runs = train(found, rungs=[0, 1])
    note_predictions(found, answers_of(found, runs))
    (made, *_) = read_predictions(Path("runs"))
    late = train(found, rungs=[2], start=made.prediction.made - 60)
    ladder = answer_ladder(found, answers_of(found, runs + late))
    assert [[made.left_out for made in one.predictions] for one in ladder.variants] == [[True]] * 3


def test_a_prediction_of_other_conditions_or_settings_is_not_scored(study, train):
    found = study()
    note_predictions(found, answers_of(found, train(found, rungs=[0, 1])))

    def scores(study):
        runs = [replace(run, start_time=2**45) for run in train(study)]
        return [len(one.predictions) for one in answer_ladder(study, answers_of(study, runs)).variants]

    assert scores(found) == [2, 2, 2]
    assert scores(study(text=LADDER.replace("warmup = 0.1", "warmup = 0.2"))) == [1, 1, 1]
    assert scores(study(text=LADDER.replace("n_embd / 2", "n_embd / 4"))) == [2, 1, 2]
    assert scores(study(text=LADDER.replace('name = "three"', 'name = "four"'))) == [1, 1, 1]


def test_a_journal_with_a_torn_line_is_read_as_far_as_it_goes(study, train):
    found = study()
    note_predictions(found, answers_of(found, train(found)))
    path = Path("runs") / FILE
    whole = read_predictions(Path("runs"))
    path.write_text(path.read_text() + '{"ladder": "thr')
    assert read_predictions(Path("runs")) == whole
    assert len(whole) == 3


def test_the_first_rungs_alone_predict_the_next_of_the_file(study, train):
    found = study(rungs="2")
    assert [part.rung.name for part in found.parts] == ["a", "b"]
    ladder = answer_ladder(found, answers_of(found, train(found, rungs=[0, 1])))
    assert ladder.ahead.name == "c"
    assert all(one.next.rung == "c" for one in ladder.variants)


def test_a_sweep_tunes_each_rung_around_the_rate_of_the_rule(study):
    for part in study(sweep_lr="3").parts:
        lr = part.request.settings.train.lr
        assert [rate / lr for rate in part.rates] == pytest.approx([0.5, 1, 2])
        labels = {run.label for request in part.tuning.values() for run in part.answer([]).missing if request}
        assert f"gqa:n_kv_head={part.request.settings.model.n_head // 2}" in labels


@pytest.mark.parametrize("path", sorted((preset_directory() / "ladders").glob("*.toml")), ids=lambda path: path.stem)
def test_the_packaged_ladders_are_sound(path):
    found = make_study(WORDS, Sources(command_line={"ladder": str(path)}))
    sizes = [part.rung for part in found.parts]
    assert all(len(part.answer([]).missing) >= 4 for part in found.parts)
    for rung in sizes:
        named = float(rung.name[:-1]) * 1e6
        assert rung.parameters == pytest.approx(named, rel=0.1)


def test_a_budget_and_a_lowest_rate_of_the_preset_are_not_those_of_the_rungs(study, tmp_path):
    (tmp_path / "own.toml").write_text("[train]\nmax_tokens = 1000\nmin_lr = 1e-5\n")
    for part in study(text=LADDER.replace('preset = "demo"', 'preset = "own.toml"')).parts:
        train = part.request.settings.train
        assert (train.max_tokens, train.min_lr) == (None, None)
        assert part.rung.tokens > 19_000
        wanted = part.answer([]).missing[0]
        assert "--max-tokens none" in wanted.command
    assert "none" not in study().parts[0].answer([]).missing[0].command
