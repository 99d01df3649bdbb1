"""--profile: a trace of three steps beside a run that is otherwise as it would have been."""

import gzip
import json

import pytest
import torch
from pydantic import ValidationError

from vgpt.settings.compare import CompareConfig
from vgpt.training.display import Quiet
from vgpt.training.run import train_run
from vgpt.training.step_profile import StepProfile


class Heard(Quiet):
    def __init__(self):
        self.said = []

    def notify(self, message):
        self.said.append(message)


def points(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_three_steps_are_traced_and_take_no_part_in_recorded_speeds(settings):
    heard = Heard()
    plain = settings(train__max_steps=15, run__run_name="plain")
    traced = settings(train__max_steps=15, run__run_name="traced", run__profile=True)
    assert plain.settings_hash == traced.settings_hash
    results = [train_run(plain, Quiet()), train_run(traced, heard)]
    assert results[0].summary["val/loss"] == results[1].summary["val/loss"]
    trace = json.loads(gzip.decompress((traced.directory / "trace.json.gz").read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"] if event.get("ph") == "X"]
    steps = [name for name in names if name.endswith("of the process")]
    assert sorted(set(steps)) == [f"step {n} of the process" for n in (11, 12, 13)]
    assert "aten::mm" in names or "aten::addmm" in names
    (told,) = [line for line in heard.said if "of the process traced" in line]
    assert str(traced.directory / "trace.json.gz") in told
    assert any("aten::" in line for line in told.splitlines()[2:])
    assert not any("step 1" in line.split("  ")[-1] for line in told.splitlines()[2:])
    rated = {p["step"] for p in points(traced.directory) if "perf/tokens_per_second" in p["metrics"]}
    logged = {p["step"] for p in points(traced.directory) if "train/loss" in p["metrics"]}
    assert logged == set(range(1, 16))
    assert rated == logged - {11, 12, 13}
    assert not (plain.directory / "trace.json.gz").exists()


def test_a_trace_that_the_end_cuts_short_is_written_and_none_is_told(tmp_path):
    said = []
    profile = StepProfile(tmp_path, torch.device("cpu"), said.append)
    while not profile.takes():
        pass
    profile.trace(lambda: torch.ones(3) @ torch.ones(3))
    profile.close()
    profile.close()
    assert len(said) == 1
    assert "steps 11 to 11" in said[0]
    assert (tmp_path / "trace.json.gz").exists()
    none = StepProfile(tmp_path, torch.device("cpu"), said.append)
    none.takes()
    none.close()
    assert said[1] == "nothing was profiled: the process ended after 1 steps, before its 11th"


def test_runs_too_short_and_comparisons_refuse_it(settings):
    with pytest.raises(
        ValidationError, match=r"--profile traces steps 11 to 13, and the run has 12: raise --max-steps"
    ):
        settings(train__max_steps=12, run__profile=True)
    with pytest.raises(ValidationError, match="give it to vgpt train"):
        CompareConfig.model_validate({"run": {"profile": True}})
