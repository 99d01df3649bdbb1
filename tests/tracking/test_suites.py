"""What `vgpt eval --suite` leaves with a run: written beside the sealed record, read back, and brought to MLflow."""

import json
import math
import re
from dataclasses import replace

import pytest

from vgpt.tracking.integrity import faults_of
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.owned_file import Owner, owner_of
from vgpt.tracking.record import read_record
from vgpt.tracking.store import StoreReader, read_local_run, read_runs
from vgpt.tracking.suites.reader import SuiteReader
from vgpt.tracking.suites.record import Figure, TaskResult, metric_name, parse, results_in, save

CHOICES = TaskResult(
    *("choices", "multiple_choice", "1.0", 2, 3, 5, "abc"),
    figures={"acc": Figure(2 / 3, 1 / 3), "bits_per_byte": Figure(1.5, math.nan)},
    higher_is_better={"acc": True, "bits_per_byte": False},
    values={"acc": (1.0, 0.0, 1.0), "bits_per_byte": (1.25, 1.5, 1.75)},
    step=5,
    dtype="float32",
    made=1_000,
)
WHOLE = replace(CHOICES, task="whole", values={"bits_per_byte": (1.5, 1.5, 1.5)}, weights=(10, 20, 30))


def test_what_is_written_is_read_back_and_a_task_replaces_only_itself(tmp_path):
    owner = Owner("id", "seal")
    save(tmp_path, owner, [CHOICES, WHOLE])
    save(tmp_path, owner, [replace(CHOICES, step=9)])
    whole, choices = results_in(tmp_path, owner)
    assert whole.table(values=True) == WHOLE.table(values=True)
    assert choices.table(values=True) == replace(CHOICES, step=9).table(values=True)
    assert math.isnan(choices.figures["bits_per_byte"].se)
    assert choices.values["acc"] == CHOICES.values["acc"]


def test_results_of_another_run_or_of_an_earlier_state_are_none(tmp_path):
    save(tmp_path, Owner("id", "seal"), [CHOICES])
    assert results_in(tmp_path, Owner("other", "seal")) == ()
    assert results_in(tmp_path, Owner("id", "sealed anew")) == ()


@pytest.mark.parametrize("old", ['"value":1.5', '"digest":"abc"', '"step":5', '"acc":[1.0,0.0,1.0]'])
def test_a_changed_file_is_found_out(tmp_path, old):
    path = save(tmp_path, Owner("id", "seal"), [CHOICES])
    text = path.read_text()
    assert old in text
    with pytest.raises(ValueError, match="digest is another"):
        parse(text.replace(old, re.sub(r"[15ac]", "2", old, count=1)).encode(), Owner("id", "seal"))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"digest": 1}', b"[" * 100_000, b"\xff"])
def test_a_damaged_file_holds_nothing(tmp_path, content):
    (tmp_path / "suites.json").write_bytes(content)
    assert results_in(tmp_path, Owner("id", "seal")) == ()


def test_names_are_such_as_mlflow_takes():
    assert metric_name("mmlu::a,b (é)", "exact_match.strict") == "suite/mmlu::a_b _____/exact_match.strict".replace(
        "_____", "___"
    )
    assert re.fullmatch(r"[\w\-. /:]+", metric_name("x\n\t{}", "f1"), re.ASCII)


def test_a_finished_run_has_its_figures_and_its_seal_still_holds(record):
    run_dir = record(summary={"val/loss": 2.0})
    save(run_dir, owner_of(read_record(run_dir)), [CHOICES])
    run = read_local_run(run_dir)
    assert run.metrics["suite/choices/acc"] == pytest.approx(2 / 3)
    assert run.metrics["suite/choices/acc_se"] == pytest.approx(1 / 3)
    assert run.metrics["suite/choices/bits_per_byte"] == 1.5
    assert "suite/choices/bits_per_byte_se" not in run.metrics
    assert faults_of(run) == []


def test_figures_and_file_reach_mlflow_once_and_anew_where_they_change(record, store_uri, tmp_path, monkeypatch):
    run_dir = record(summary={"val/loss": 2.0})
    sync_run(run_dir, tracking_uri=store_uri)
    owner = owner_of(read_record(run_dir))
    save(run_dir, owner, [CHOICES])
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 3
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 0
    better = replace(CHOICES, figures={"acc": Figure(1.0, 0.0)}, made=2_000)
    save(run_dir, owner, [better])
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 2
    (run,) = read_runs(tracking_uri=store_uri)
    assert run.metrics["suite/choices/acc"] == 1.0
    assert {step for step, _ in StoreReader(store_uri).history(run.run_id, "suite/choices/acc")} == {5}
    # On another machine only the store is there.
    run_dir.rename(tmp_path / "gone")
    found = SuiteReader(mlflow=True, tracking_uri=store_uri)(run)
    assert found["choices"].table(values=True) == better.table(values=True)


def test_a_reader_tells_of_a_damaged_file(record):
    run_dir = record(summary={"val/loss": 2.0})
    path = save(run_dir, owner_of(read_record(run_dir)), [CHOICES])
    run = read_local_run(run_dir)
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "0"}))
    read = SuiteReader(mlflow=False)
    assert read(run) == {}
    assert "suites.json of run is damaged" in read.problems[0]
