"""Locks, and file systems that have none."""

import errno
import fcntl
import os

import pytest

from vgpt.data.dataset import open_dataset
from vgpt.data.prepare import prepare
from vgpt.locks import lock, open_folder
from vgpt.settings.prepare import PrepareConfig
from vgpt.tracking.lock import RunLock, lock_owner


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def no_locks(request, monkeypatch):
    """The system call as Lustre without `flock`, and NFS without its lock daemon, answer it."""

    def refuse(descriptor, kind):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_lock_is_held_by_one_until_it_is_closed(tmp_path):
    one, other = open_folder(tmp_path), open_folder(tmp_path)
    assert lock(one) is True
    assert lock(other) is False
    assert lock(other, shared=True, timeout=0.05) is False
    os.close(one)
    assert lock(other) is True
    os.close(other)


def test_data_is_prepared_where_there_are_no_locks(no_locks, tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 400)
    live = tmp_path / ".d.tmp-abcd1234"
    live.mkdir()
    (live / ".lock").touch()
    prepare([str(tmp_path / "a.txt")], PrepareConfig(out=tmp_path / "d", vocab_size=260, workers=1))
    assert open_dataset(tmp_path / "d").manifest.vocab_size == 260
    assert live.is_dir(), "what may belong to a live process stays where nobody can tell"


def test_a_run_goes_on_without_a_lock_and_knows_it(no_locks, tmp_path):
    with RunLock(tmp_path) as held:
        assert not held.held
    assert lock_owner(tmp_path) is None


def test_other_faults_of_a_lock_are_told(tmp_path):
    with pytest.raises(OSError, match="descriptor"):
        lock(10_000)
