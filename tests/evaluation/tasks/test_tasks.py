"""Every built-in task: what its instances are, which split they belong to, and that nothing else decides them."""

import json
import os
import subprocess
import sys
from hashlib import blake2b

import numpy as np
import pytest

from tests.evaluation.tasks.references import ANSWERS, CONTENTS
from vgpt.evaluation.tasks import IGNORE, resolve_task, tasks
from vgpt.evaluation.tasks.base import SPLITS

KINDS = list(tasks())
# The fewest contents that are allowed, or little more: in draws that knew no splits, thousands would be in two.
SMALL = [
    "mqar:vocab_size=514,n_pairs=1,length=4,test_lengths=",
    "stacked-mqar:n_keys=256,n_values=256,n_pairs=1,length=2",
    "induction:vocab_size=42,n_segment=3,length=8",
    "selective-copy:vocab_size=18,n_copy=4,length=8",
    "noisy-recall:n_keys=2,n_values=2,n_noise=1,noise=0,length=32,test_lengths=,test_noise=",
    "parity:length=16",
    "s3:length=7,n_scored=3",
    "a5:length=3,n_scored=2",
    "passkey:length=11,test_lengths=,test_depths=",
]


def rows(batch):
    return list(zip(batch.inputs.tolist(), batch.targets.tolist(), batch.scored.tolist(), strict=True))


def hold_to_reference(task, n, seed=0, split="train"):
    for inputs, targets, scored in rows(task.batch(seed, split, range(n))):
        asked = [i for i, target in enumerate(targets) if target != IGNORE]
        answers = ANSWERS[task.kind](task, inputs, asked)
        assert {i: targets[i] for i in asked} == answers
        first = len(inputs) - task.n_scored if hasattr(task, "n_scored") else 0
        assert [i for i, counts in enumerate(scored) if counts] == [i for i in asked if i >= first]


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_instances_are_what_the_definition_says(kind):
    hold_to_reference(resolve_task(kind), 10_000)


@pytest.mark.parametrize("kind", KINDS)
def test_instances_are_right_at_every_point_of_the_test_and_in_every_split(kind):
    points = resolve_task(kind).points()
    assert [point.beyond for point in points] == [False, *[True] * (len(points) - 1)]
    for point in points:
        assert point.task.length == point.axes["length"]
        hold_to_reference(point.task, 60, seed=3, split="test")
    hold_to_reference(points[0].task, 60, seed=3, split="validation")


@pytest.mark.parametrize("text", SMALL)
def test_no_instance_is_in_two_splits_whatever_the_seeds(text):
    task = resolve_task(text)
    assert 16 <= task.content_bits() < 18.5
    found = {split: set[tuple[int, ...]]() for split in SPLITS}
    for seed in range(2):
        for split in SPLITS:
            inputs = task.batch(seed, split, range(4000)).inputs.tolist()
            found[split] |= {CONTENTS[task.kind](task, row) for row in inputs}
    train, validation, test = found.values()
    assert min(map(len, found.values())) > 2000
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_a_content_keeps_its_split_at_other_lengths():
    """No passkey, and no list of pairs, of the test was trained on at another length or depth."""
    for text in ("mqar:vocab_size=514,n_pairs=1,length=4,test_lengths=32", SMALL[-1] + ",test_lengths=32/40"):
        task = resolve_task(text)
        trained = task.batch(0, "train", range(8000)).inputs.tolist()
        known = {CONTENTS[task.kind](task, row) for row in trained}
        for point in task.points():
            tested = point.task.batch(0, "test", range(2000)).inputs.tolist()
            assert not known & {CONTENTS[task.kind](task, row) for row in tested}


def test_every_content_belongs_to_a_split_and_the_shares_are_three_quarters_and_two_eighths():
    task = resolve_task("parity:length=16")
    every = (np.arange(1 << 16)[:, None] >> np.arange(16)) & 1
    shares = np.bincount(task.split_of(every), minlength=3) / len(every)
    np.testing.assert_allclose(shares, [0.75, 0.125, 0.125], atol=0.005)
    for i, split in enumerate(SPLITS):
        assert (task.split_of(task.batch(5, split, range(500)).inputs) == i).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_instance_depends_on_seed_split_and_number_and_not_on_its_batch(kind, monkeypatch):
    task = resolve_task(kind)
    whole = rows(task.batch(1, "test", range(30)))
    assert [row for i in range(30) for row in rows(task.batch(1, "test", [i]))] == whole
    assert [row for i in range(0, 30, 7) for row in rows(task.batch(1, "test", range(i, min(30, i + 7))))] == whole
    assert rows(task.batch(1, "test", np.arange(30)[::-1])) == whole[::-1]
    monkeypatch.setattr("vgpt.evaluation.tasks.base._CHUNK_TOKENS", 3 * task.length)
    assert rows(task.batch(1, "test", range(30))) == whole
    assert not {str(row) for row in whole} & {str(row) for row in rows(task.batch(2, "test", range(30)))}


