"""The rule of threads, in control groups made of files and in real processes bound to CPUs."""

import os
import subprocess
import sys

import pytest

from vgpt.threads import cpu_quota, thread_count, usable_cpus, wait_asleep

V2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture
def machine(tmp_path):
    """Return a function that lays files under a root of their own, and returns it."""

    def lay(mounts, groups, files):
        files = {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return lay


def test_without_control_groups_there_is_no_quota(tmp_path, machine):
    assert cpu_quota(tmp_path) is None
    assert cpu_quota(machine(V2, "0::/a\n", {"sys/fs/cgroup/a/cpu.max": "max 100000\n"})) is None


def test_the_tightest_of_nested_groups_counts(machine):
    files = {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "400000 100000\n", "a/b/c/cpu.max": "max 100000\n"}
    root = machine(V2, "0::/a/b/c\n", {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert cpu_quota(root) == 1.5


def test_version_1_is_read_with_its_own_files_and_nested_too(machine):
    files = {
        "docker/cpu.cfs_quota_us": "-1\n",
        "docker/cpu.cfs_period_us": "100000\n",
        "docker/x/cpu.cfs_quota_us": "50000\n",
        "docker/x/cpu.cfs_period_us": "25000\n",
    }
    files = {f"sys/fs/cgroup/cpu,cpuacct/{name}": text for name, text in files.items()}
    root = machine(V1, "3:cpuset:/elsewhere\n4:cpu,cpuacct:/docker/x\n", files)
    assert cpu_quota(root) == 2.0


def test_the_tighter_of_both_versions_counts(machine):
    v1 = {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}
    files = {f"sys/fs/cgroup/cpu,cpuacct/g/{name}": text for name, text in v1.items()}
    files["sys/fs/cgroup/unified/g/cpu.max"] = "200000 100000\n"
    mounts = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    assert cpu_quota(machine(mounts, "1:cpu,cpuacct:/g\n0::/g\n", files)) == 2.0


@pytest.mark.parametrize(
    ("mounted", "group"),
    [
        ("/docker/x", "/docker/x/task"),  # the host's path, of which only a part is mounted
        ("/", "/../../other"),  # a group outside of the part that is to be seen
        ("/", "/docker/gone"),  # a path of the host that is not here
    ],
)
def test_a_container_finds_its_limit_in_the_part_that_it_sees(machine, mounted, group):
    mounts = f"30 23 0:26 {mounted} /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
    assert cpu_quota(machine(mounts, f"0::{group}\n", {"sys/fs/cgroup/cpu.max": "100000 100000\n"})) == 1.0


@pytest.mark.parametrize(("limit", "cpus"), [("50000", 1), ("100000", 1), ("199999", 1), ("200000", 2)])
def test_a_quota_pays_for_whole_threads_and_for_one_at_least(machine, limit, cpus, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cpus(machine(V2, "0::/\n", {"sys/fs/cgroup/cpu.max": f"{limit} 100000\n"})) == cpus


def test_what_is_asked_for_goes_before_the_environment_and_that_before_the_rest(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    root = machine(V2, "0::/\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"})
    assert thread_count(16, environment={}, root=root) == 4
    assert thread_count(2, environment={}, root=root) == 2  # a library may know better, of physical cores say
    assert thread_count(16, environment={"OMP_NUM_THREADS": "3"}, root=root) is None
    assert thread_count(16, environment={"MKL_NUM_THREADS": "3"}, root=root) is None
    assert thread_count(16, 6, environment={"OMP_NUM_THREADS": "3"}, root=root) == 6


def test_processes_started_together_share_the_threads(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    root = machine("", "", {})
    assert [thread_count(8, environment={"LOCAL_WORLD_SIZE": n}, root=root) for n in ("1", "3", "9")] == [8, 2, 1]
    assert thread_count(8, 6, environment={"LOCAL_WORLD_SIZE": "2"}, root=root) == 3


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"])
def test_how_threads_wait_is_left_to_those_who_say_it(name):
    environment = {name: "said"}
    wait_asleep(environment)
    assert environment == {name: "said"}


def python(code, *, bound=None, **environment):
    """Run a program in a process bound to CPUs, without words on threads but those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "VGPT_"))}
    before = None if bound is None else lambda: os.sched_setaffinity(0, bound)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to CPUs")
def test_a_process_computes_with_the_cpus_it_is_bound_to_unless_it_is_told_otherwise():
    code = (
        "import torch\nfrom vgpt.settings.train import SystemSettings\n"
        "from vgpt.training.hardware.devices import resolve\n"
        "for asked in (None, 3):\n    resolve(SystemSettings(device='cpu', threads=asked))\n"
        "    print(torch.get_num_threads())\n"
    )
    assert python(code, bound={min(os.sched_getaffinity(0))})[0].split() == ["1", "3"]


def test_the_command_has_the_openmp_library_let_its_threads_sleep():
    code = (
        "import sys\nfrom vgpt.cli.app import main\nsys.argv = ['vgpt', '--version']\n"
        "try: main()\nexcept SystemExit: pass\nimport torch\n"
    )
    # The library itself tells what it has read, as it is loaded.
    _, told = python(code, OMP_DISPLAY_ENV="TRUE")
    if "OMP_WAIT_POLICY" not in told:
        pytest.skip("torch's OpenMP library does not show its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in told


def test_processes_of_one_launch_get_a_share_each_unless_the_user_says_otherwise(monkeypatch):
    from vgpt.settings.train import SystemSettings, TrainConfig, WorkerSettings
    from vgpt.training.parallel.launch import threads_of_each

    config = TrainConfig(system=SystemSettings(threads=6), workers=WorkerSettings(nproc=2))
    assert threads_of_each(config) == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_of_each(TrainConfig(workers=WorkerSettings(nproc=2))) == "5"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    assert threads_of_each(TrainConfig(workers=WorkerSettings(nproc=2))) == "7"


def test_threads_are_recorded_and_yet_decide_nothing_that_a_run_learns():
    from vgpt.settings.train import SystemSettings, TrainConfig

    one, free = TrainConfig(system=SystemSettings(threads=1)), TrainConfig()
    assert (one.flat()["threads"], free.flat()["threads"]) == (1, None)
    assert one.settings_hash == free.settings_hash
    # The hash that runs without any threads setting have always had.
    assert free.settings_hash.startswith("591054336c46")
