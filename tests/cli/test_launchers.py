"""Variables of launchers beside flags that start processes, and in the environment of what a comparison trains."""

import json
import os
import sys

import pytest
import torch

from vgpt.errors import UsageError
from vgpt.launchers import lonely_note, refuse_missing_srun, refuse_two_counts, without_launcher
from vgpt.study import train_missing as missing

SRUN = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7"}
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    "environment", [{"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, {"RANK": "0", "WORLD_SIZE": "2"}, SRUN]
)
def test_processes_asked_for_within_a_launchers_process_are_refused(vgpt, monkeypatch, tmp_path, environment):
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = vgpt("train", "--nproc", "2")
    assert done.code == 2
    for name in list(environment)[:2]:
        assert f"-u {name}" in " ".join(done.err.replace("│", "").split())
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_was_given_must_be_the_launchers(vgpt, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert vgpt("train", "--nproc", "1").code == 2
    with pytest.raises(UsageError):
        refuse_two_counts(os.environ, "--nproc 1")
    refuse_two_counts(os.environ, "")
    refuse_two_counts({}, "--nproc 2")


def test_a_batch_script_that_forgot_srun_is_told_at_once(vgpt, monkeypatch):
    for name, value in BATCH.items():
        monkeypatch.setenv(name, value)
    done = vgpt("train")
    assert done.code == 2
    assert "srun vgpt train" in " ".join(done.err.replace("│", "").split())
    refuse_missing_srun(SRUN)
    refuse_missing_srun(BATCH | {"RANK": "0", "WORLD_SIZE": "4"})
    refuse_missing_srun(BATCH | {"SLURM_NTASKS": "1"})
    assert "trains alone" in lonely_note({"SLURM_NTASKS": "4"})
    assert lonely_note(SRUN) == lonely_note({}) == ""


def test_what_a_comparison_trains_belongs_to_no_launcher(monkeypatch, tmp_path):
    planted = dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID"), "3")
    for name, value in (SRUN | planted | {"SLURM_STEP_NODELIST": "n1", "KEPT": "yes"}).items():
        monkeypatch.setenv(name, value)
    place = tmp_path / "seen.json"
    program = f"import json, os; json.dump(dict(os.environ), open({str(place)!r}, 'w'))"
    assert missing._call([sys.executable, "-c", program]) == 0
    seen = json.loads(place.read_text())
    assert seen["KEPT"] == "yes"
    assert seen["SLURM_JOB_ID"] == "7"  # where the machine is, is no matter of ranks
    assert not {*SRUN, *planted, "SLURM_STEP_NODELIST"} - {"SLURM_JOB_ID"} & seen.keys()
    assert without_launcher(seen) == seen


def test_as_many_processes_as_gpus_need_a_gpu(vgpt):
    done = vgpt("train", "--nproc", "gpu", "--dry-run")
    if torch.cuda.is_available():
        assert done.code == 0
    else:
        assert done.code == 2
        assert "--nproc gpu: this machine has no CUDA device" in " ".join(done.err.split())
