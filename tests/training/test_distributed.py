"""Several processes do what one does: real processes through the real launcher, over gloo."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import distributed as dist

from vgpt.errors import UsageError
from vgpt.training.parallel.distributed import (
    World,
    connection_broke,
    first_host,
    interface_to,
    rendezvous,
    world_of_environment,
)
from vgpt.training.parallel.launch import _outcome

TINY = """
    --n-layer 2 --n-head 2 --n-embd 16 --block-size 16 --batch-size 4 --max-steps 8 --warmup-steps 2 --lr 1e-2
    --eval-interval 4 --eval-windows 7 --device cpu --dtype float32 --tracker journal --log-interval 1 --save-interval 2
"""


def command(corpus, *words: str) -> list[str]:
    return [sys.executable, "-m", "vgpt", "train", "--data", str(corpus), *TINY.split(), *words]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"} | more


def train(place: Path, corpus, *words: str, code: int = 0, **more: str) -> str:
    done = subprocess.run(
        command(corpus, *words), cwd=place, env=environment(**more), capture_output=True, text=True, timeout=250
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def curve(run: Path, name: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["metrics"][name] for line in lines if name in line.get("metrics", {})}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, corpus) -> Path:
    """A run of one process with two micro-steps: what two processes with one each must repeat."""
    place = tmp_path_factory.mktemp("alone")
    train(place, corpus, "--grad-accum", "2", "--run-name", "alone")
    return place / "runs" / "alone"


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_equal_one_with_doubled_accumulation_and_either_continues_the_other(
    tmp_path, corpus, alone, parallel
):
    # Half of it by two processes, the rest by one.
    train(tmp_path, corpus, "--nproc", "2", "--parallel", parallel, "--run-name", "two")
    two = tmp_path / "runs" / "two"
    for metric in ("train/loss", "val/loss", "train/grad_norm"):
        want, got = curve(alone, metric), curve(two, metric)
        assert want.keys() == got.keys()
        assert got == pytest.approx(want, abs=1e-5)
    # Batches are the same ones, in the same order.
    state = "ckpt/step-00000008/state.json"
    hashes = [json.loads((run / state).read_text())["batch_hash"] for run in (alone, two)]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_processes_that_exchange_bfloat16_learn_what_one_in_bfloat16_does(tmp_path, corpus):
    train(tmp_path, corpus, "--dtype", "bfloat16", "--grad-accum", "2", "--run-name", "alone")
    train(tmp_path, corpus, "--dtype", "bfloat16", "--nproc", "2", "--parallel", "fsdp", "--run-name", "two")
    for metric in ("train/loss", "val/loss"):
        want, got = (curve(tmp_path / "runs" / run, metric) for run in ("alone", "two"))
        assert got == pytest.approx(want, abs=5e-3)


@pytest.mark.slow
def test_the_interval_that_an_end_cuts_in_two_keeps_the_loss_of_all_processes(tmp_path, corpus):
    words = ("--nproc", "2", "--log-interval", "4", "--run-name", "cut")
    train(tmp_path, corpus, *words)
    run = tmp_path / "runs" / "cut"
    whole = curve(run, "train/loss")
    for name in ("step-00000008", "last", "best"):
        subprocess.run(["rm", "-r", str(run / "ckpt" / name)], check=True)
    assert "resuming cut at step 6" in train(tmp_path, corpus, *words)
    assert curve(run, "train/loss") == pytest.approx(whole, rel=1e-12)


@pytest.mark.slow
def test_a_run_of_two_sharded_processes_is_continued_by_one(tmp_path, corpus, alone):
    train(tmp_path, corpus, "--nproc", "2", "--parallel", "fsdp", "--run-name", "two")
    run = tmp_path / "runs" / "two"
    for name in ("step-00000008", "last", "best"):
        path = run / "ckpt" / name
        subprocess.run(["rm", "-r", str(path)], check=True)
    talk = train(tmp_path, corpus, "--grad-accum", "2", "--run-name", "two")
    assert "resuming two at step 6" in talk
    assert curve(run, "train/loss") == pytest.approx(curve(alone, "train/loss"), abs=1e-5)


def workers(launcher: int) -> list[psutil.Process]:
    found = psutil.Process(launcher).children(recursive=True)
    return [process for process in found if "vgpt.cli.worker" in " ".join(process.cmdline())]


def started(place: Path, corpus, *words: str) -> subprocess.Popen:
    """Start a long run of two processes and return when it trains."""
    talk = place / "talk.txt"
    with talk.open("w") as file:
        process = subprocess.Popen(
            command(corpus, "--nproc", "2", "--max-steps", "1000000", "--run-name", "long", *words),
            cwd=place,
            env=environment(),
            stderr=file,
            stdout=subprocess.DEVNULL,
        )
    deadline = time.monotonic() + 200
    while not list(place.glob("runs/long/ckpt/step-*")):
        assert time.monotonic() < deadline, talk.read_text()
        assert process.poll() is None, talk.read_text()
        time.sleep(0.1)
    return process


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all processes have ended; one that nobody has asked how it ended is still listed, as a zombie."""
    left = psutil.wait_procs([p for p in processes if not ended(p)], timeout=seconds)[1]
    return all(ended(process) for process in left)


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_the_death_of_one_process_ends_the_others_and_is_told(tmp_path, corpus):
    process = started(tmp_path, corpus)
    family = workers(process.pid)
    assert len(family) == 2
    family[-1].send_signal(signal.SIGKILL)
    assert process.wait(120) == 70
    assert gone(family, 60)
    talk = (tmp_path / "talk.txt").read_text()
    assert "Traceback" not in talk.partition("Error ─")[2]
    assert "failed: ended by SIGKILL" in " ".join(talk.split())


