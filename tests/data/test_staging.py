"""Nothing half-written: killed, interrupted, on a full disk or twice at once, the target is whole or not there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vgpt.data.dataset import open_dataset
from vgpt.data.manifest import Manifest
from vgpt.data.prepare import prepare
from vgpt.data.staging import publish, staging
from vgpt.errors import DataError
from vgpt.settings.commands import PrepareConfig

ROOT = Path(__file__).parents[2]
# A preparation that stops at a stage and waits there to be killed, its workers running.
PREPARE = """
import resource, signal, sys, time
from pathlib import Path
import vgpt.data.encode
from vgpt.data.prepare import prepare
from vgpt.errors import VgptError
from vgpt.settings.commands import PrepareConfig

class Stop:
    def start(self, stage, total, unit="bytes"):
        self.stage = stage
    def advance(self, amount):
        if self.stage == sys.argv[3]:
            print("there", flush=True)
            time.sleep(60)
    def finish(self):
        pass

if __name__ == "__main__":
    vgpt.data.encode._TASK_BYTES = 2000
    # A shell starts what runs in its background deaf to Ctrl-C, and these tests with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[4] != "0":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
    config = PrepareConfig(out=Path(sys.argv[2]), vocab_size=300, workers=int(sys.argv[5]), overwrite=True)
    try:
        prepare([sys.argv[1]], config, Stop())
    except VgptError as error:
        print(type(error).__name__, error)
        sys.exit(1)
"""


def started(source: Path, out: Path, *, stage: str = "", limit: int = 0, workers: int = 1) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", PREPARE, str(source), str(out), stage, str(limit), str(workers)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.")]


@pytest.mark.parametrize(("stage", "workers"), [("reading", 1), ("encoding", 2)])
def test_a_killed_preparation_leaves_nothing_that_the_next_one_does_not_sweep(
    stories: Path, tmp_path: Path, stage: str, workers: int
) -> None:
    out = tmp_path / "set"
    with started(stories, out, stage=stage, workers=workers) as process:
        wait_for(process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert not out.exists()
    assert len(leftovers(out)) == 1
    assert len(children) >= (workers if workers > 1 else 0)
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
    prepare([str(stories)], PrepareConfig(out=out, vocab_size=300))
    assert leftovers(out) == []


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_interrupted_preparation_cleans_up_at_once(stories: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "set"
    with started(stories, out, stage="encoding", workers=workers) as process:
        wait_for(process)
        children = psutil.Process(process.pid).children(recursive=True)
        for victim in (process.pid, *(child.pid for child in children)):  # as a terminal sends Ctrl-C: to all of them
            os.kill(victim, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("KeyboardInterrupt") == 1
    assert not out.exists()
    assert leftovers(out) == []
    assert not psutil.wait_procs(children, timeout=120)[1]


def test_a_killed_replacement_leaves_the_old_data_set(prepared: tuple[Path, Manifest], book: Path) -> None:
    out, manifest = prepared
    with started(book, out, stage="encoding") as process:
        wait_for(process)
        process.kill()
    assert open_dataset(out, verify=True).manifest == manifest


def test_a_full_disk_ends_in_a_clear_error_and_nothing_else(book: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    for limit in (1, 1000, 8000, 20_000, 60_000):
        with started(book, out, limit=limit) as process:
            words, errors = process.communicate(timeout=250)
        if process.returncode == 0:
            assert limit == 60_000
            continue
        assert process.returncode == 1, errors
        assert words.startswith(("DataError no room to write", "TokenizerError cannot write"))
        assert not errors
        assert not out.exists()
        assert leftovers(out) == []


def test_a_folder_that_cannot_be_made_is_refused(book: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        prepare([str(book)], PrepareConfig(out=book / "below" / "a" / "file", vocab_size=300))


def test_a_live_preparation_is_not_swept_by_another(stories: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    with started(stories, out, stage="encoding") as process:
        wait_for(process)
        prepare([str(stories)], PrepareConfig(out=out, vocab_size=300))
        assert len(leftovers(out)) == 1
        process.kill()


def test_a_kill_between_the_two_renames_is_mended(prepared: tuple[Path, Manifest], stories: Path) -> None:
    out, manifest = prepared
    out.rename(out.parent / f".{out.name}.old-0123abcd")
    assert prepare([str(stories)], PrepareConfig(out=out, vocab_size=300)) == manifest
    assert leftovers(out) == []


def test_what_appeared_meanwhile_is_kept_if_equal_and_refused_if_not(tmp_path: Path) -> None:
    out = tmp_path / "set"
    for text, expected in (("one", None), ("one", None), ("two", "meanwhile")):
        with staging(out) as folder:
            (folder / "manifest.json").write_text(text)
            if expected:
                with pytest.raises(DataError, match=expected):
                    publish(folder, out, overwrite=False)
            else:
                publish(folder, out, overwrite=False)
        assert (out / "manifest.json").read_text() == "one"
    with staging(out) as folder:
        (folder / "manifest.json").write_text("two")
        publish(folder, out, overwrite=True)
    assert (out / "manifest.json").read_text() == "two"
    assert leftovers(out) == []


def test_a_data_set_is_as_readable_as_any_new_folder(prepared: tuple[Path, Manifest], tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert prepared[0].stat().st_mode == (tmp_path / "plain").stat().st_mode


MEMORY = """
import resource, sys
from pathlib import Path
from vgpt.data.prepare import prepare
from vgpt.settings.commands import PrepareConfig
if __name__ == "__main__":
    import vgpt.text.bpe, vgpt.text.engine, numpy
    for name in sys.argv[2:]:
        prepare([name], PrepareConfig(out=Path(sys.argv[1]), tokenizer=sys.argv[1] + "-tok", workers=1, overwrite=True))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_size_of_the_text(prepared: tuple[Path, Manifest], tmp_path: Path) -> None:
    out, _ = prepared
    out.rename(tmp_path / "big-tok")
    line = "It was the best of times, it was the worst of times, number {}.\n"
    text = "".join(line.format(i % 1000) for i in range(16_000))
    small, large, rows = tmp_path / "small.txt", tmp_path / "large.txt", tmp_path / "large.jsonl"
    small.write_text(text * 3)
    with large.open("w") as stream:
        for _ in range(18):
            stream.write(text)
    with rows.open("w") as stream:
        for start in range(18):
            stream.write(json.dumps({"text": f"{start}\n{text}"}) + "\n")
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "big"), str(small), str(large), str(rows)]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    of_small, of_large, of_rows = map(int, result.stdout.split())
    # 3 MB, then 19 MB of one document, then 19 MB of documents: what is held in memory stays the same few megabytes.
    assert of_large - of_small < 12
    assert of_rows - of_small < 12


def test_time_of_writing_is_not_in_the_files(stories: Path, tmp_path: Path) -> None:
    sets = []
    for name in ("a", "b"):
        prepare([str(stories)], PrepareConfig(out=tmp_path / name, vocab_size=280))
        sets.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
        time.sleep(1.1 if name == "a" else 0)
    assert sets[0] == sets[1]
