"""The guide of tasks, tested from its own text."""

import re
from fractions import Fraction
from pathlib import Path

import pytest

from vgpt.attention import plugins
from vgpt.evaluation.tasks import Draws, Task, registry, resolve_task, tasks

GUIDE = (Path(__file__).parents[3] / "docs/tasks.md").read_text(encoding="utf-8")
(RING,) = re.findall(r"<!-- ring_task\.py -->\n```python\n(.*?)^```", GUIDE, re.S | re.M)
(USE,) = re.findall(r"In Python:\n\n```python\n(.*?)^```", GUIDE, re.S | re.M)


@pytest.fixture
def ring(tmp_path, monkeypatch):
    """Lay the guide's file where its reader would, and forget its task at the end."""
    tasks()
    for module, name in ((registry, "_tasks"), (plugins, "_other_origins")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ring_task.py").write_text(RING)


def test_the_example_is_short():
    assert len(RING.splitlines()) <= 50


def test_the_example_works_as_the_guide_uses_it(ring, capsys):
    exec(USE, {})
    assert capsys.readouterr().out == "(100, 16) 1.0\n"
    task = resolve_task("ring")
    assert [point.label for point in task.points()] == ["length 16", "length 32", "length 64"]
    batch = task.batch(0, "train", range(200))
    for steps, places in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert [sum(steps[: i + 1]) % 3 for i in range(16)] == places
    assert batch.scored.sum(1).tolist() == [1] * 200


def test_the_example_comes_with_every_command(ring, vgpt):
    done = vgpt("--plugin", "ring_task.py", "variants")
    assert (done.code, done.err) == (0, "")


def test_the_table_is_that_of_the_built_in_tasks():
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| ([\d,/]+) \| `(\w+)`(?:, (one|three) layers?)? \|$", GUIDE, re.M)
    found = {kind: (float(Fraction(chance.replace(",", ""))), control) for kind, chance, control, _ in rows}
    assert found == {kind: (pytest.approx(task().chance()), task.control.attn) for kind, task in tasks().items()}
    layers = {kind: {"one": 1, "three": 3, "": 2}[word] for kind, *_, word in rows}
    assert layers == {kind: task.control.n_layer for kind, task in tasks().items()}


def test_every_name_of_the_guide_is_there():
    fields = {name for task in tasks().values() for name in task.model_fields}
    known = fields | {name for owner in (Task, Draws) for name in dir(owner)} | set(tasks())
    names = set(re.findall(r"`([a-z_]{4,})`", GUIDE))
    assert names - known - {"inputs", "targets", "content", "scored"} == set()
    assert names >= {"shuffled", "weighted", "faults", "test_depths"}
    assert "parity:length=15" in GUIDE
    for label in re.findall(r"`([a-z0-9-]+:[\w=,/]+)`", GUIDE):
        if label != "parity:length=15":
            resolve_task(label)
