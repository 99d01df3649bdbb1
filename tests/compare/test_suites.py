"""Suites over the runs of a comparison, checked against plain formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from vgpt.compare.choose import compare
from vgpt.compare.suites.collect import collect_suites
from vgpt.report.as_json import as_json
from vgpt.report.tables import tables
from vgpt.tracking.suites.record import Figure, TaskResult

DOCUMENTS = 60


def result(seed, *, better=0.0, digest="asked", task="choices", weights=()):
    """A made-up run's results: some documents are hard for all."""
    hard = np.random.default_rng(0).normal(size=DOCUMENTS)
    own = np.random.default_rng(seed).normal(size=DOCUMENTS)
    bits = 3 - better + 0.5 * hard + 0.1 * own
    acc = (hard + 0.3 * own < better).astype(float)
    values = {"acc": tuple(acc), "bits_per_byte": tuple(bits)}
    figures = {
        name: Figure(float(np.mean(each)), float(np.std(each, ddof=1)) / math.sqrt(DOCUMENTS))
        for name, each in values.items()
    }
    return TaskResult(
        *(task, "multiple_choice", "", 0, DOCUMENTS, DOCUMENTS, digest, figures, {"acc": True, "bits_per_byte": False}),
        values=values,
        weights=weights,
    )


@pytest.fixture
def rows(make_run, ask):
    runs = [make_run(attn, settings={"seed": seed}) for attn in ("mha", "mqa") for seed in (1, 2, 3)]
    return compare(ask("mha", "mqa"), runs).rows


def reader(rows, results):
    known = {id(run): results.get((row.attn, run.seed), []) for row in rows for run in row.runs}
    return lambda run: {one.task: one for one in known[id(run)]}


def test_differences_are_paired_by_document_and_by_seed(rows):
    results = {(attn, str(seed)): [result(10 * seed + len(attn) + (attn == "mqa"), better=0.4 * (attn == "mqa"))]
               for attn in ("mha", "mqa") for seed in (1, 2, 3)}  # fmt: skip
    found = collect_suites(rows, reader(rows, results))["choices"]
    here, there = ([results[attn, str(seed)][0] for seed in (1, 2, 3)] for attn in ("mqa", "mha"))
    figure = found.rows[rows[1].label].figures["bits_per_byte"]
    means = [[one.figures["bits_per_byte"].value for one in side] for side in (here, there)]
    within = np.subtract(*means)
    assert figure.value == pytest.approx(np.mean(means[0]))
    assert figure.difference.delta == pytest.approx(np.mean(within))
    assert (figure.difference.method, figure.difference.over) == ("paired", "seeds and windows")
    assert figure.difference.half_width >= stats.t.ppf(0.975, 2) * stats.sem(within) * 0.99
    by_document = np.mean([a.values["bits_per_byte"] for a in here], 0) - np.mean(
        [b.values["bits_per_byte"] for b in there], 0
    )
    assert figure.difference.eval_se == pytest.approx(stats.sem(by_document))
    assert figure.difference.eval_se < 0.3 * figure.se
    assert found.rows[rows[0].label].figures["acc"].difference is None


def test_runs_that_were_asked_something_else_are_named_and_not_compared(rows):
    results = {(attn, str(seed)): [result(seed)] for attn in ("mha", "mqa") for seed in (1, 2, 3)}
    results["mqa", "2"] = [result(2, digest="otherwise")]
    results["mqa", "3"] = [replace(result(3), dtype="bfloat16")]
    results["mha", "1"] = [replace(result(1), step=10)]
    rows[0].runs[0].metrics["train/steps"] = 20.0
    found = collect_suites(rows, reader(rows, results))["choices"]
    assert found.rows[rows[0].label].earlier == (rows[0].runs[0].run_name,)
    row = found.rows[rows[1].label]
    names = [run.run_name for run in rows[1].runs]
    assert (row.runs, row.missing) == (1, tuple(names[1:]))
    assert found.rows[rows[0].label].missing == ()


def test_texts_weigh_by_their_bytes(rows):
    sizes = tuple(range(10, 10 + DOCUMENTS))
    results = {(attn, "1"): [result(better, better=better, weights=sizes)] for attn, better in (("mha", 0), ("mqa", 1))}
    figure = collect_suites(rows, reader(rows, results))["choices"].rows[rows[1].label].figures["bits_per_byte"]
    here, there = (np.array(results[attn, "1"][0].values["bits_per_byte"]) for attn in ("mqa", "mha"))
    assert figure.difference.delta == pytest.approx(float(((here - there) * sizes).sum() / sum(sizes)))


def test_tables_and_json_tell_of_suites(make_run, ask):
    runs = [make_run(attn) for attn in ("mha", "mqa")]
    comparison = compare(ask("mha", "mqa"), runs)
    plain = len(tables(comparison))
    assert as_json(comparison)["suites"] is None
    results = {(row.attn, run.seed): [result(len(row.attn))] for row in comparison.rows for run in row.runs}
    results["mqa", comparison.rows[1].runs[0].seed] = [result(7, better=1.0)]
    suites = collect_suites(comparison.rows, reader(comparison.rows, results))
    told = replace(comparison, suites=suites)
    assert len(tables(told)) > plain
    table = as_json(told)["suites"]["choices"]["rows"][comparison.rows[1].label]["figures"]["bits_per_byte"]
    assert table["difference"]["over"] == "documents"
    assert table["difference"]["ci95"][0] < table["difference"]["delta"] < table["difference"]["ci95"][1] < 0