@pytest.mark.slow
def test_the_death_of_the_launcher_leaves_no_process_and_a_whole_run(tmp_path, corpus):
    process = started(tmp_path, corpus)
    family = workers(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert gone(family, 120)
    train(tmp_path, corpus, "--nproc", "2", "--max-steps", "1000000", "--run-name", "long", "--dry-run")


@pytest.mark.slow
def test_ctrl_c_saves_in_all_processes_and_a_retry_is_a_fresh_start(tmp_path, corpus):
    process = started(tmp_path, corpus, "--retries", "1")
    family = workers(process.pid)
    family[0].send_signal(signal.SIGKILL)
    assert gone(family, 120)
    deadline = time.monotonic() + 200
    while "step=" not in (tmp_path / "talk.txt").read_text().partition("resuming long at step")[2]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert "starting afresh, retry 1" in (tmp_path / "talk.txt").read_text()
    assert "stopped at step" in (tmp_path / "talk.txt").read_text()


@pytest.mark.slow
def test_processes_of_torchrun_train_as_one_run(tmp_path, corpus, alone):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = command(corpus, "--run-name", "two")[1:]
    done = subprocess.run(
        [*torchrun, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert curve(tmp_path / "runs" / "two", "train/loss") == pytest.approx(curve(alone, "train/loss"), abs=1e-5)


def srun(places: list[Path], corpus, *words: str, on_each: int = 1024) -> tuple[list[int], list[str]]:
    """Train with one process per place as srun would start them; return how they ended and what they said."""
    ranks = [
        subprocess.Popen(
            command(corpus, *words),
            cwd=place,
            env=environment(
                SLURM_PROCID=str(rank),
                SLURM_NTASKS=str(len(places)),
                SLURM_LOCALID=str(rank % on_each),
                SLURM_JOB_ID=str(os.getpid()),
                SLURM_STEP_NODELIST="localhost",
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, place in enumerate(places)
    ]
    talks = [process.communicate(timeout=250)[1] for process in ranks]
    return [process.returncode for process in ranks], talks


@pytest.mark.slow
def test_machines_that_do_not_share_the_run_refuse_to_train_as_one(tmp_path, corpus):
    train(tmp_path, corpus, "--grad-accum", "2", "--run-name", "two", "--max-steps", "1000", "--save-interval", "2")
    shutil.rmtree(tmp_path / "runs/two/ckpt/step-00001000")
    (tmp_path / "elsewhere").mkdir()
    codes, talks = srun(
        [tmp_path, tmp_path / "elsewhere"], corpus.resolve(), "--run-name", "two", "--max-steps", "1000"
    )
    assert codes == [5, 5], talks
    assert "must be one directory that all machines share" in " ".join(talks[0].replace("│", "").split())


@pytest.mark.slow
def test_weights_shared_out_on_each_of_two_machines_train_as_one_process_does(tmp_path, corpus, alone):
    words = ("--parallel", "hsdp", "--batch-size", "2", "--run-name", "four")
    codes, talks = srun([tmp_path] * 4, corpus, *words, "--dtype", "float32", on_each=2)
    assert codes == [0] * 4, talks
    for metric in ("train/loss", "val/loss", "train/grad_norm"):
        assert curve(tmp_path / "runs/four", metric) == pytest.approx(curve(alone, metric), abs=1e-5)
    # Four processes on two machines have saved whole tensors, which one process goes on from.
    train(tmp_path, corpus, "--run-name", "longer", "--fork", "four", "--max-steps", "9", "--grad-accum", "2")


@pytest.mark.slow
def test_there_is_nothing_to_copy_between_machines_on_one(tmp_path, corpus):
    said = train(tmp_path, corpus, "--nproc", "2", "--parallel", "hsdp", "--run-name", "two", code=2)
    assert "--parallel hsdp copies the model between machines" in " ".join(said.replace("│", "").split())


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "hsdp"])
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and the ip command")
def test_two_hosts_train_as_one(parallel):
    script = Path(__file__).with_name("two_hosts.py")
    done = subprocess.run([sys.executable, script, "--parallel", parallel], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "batches: the same" in done.stdout


def test_the_interface_on_the_way_to_another_machine_is_found():
    assert interface_to("127.0.0.1:29400") in psutil.net_if_addrs()
    assert interface_to("no.such.machine.invalid:29400") is None


@pytest.mark.slow
def test_processes_of_srun_find_each_other(tmp_path, corpus, alone):
    codes, talks = srun([tmp_path, tmp_path], corpus, "--run-name", "two")
    assert codes == [0, 0], talks
    assert curve(tmp_path / "runs" / "two", "train/loss") == pytest.approx(curve(alone, "train/loss"), abs=1e-5)


@pytest.mark.parametrize(
    ("error", "broke"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4403"), True),
        (
            dist.DistBackendError(
                "NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network error\n"
                "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting."
            ),
            True,
        ),
        (dist.DistBackendError("NCCL communicator was aborted on rank 1."), True),
        (
            dist.DistBackendError(
                "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, OpType=ALLREDUCE, "
                "NumelIn=4, NumelOut=4, Timeout(ms)=300000) ran for 300012 milliseconds before timing out."
            ),
            True,
        ),
        (
            dist.DistBackendError(
                "NCCL error in: ProcessGroupNCCL.cpp:81, invalid usage, NCCL version 2.27.5\nncclInvalidUsage: This "
                "usually reflects invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and 0"
            ),
            False,
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), False),
        (ValueError("Connection"), False),
    ],
)
def test_a_broken_connection_is_told_from_a_fault_of_ones_own(error, broke):
    assert connection_broke(error) is broke


def test_a_process_that_nccls_watchdog_ended_says_so(tmp_path):
    log = tmp_path / "run" / "attempt_0" / "1" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("[rank1]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)\n")
    assert "NCCL's watchdog ended this one" in _outcome(tmp_path, 1, -signal.SIGABRT, 0).cause
    assert _outcome(tmp_path, 1, -signal.SIGKILL, 0).cause == "ended by SIGKILL"
    log.write_text("terminate called after throwing an instance of 'std::bad_alloc'\n")
    assert _outcome(tmp_path, 1, -signal.SIGABRT, 0).cause == "ended by SIGABRT"


def test_the_environment_says_which_process_this_is():
    assert world_of_environment({}) is None
    assert world_of_environment({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == World(3, 8, 1)
    assert world_of_environment({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}) == World(2, 4, 0)
    with pytest.raises(UsageError, match="must be numbers"):
        world_of_environment({"RANK": "first", "WORLD_SIZE": "8"})


@pytest.mark.parametrize(
    ("nodes", "first"), [("gpu1", "gpu1"), ("gpu[003-007,9],login1", "gpu003"), ("a,b", "a"), ("n[1,3]x", "n1x")]
)
def test_the_first_host_of_slurms_list_is_found(nodes, first):
    assert first_host(nodes) == first
    assert rendezvous({"SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": nodes}) == f"{first}:20007"
    assert rendezvous({"SLURM_PROCID": "0", "MASTER_ADDR": "x"}) is None
