"""What `vgpt eval` leaves with a run: written beside the sealed record, read back, and brought to MLflow."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vgpt.tracking.breakdowns.reader import BreakdownReader
from vgpt.tracking.breakdowns.record import (
    LENGTHS,
    POSITIONS,
    REACH,
    RECALL,
    Breakdown,
    Part,
    breakdowns_in,
    parse,
    save,
)
from vgpt.tracking.integrity import faults_of
from vgpt.tracking.mlflow_store.mirror import sync_run
from vgpt.tracking.owned_file import DamagedError, Owner, owner_of
from vgpt.tracking.record import read_record
from vgpt.tracking.store import StoreReader, read_local_run, read_runs


def part(name, at, *losses, counts=4):
    return Part(name, at, np.array(losses), np.broadcast_to(np.array(counts), (len(losses),)))


RECALLED = Breakdown(
    *(RECALL, 5, "3x8:abc", "val", "float32", 8, 1_000),
    parts=(part("repeated", 0, 1.5, 0.0, 2.25, counts=[2, 0, 6]), part("other", 0, 3.0, 2.0, 2.5, counts=[6, 8, 2])),
    documents=(0, 0, 1),
)
PLACED = Breakdown(
    *(POSITIONS, 5, "2x8:abc", "val", "float32", 8, 1_000), parts=(part("1", 1, 4.0, 5.0), part("2-8", 8, 2.0, 2.5))
)
LONG = replace(PLACED, kind=REACH, windows="2x32:def", parts=(part("1-8", 8, 3.0, 3.0), part("9-32", 32, 4.0, 6.0)))
STRETCHED = replace(PLACED, kind=LENGTHS, windows="2x32:def", parts=(part("8", 8, 3.0, 3.5), part("32", 32, 4.0, 4.5)))


def same(one, other):
    pairs = zip(one.parts, other.parts, strict=True)
    return replace(one, parts=()) == replace(other, parts=()) and all(
        (a.name, a.at, a.losses.tolist(), a.counts.tolist()) == (b.name, b.at, b.losses.tolist(), b.counts.tolist())
        for a, b in pairs
    )


def test_what_is_written_is_read_back_and_a_kind_replaces_only_itself(tmp_path):
    owner = Owner("id", "seal")
    save(tmp_path, owner, [RECALLED, PLACED])
    save(tmp_path, owner, [replace(RECALLED, step=9)])
    first, second = breakdowns_in(tmp_path, owner)
    assert same(first, PLACED)
    assert same(second, replace(RECALLED, step=9))


def test_what_was_evaluated_before_a_run_was_trained_further_is_not_its_record(tmp_path):
    save(tmp_path, Owner("id", "seal"), [PLACED])
    assert breakdowns_in(tmp_path, Owner("id", "another seal")) == ()
    assert breakdowns_in(tmp_path, Owner("other", "seal")) == ()
    save(tmp_path, Owner("id", "another seal"), [RECALLED])
    assert [one.kind for one in breakdowns_in(tmp_path, Owner("id", "another seal"))] == [RECALL]


def test_a_changed_or_broken_file_is_told_and_not_believed(tmp_path):
    owner = Owner("id", "seal")
    path = save(tmp_path, owner, [RECALLED])
    whole = path.read_bytes()
    changed = whole.replace(b"2.25", b"1.25")
    assert changed != whole
    for content in (changed, b"", b"[]", b"{}", b"null", whole[:-20], b'{"digest": 1}', b"\xff", b"[" * 100_000):
        with pytest.raises(DamagedError):
            parse(content, owner)
    path.write_bytes(changed)
    assert breakdowns_in(tmp_path, owner) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"parts": []},
        {"kind": "unheard of"},
        {"step": "x"},
        {"documents": [1]},
        {"parts": [{"name": "repeated", "at": 0, "counts": 1, "losses": [1.0]}]},
        {"parts": [{"name": "repeated", "at": 0, "counts": [1, 2], "losses": [1.0]}]},
        {"parts": [{"name": "repeated", "at": 0, "counts": -1, "losses": [1.0]}]},
        {"parts": [{"name": "repeated", "at": 0, "counts": 1, "losses": ["1e999"]}]},
    ],
)
def test_a_file_that_is_whole_and_makes_no_sense_is_damaged_too(tmp_path, change):
    from vgpt.files.digests import json_digest

    owner = Owner("id", "seal")
    table = json.loads(save(tmp_path, owner, [RECALLED]).read_bytes())
    table["breakdowns"][0] |= change
    del table["digest"]
    table["digest"] = json_digest(table)
    with pytest.raises(DamagedError):
        parse(json.dumps(table).encode(), owner)


def test_beyond_the_length_of_training_are_the_spans_that_begin_after_it():
    assert LONG.beyond.loss == pytest.approx(5.0)
    assert PLACED.beyond is None
    assert replace(LONG, block_size=32).beyond is None


def test_a_finished_run_keeps_its_seal_and_has_the_figures_among_its_metrics(record):
    run_dir = record(summary={"val/loss": 2.0})
    before = read_local_run(run_dir)
    save(run_dir, owner_of(read_record(run_dir)), [RECALLED, PLACED, STRETCHED, LONG])
    after = read_local_run(run_dir)
    assert faults_of(before) == faults_of(after) == []
    added = {name: value for name, value in after.metrics.items() if name not in before.metrics}
    assert added["eval/repeated_loss"] == pytest.approx((2 * 1.5 + 6 * 2.25) / 8)
    assert added["eval/other_loss"] == pytest.approx((6 * 3 + 8 * 2 + 2 * 2.5) / 16)
    assert added["eval/repeated_share"] == pytest.approx(8 / 24)
    assert (added["eval/position_loss"], added["eval/length_loss"]) == (2.25, 4.25)
    assert added["eval/beyond_loss"] == 5.0
    assert {one.kind for one in BreakdownReader(mlflow=False)(after).values()} == {RECALL, POSITIONS, LENGTHS, REACH}


def test_mlflow_gets_every_figure_once_and_the_windows_as_an_artifact(record, store_uri, tmp_path):
    run_dir = record(summary={"val/loss": 2.0})
    sync_run(run_dir, tracking_uri=store_uri)
    save(run_dir, owner_of(read_record(run_dir)), [RECALLED, STRETCHED])
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 5 + 4
    assert sync_run(run_dir, tracking_uri=store_uri).sent == 0
    (run,) = read_runs(tracking_uri=store_uri)
    assert run.status == "finished"
    history = StoreReader(store_uri).history(run.run_id, "eval/length_loss")
    assert history == [(8, 3.25), (32, 4.25)]  # MLflow's step is the length
    (run_dir / "tracking.json").unlink()  # as from another machine: all that is known is in the store
    found = BreakdownReader(mlflow=True, tracking_uri=store_uri)(run)
    assert same(found[RECALL], RECALLED)
    assert same(found[LENGTHS], STRETCHED)


def test_a_damaged_file_is_a_problem_that_names_the_run(record):
    run_dir = record(summary={"val/loss": 2.0})
    (run_dir / "evaluations.json").write_text("{}")
    reader = BreakdownReader(mlflow=False)
    assert reader(read_local_run(run_dir)) == {}
    (problem,) = reader.problems
    assert "of run is damaged" in problem
