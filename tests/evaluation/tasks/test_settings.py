"""What cannot be a task: one message that names every fault, before anything is drawn."""

from itertools import product

import numpy as np
import pytest
from pydantic import ValidationError

from vgpt.errors import SettingsError
from vgpt.evaluation.tasks import Drawn, Task, resolve_task, split_tasks, tasks
from vgpt.evaluation.tasks.registry import task_label

EVIL = {
    "mqa": "unknown task 'mqa'; did you mean 'mqar'? (known: ",
    "": "unknown task ''",
    "mqar:n_pair=4": "unknown setting 'n_pair'; did you mean 'n_pairs'? (known: length, ",
    "mqar:n_pairs": "'n_pairs' is not of the form setting=value",
    "mqar:=4": "'=4' is not of the form setting=value",
    "mqar:n_pairs=many": "n_pairs = 'many': Input should be a valid integer",
    "mqar:length=-1,n_pairs=0": "n_pairs = '0': Input should be greater than or equal to 1",
    "mqar:length=33": "length = 33: must be even",
    "mqar:length=99999999999999999999": "length = '99999999999999999999': Input should be less than or equal to",
    "mqar:n_pairs=9": "n_pairs = 9: takes a length of at least 36, not 32",
    "mqar:vocab_size=16,length=64,n_pairs=8": "vocab_size 16 has only 7 keys",
    "mqar:vocab_size=127": "vocab_size = '127': Input should be a multiple of 2",
    "mqar:power=nan": "power = 'nan': Input should be",
    "mqar:vocab_size=8,n_pairs=1": "only 12 instances differ, too few to keep training and test apart (at least 65,536",
    "mqar:test_lengths=8": "test_lengths = 8: fits none of the other settings",
    "mqar:test_lengths=64/x": "test_lengths = 'x': Input should be a valid integer",
    "stacked-mqar:n_pairs=17,length=40": "n_pairs = 17: there are only 16 keys",
    "stacked-mqar:n_pairs=9": "n_pairs = 9: takes a length of at least 18, not 16",
    "induction:n_segment=40": "n_segment = 40: takes a length of at least 80, not 32",
    "induction:vocab_size=8": "n_segment = 8: must be below vocab_size 8",
    "selective-copy:n_copy=33": "n_copy = 33: takes a length of at least 66, not 32",
    "selective-copy:n_copy=2": "only 196 instances differ",
    "noisy-recall:length=5": "length = 5: must be even, and at least 4",
    "noisy-recall:noise=1.5": "noise = '1.5': Input should be less than or equal to 1",
    "noisy-recall:noise=1": "only 128 instances differ",
    "parity:length=15": "only 32,768 instances differ",
    "parity:length=32,n_scored=40": "n_scored = 40: more than length 32",
    "parity:test_lengths=8": "test_lengths = 8: fits none of the other settings",
    "s3:length=6,n_scored=2": "only 46,656 instances differ",
    "a5:length=2,n_scored=1": "only 3,600 instances differ",
    "passkey:n_digits=4": "only 10,000 instances differ",
    "passkey:length=10": "length = 10: 5 digits take at least 11 tokens",
    "passkey:test_depths=2": "test_depths = '2': Input should be less than or equal to 1",
}


@pytest.mark.parametrize("text", EVIL)
def test_evil_settings_are_refused_with_one_message(text):
    with pytest.raises(SettingsError) as caught:
        resolve_task(text)
    assert EVIL[text] in caught.value.message
    assert "\n  " not in caught.value.message  # no list of pydantic's own


def test_all_faults_appear_together():
    with pytest.raises(SettingsError) as caught:
        resolve_task("mqar:length=x,n_pairs=0,colour=red")
    assert len(caught.value.faults) == 3
    with pytest.raises(SettingsError, match="must be even; n_pairs = 9: takes"):
        resolve_task("mqar:length=31,n_pairs=9")


@pytest.mark.parametrize("kind", tasks())
def test_what_is_neither_a_split_nor_a_number_is_refused(kind):
    task = resolve_task(kind)
    with pytest.raises(ValueError, match="no split 'dev'"):
        task.batch(0, "dev", [0])
    with pytest.raises(ValueError, match="an instance of a negative number"):
        task.batch(0, "test", [-1])
    assert task.batch(0, "test", []).inputs.shape == (0, task.length)


