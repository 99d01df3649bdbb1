import os

import pytest

from vgpt.errors import UsageError
from vgpt.tracking.lock import RunLock, lock_owner

HOLDER = (
    "import sys, time; from pathlib import Path; from vgpt.tracking.lock import RunLock\n"
    "with RunLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path, python):
    process = python(HOLDER, tmp_path)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_trainer_of_a_run_is_refused_and_told_who_holds_it(tmp_path, holder):
    with pytest.raises(UsageError) as caught, RunLock(tmp_path):
        pass
    assert str(holder.pid) in caught.value.message
    assert "--run-name" in caught.value.hint
    owner = lock_owner(tmp_path)
    assert owner is not None
    assert owner.pid == holder.pid


def test_kill_9_frees_the_lock(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert lock_owner(tmp_path) is None
    with RunLock(tmp_path):
        owner = lock_owner(tmp_path)
        assert owner is not None
        assert owner.pid == os.getpid()


def test_leaving_the_block_frees_the_lock(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path):
            assert lock_owner(tmp_path) is not None
        assert lock_owner(tmp_path) is None


def test_nobody_owns_a_run_that_was_never_locked(tmp_path):
    assert lock_owner(tmp_path) is None


def test_readers_that_look_at_the_lock_never_make_a_trainer_fail(tmp_path, python):
    program = (
        "import sys; from pathlib import Path; from vgpt.tracking.lock import lock_owner\n"
        "print('looking', flush=True)\n"
        "while True: lock_owner(Path(sys.argv[1]))\n"
    )
    with RunLock(tmp_path):
        pass
    assert python(program, tmp_path).stdout.readline() == "looking\n"
    for _ in range(100):
        with RunLock(tmp_path):
            pass
