"""Recipes whose results are known, at their full length: a minute or two of two processors in all.

Compared with what independent implementations measured, written down in presets/README.md beside what vgpt reached.
"""

import json
from itertools import pairwise

import pytest

from vgpt.evaluation.tasks.registry import resolve_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KNOWN = {"mha": 1.0, "mqa": 1.0, "mla": 0.89, "linear": 0.90, "local": 0.19}
"""Accuracy of MQAR with 128 ids, 32 tokens and 4 pairs after 800 steps."""
PASSES, LINEAR, MLA, WINDOW = 0.95, (0.85, 0.93), (0.8, 0.95), 0.3
NEAR = 0.07


@pytest.fixture
def probed(vgpt, tmp_path, monkeypatch):
    """Run a probe and return its rows by variant: mean accuracies at the points of the only task."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        result = vgpt("probe", *words, "--tracker", "journal", "--seeds", "1", "--json")
        assert result.code == 0, result.err
        (task,) = json.loads(result.out)["tasks"]
        assert task["conclusive"]
        return {row["label"]: [point["mean"] for point in row["points"]] for row in task["rows"]}

    return run


def test_recall_of_four_pairs_is_as_known_of_five_variants(probed):
    recipe = ["--tasks", "mqar:test_lengths=", "--pos", "learned", "--init", "normal", "--lrs", "5e-3"]
    rows = probed("mha", "mqa", "mla", "linear", "local", *recipe, "--stop-at", "none")
    found = {label.partition(":")[0]: points[0] for label, points in rows.items()}
    assert found == pytest.approx(KNOWN, abs=NEAR)
    assert min(found["mha"], found["mqa"]) >= PASSES
    assert LINEAR[0] <= found["linear"] <= LINEAR[1]
    assert MLA[0] <= found["mla"] <= MLA[1]
    assert found["local"] < WINDOW


def share_in_sight(task, width):
    """Return the share of queries whose value stands in a window of so many tokens, the query's own among them."""
    batch = task.batch(1, "test", range(2000))
    seen = []
    for row, scored in zip(batch.inputs, batch.scored, strict=True):
        places = {int(key): 2 * pair + 1 for pair, key in enumerate(row[: 2 * task.n_pairs : 2])}
        seen += [places[int(row[query])] > query - width for query in scored.nonzero()[0]]
    return sum(seen) / len(seen)


def test_a_window_recalls_what_it_sees_and_more_the_wider_it_is(probed):
    widths = [8, 16, 32, 64]  # the first four of the seven in figure 2 of Zoology, arXiv 2312.04927
    recipe = ["--tasks", "mqar:length=64,test_lengths=", "--lrs", "5e-3", "--steps", "500"]
    rows = probed(*(f"local:window_size={width}" for width in widths), *recipe)
    found = [rows[f"local:window_size={width}"][0] for width in widths]
    assert all(wide > narrow + 0.05 for narrow, wide in pairwise(found))
    task = resolve_task("mqar:length=64,test_lengths=")
    assert found == pytest.approx([share_in_sight(task, width) for width in widths], abs=0.03)


def test_neither_attention_nor_a_linear_state_keeps_parity(probed):
    rows = probed("mha", "linear", "--tasks", "parity", "--lrs", "5e-3")
    assert len(rows) == 3
    for label, points in rows.items():
        assert len(points) == 3  # 32, 64 and 128 tokens
        low, high = (0.95, 1.0) if label == "gru" else (0.45, 0.57)
        assert low <= min(points), label
        assert max(points) <= high, label