def test_a_task_is_frozen_and_its_settings_are_checked_when_they_change():
    task = resolve_task("mqar")
    with pytest.raises(ValidationError, match="frozen"):
        task.length = 64
    assert task.at(length=64).length == 64
    with pytest.raises(ValidationError, match="takes a length"):
        task.at(length=8)


def test_a_line_of_tasks_is_parted_where_a_new_one_begins():
    line = "mqar:n_pairs=8,length=64, parity,s3,length=7,test_lengths=32/64"
    assert split_tasks(line) == ["mqar:n_pairs=8,length=64", "parity", "s3:length=7,test_lengths=32/64"]
    with pytest.raises(SettingsError, match="'length=7' belongs to no task"):
        split_tasks("length=7,parity")


@pytest.mark.parametrize("text", ["mqar", "mqar:length=64,test_lengths=128/256,n_pairs=8", "passkey:depth=0.5"])
def test_a_label_is_read_as_the_task_that_it_names(text):
    task = resolve_task(text)
    assert task_label(task) == text
    assert resolve_task(task_label(task)) == task
    assert task_label(resolve_task("passkey:depth=0.5").at(depth=None)) == "passkey"


def test_the_test_sweeps_every_combination_of_its_axes_that_fits():
    task = resolve_task("mqar:test_lengths=16/64,test_pairs=8")
    labels = [point.label for point in task.points()]
    assert labels == [
        "length 32, n_pairs 4",
        "length 32, n_pairs 8",
        "length 16, n_pairs 4",  # eight pairs take 32 tokens
        "length 64, n_pairs 4",
        "length 64, n_pairs 8",
    ]
    assert {point.task.n_tokens for point in task.points()} == {128}
    depths = [point.axes.get("depth") for point in resolve_task("passkey:test_lengths=,test_depths=0/1").points()]
    assert depths == [None, 0.0, 1.0]


class Crooked(Task):
    """A task whose instances the tests bend."""

    length: int = 32
    made: str = "fine"

    @property
    def n_tokens(self):
        return 2

    def content_bits(self):
        return 64

    def chance(self):
        return 0.5

    def draw(self, draws):
        inputs = draws.integers(2, self.length)
        scored, content = None, inputs
        targets = inputs.copy()
        if self.made == "too large":
            inputs = inputs + 1
        if self.made == "negative":
            targets = targets - 1
        if self.made == "short":
            targets = targets[:, 1:]
        if self.made == "silent":
            targets[:] = -100
        if self.made == "scored without a target":
            targets[:, 0], scored = -100, np.ones(inputs.shape, bool)
        if self.made == "all alike":
            content = np.zeros_like(inputs)
        return Drawn(inputs, targets, content, scored)


@pytest.mark.parametrize(
    ("made", "phrase"),
    [
        ("too large", r"inputs outside \[0, 2\)"),
        ("negative", r"targets outside \[0, 2\)"),
        ("short", "targets of "),
        ("silent", "an instance asks nothing"),
        ("scored without a target", "a position is scored and has no target"),
        ("all alike", "its contents hardly differ"),
    ],
)
def test_a_generator_that_breaks_the_contract_is_caught(made, phrase):
    Crooked().batch(0, "test", range(20))
    with pytest.raises(TypeError, match=phrase):
        Crooked(made=made).batch(0, "test", range(20))


@pytest.mark.parametrize(("length", "n_keys", "n_values"), [(4, 3, 2), (8, 2, 3), (10, 3, 2)])
def test_contents_of_noisy_recall_are_counted(length, n_keys, n_values):
    """Against all that there are: every order of keys, the last of which came before, with every value for each."""
    keys = [order for order in product(range(n_keys), repeat=length // 2) if order[-1] in order[:-1]]
    count = sum(n_values ** len(set(order)) for order in keys)
    task = tasks()["noisy-recall"].model_construct(length=length, n_keys=n_keys, n_values=n_values, noise=0.0)
    assert task.content_bits() == pytest.approx(np.log2(count), abs=1e-9)
