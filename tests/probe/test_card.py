import json

import pytest
from rich.console import Console

from vgpt.errors import SettingsError
from vgpt.probe.card import FAILS, INCONCLUSIVE, MISSING, PASSES, make_card
from vgpt.report.probe_card import card_page, card_tables, dots, plan_table

LINEAR = "linear:feature_map=elu1"
RATES = (1e-3, 1e-2)


def shown(parts):
    console = Console(width=80, no_color=True, highlight=False)
    with console.capture() as caught:
        for part in parts:
            console.print(part)
    return caught.get()


@pytest.fixture
def card_of(plan_of, with_outcomes):
    def make(found, variants=("mha", "linear"), tasks=("mqar",)):
        plan = plan_of(variants, tasks, lrs=RATES, seeds=2)
        return make_card(with_outcomes(plan, found), facts={"torch": "2"}, made=0.0)

    return make


def results(mha=0.99, linear=0.6):
    """Both rates and seeds of two variants, the second rate a little better than the first."""
    found = {}
    for label, accuracy in (("mha", mha), (LINEAR, linear)):
        found[label, RATES[0]] = [(accuracy - 0.02, accuracy)] * 2
        found[label, RATES[1]] = [(accuracy, accuracy), (accuracy - 0.01, accuracy - 0.01)]
    return found


def test_validation_chooses_the_rate_and_the_test_is_reported(card_of):
    found = results() | {
        (LINEAR, RATES[0]): [(0.7, 0.2), (0.5, 0.3)],
        (LINEAR, RATES[1]): [(0.55, 0.9), (0.55, 0.9)],
    }
    row = card_of(found).tasks[0].rows[1]
    assert row.lr == RATES[0]
    assert row.points[0].seeds == (0.2, 0.3)
    assert (row.points[0].mean, row.points[0].low, row.points[0].high) == (0.25, 0.2, 0.3)
    assert row.validation == {RATES[0]: pytest.approx(0.6), RATES[1]: pytest.approx(0.55)}


def test_where_the_control_passes_a_variant_passes_or_is_below(card_of):
    task = card_of(results()).tasks[0]
    assert task.conclusive
    assert [row.verdict for row in task.rows] == [PASSES, FAILS]


def test_where_the_control_fails_the_card_says_inconclusive(card_of):
    card = card_of(results(mha=0.9))
    assert [row.verdict for row in card.tasks[0].rows] == [INCONCLUSIVE, INCONCLUSIVE]
    text = shown(card_tables(card))
    assert "inconclusive: control mha: 0.895 on validation, 0.95 needed" in " ".join(text.split())
    assert "inconclusive" in card_page(card)
    assert card.as_json()["tasks"][0]["conclusive"] is False


def test_a_variant_that_passes_passes_whatever_the_control_does(card_of):
    rows = card_of(results(mha=0.5, linear=0.99)).tasks[0].rows
    assert [row.verdict for row in rows] == [INCONCLUSIVE, PASSES]


def test_a_control_that_was_not_named_is_trained_and_shown_as_one(card_of, plan_of):
    plan = plan_of(["linear"], ["mqar", "parity"], lrs=RATES, seeds=1)
    assert [[(s.label, s.control, s.asked) for s in one.subjects] for one in plan.tasks] == [
        [("mha", True, False), (LINEAR, False, True)],
        [("gru", True, False), (LINEAR, False, True)],
    ]
    assert {trial.attn.partition(":")[0] for trial in plan.missing[:4]} == {"mha", "gru"}  # the controls come first


def test_every_variant_gets_the_same_rates_and_seeds(plan_of):
    plan = plan_of(["mha", "linear", "local:window_size=8"], ["mqar", "parity"], seeds=2)
    efforts = {tuple((t.lr, t.seed) for t in subject.trials) for one in plan.tasks for subject in one.subjects}
    assert len(efforts) == 1
    assert len(efforts.pop()) >= 6
    for one in plan.tasks:
        assert all(trial.recipe == one.recipe for subject in one.subjects for trial in subject.trials)


def test_trainings_that_are_missing_leave_a_row_without_a_verdict(card_of):
    found = results()
    del found[LINEAR, RATES[1]]
    task = card_of(found).tasks[0]
    assert [row.verdict for row in task.rows] == [PASSES, MISSING]
    assert card_of({}).tasks[0].control is None
    assert "are missing" in shown(card_tables(card_of({})))


def test_the_card_fits_a_terminal_and_shows_seeds_spread_and_state(card_of):
    text = shown(card_tables(card_of(results(), tasks=("mqar", "noisy-recall"))))
    assert max(map(len, text.splitlines())) <= 80
    assert "0.985" in text
    assert "0.98-0.99" in text
    assert "16 KiB" in text  # 2 x 64 features x 32 tokens x 4 bytes
    assert "········2" in text
    assert "conv 3 + mixer, no MLP, width 64" in text


def test_dots_stand_where_their_values_are():
    assert dots([0.0, 1.0]) == "•·······•"
    assert dots([0.5, 0.51, 0.49]) == "····3····"


def test_the_card_as_json_holds_every_seed(card_of):
    table = json.loads(json.dumps(card_of(results()).as_json()))
    (task,) = table["tasks"]
    assert task["rows"][1]["points"][0]["seeds"] == [0.6, 0.59]
    assert task["rows"][1]["validation"][0] == {"lr": 1e-3, "accuracy": pytest.approx(0.58)}
    assert task["points"][0] == "length 32, n_pairs 4"


def test_the_page_holds_tables_figures_and_sources(card_of):
    page = card_page(card_of(results()))
    assert page.count("<svg") == 1
    assert "arXiv 2312.04927" in page
    assert "0.6000, 0.5900" in page
    assert "http" not in page.replace("http-equiv", "")


def test_learned_positions_are_not_tested_beyond_the_training_length(plan_of):
    recipe = plan_of(["mha"], ["mqar:test_lengths=64"], model={"pos": "learned"}).tasks[0].recipe
    assert [point.task.length for point in recipe.points] == [32]
    assert "test" in shown([plan_table(plan_of(["mha"], ["mqar"]))])


def test_what_does_not_fit_the_models_is_refused_all_at_once(plan_of):
    with pytest.raises(SettingsError) as error:
        plan_of(["gqa:n_kv_head=3", "mha"], ["mqar", "parity"])
    assert len(error.value.faults) == 2
    with pytest.raises(SettingsError, match="leaves no layer beside the short convolution"):
        plan_of(["mha"], ["mqar"], model={"n_layer": 1})