WORKER = """
import json, sys
from vgpt.evaluation.tasks import resolve_task, tasks
index, count = map(int, sys.argv[1:])
mine = {kind: resolve_task(kind).batch(11, "train", range(index, 60, count)).inputs.tolist() for kind in tasks()}
print(json.dumps([mine, "torch" in sys.modules]))
"""


def test_any_number_of_workers_draws_the_same_instances_without_torch():
    count = 3
    words = [[sys.executable, "-c", WORKER, str(index), str(count)] for index in range(count)]
    running = [subprocess.Popen(line, stdout=subprocess.PIPE, env=os.environ) for line in words]
    shares = [json.loads(process.communicate()[0]) for process in running]
    assert [torch for _, torch in shares] == [False] * count
    for kind in KINDS:
        together = [None] * 60
        for index, (share, _) in enumerate(shares):
            together[index::count] = share[kind]
        assert together == resolve_task(kind).batch(11, "train", range(60)).inputs.tolist()


def test_instances_stay_what_they_were(check_golden):
    """Results of different days compare only where these are the same."""
    lines = []
    for kind in KINDS:
        batch = resolve_task(kind).batch(7, "test", range(50))
        arrays = [batch.inputs, batch.targets, batch.scored]
        digest = blake2b(b"".join(array.astype("<i8").tobytes() for array in arrays)).hexdigest()
        lines.append(f"{kind} {digest[:16]}\n")
    check_golden("task_instances.txt", "".join(lines))


@pytest.mark.parametrize("kind", KINDS)
def test_guessing_among_all_answers_scores_chance_and_knowing_them_scores_one(kind):
    task = resolve_task(kind)
    batch = task.batch(0, "test", range(2000))
    answers = batch.targets[batch.scored]
    numbers = np.random.default_rng(0)
    pool = np.unique(answers)
    said = numbers.choice(pool, size=batch.targets.shape)
    guess = task.score(batch, said)
    assert guess.accuracy == pytest.approx(task.chance(), abs=4 * (0.25 / guess.asked.sum()) ** 0.5)
    assert task.score(batch, batch.targets).accuracy == 1.0
    said = np.where(batch.scored, batch.targets, -1)
    said[:500] = -1
    assert task.score(batch, said).accuracy == pytest.approx(0.75, abs=0.02)
    assert task.score(batch, said).right[:500].sum() == 0


def test_a_passkey_counts_as_a_whole():
    task = resolve_task("passkey")
    batch = task.batch(0, "test", range(10))
    said = batch.targets.copy()
    said[:3, -1] += 1
    score = task.score(batch, said)
    assert score.right.tolist() == [0] * 3 + [1] * 7
    assert score.asked.tolist() == [1] * 10


def test_parity_and_words_train_on_every_token_and_count_the_last_ones():
    for kind, n in (("parity", 8), ("s3", 8), ("a5", 4)):
        task = resolve_task(kind)
        batch = task.batch(0, "train", range(5))
        assert (batch.targets != IGNORE).all()
        assert batch.scored.sum(1).tolist() == [n] * 5
        said = batch.targets.copy()
        said[:, :-n] = -1
        assert task.score(batch, said).accuracy == 1.0


def test_gaps_of_queries_follow_the_power_law():
    """Slot s of the first query has weight s^(a-1); the second is drawn among the others by the same weights."""
    task = resolve_task("mqar:n_pairs=2,length=20,power=0.3,test_lengths=")
    batch = task.batch(0, "train", range(20_000))
    weights = np.arange(1, 9) ** (0.3 - 1)
    weights = weights / weights.sum()
    expected = np.diag(weights) @ np.where(np.eye(8), 0, weights / (1 - weights[:, None]))
    found = np.zeros((8, 8))
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        slots = {inputs[i]: (i - 4) // 2 for i in np.flatnonzero(targets != IGNORE)}
        found[slots[inputs[0]], slots[inputs[2]]] += 1
    np.testing.assert_allclose(found / 20_000, expected, atol=4 * (expected.max() / 20_000) ** 0.5)
    off_diagonal = ~np.eye(8, dtype=bool)
    statistic = ((found - 20_000 * expected)[off_diagonal] ** 2 / (20_000 * expected[off_diagonal])).sum()
    assert statistic < 88  # chi-squared with 55 degrees of freedom: 0.3 %


def test_both_copies_stand_at_every_pair_of_places_equally_often():
    task = resolve_task("induction:n_segment=8,length=20,vocab_size=64,test_lengths=")
    batch = task.batch(0, "train", range(15_000))
    second = (batch.targets != IGNORE).argmax(1)
    heads = np.take_along_axis(batch.inputs, second[:, None], 1)
    first = (batch.inputs == heads).argmax(1)
    places = np.bincount(first * 20 + second)
    places = places[places > 0]
    assert len(places) == 15  # the first at 0 to 4, the second at least 8 behind it and at most at 12
    assert ((places - 1000) ** 2 / 1000).sum() < 33  # chi-squared with 14 degrees of freedom: 0.3 %


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_says_where_it_comes_from_and_what_must_learn_it(kind):
    task = tasks()[kind]
    assert "arXiv " in task.source
    assert task.summary
    assert task.control.accuracy >= 0.95
    assert all(info.description for info in task.model_fields.values())
    assert task().points()[-1].beyond
