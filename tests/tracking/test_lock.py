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


WITHOUT_LOCKS = """
import errno, fcntl, os, sys
def flock(*_):
    raise OSError(errno.{code}, os.strerror(errno.{code}))
fcntl.flock = flock
"""


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_where_the_file_system_has_no_locks_a_living_signature_stands_for_one(tmp_path, python, code):
    faulty = WITHOUT_LOCKS.format(code=code)
    holder = python(faulty + HOLDER, tmp_path)
    assert holder.stdout.readline() == "held\n"
    second = python(
        faulty + "from pathlib import Path; from vgpt.tracking.lock import RunLock, lock_owner\n"
        "from vgpt.errors import UsageError\nprint(lock_owner(Path(sys.argv[1])).pid)\n"
        "try:\n  with RunLock(Path(sys.argv[1])): print('taken')\nexcept UsageError as e: print(e.message)",
        tmp_path,
    )
    pid, told = second.communicate()[0].splitlines()
    assert int(pid) == holder.pid
    assert f"process {holder.pid}" in told
    holder.kill()
    holder.wait()
    third = python(
        faulty + "from pathlib import Path; from vgpt.tracking.lock import RunLock, lock_owner\n"
        "with RunLock(Path(sys.argv[1])) as lock: print(lock.note)\nprint(lock_owner(Path(sys.argv[1])))",
        tmp_path,
    )
    note, owner = third.communicate()[0].splitlines()
    assert "has no locks" in note
    assert owner == "None"


@pytest.mark.slow
def test_every_command_works_where_the_file_system_has_no_locks(tmp_path, python):
    """Preparing, training into a store, listing and comparing; the lack is said once."""
    (tmp_path / "t.txt").write_text("".join(f"{i} words that are many enough to learn from\n" for i in range(300)))
    program = WITHOUT_LOCKS.format(code="ENOSYS") + (
        "import contextlib\nfrom vgpt.cli.app import build_app\n"
        "sys.stderr = sys.stdout\n"
        "tiny = '--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --max-steps 2 --eval-windows 2 '\n"
        "tiny += '--device cpu --dtype float32 --tracker journal --data d --run-name one'\n"
        "for words in ('prepare t.txt --out d --vocab-size 280 --workers 1', 'train ' + tiny, 'runs', "
        "'compare --tracker journal'):\n"
        "  try: build_app()(words.split())\n"
        "  except SystemExit as end: print('code', end.code)\n"
    )
    told = python(program).communicate()[0]
    assert told.count("code 0") == 4, told
    assert told.count("has no locks") == 1
