"""Tasks of others: named or installed as attention variants are, whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vgpt.attention import plugins
from vgpt.attention.plugins import VARIABLE, load_plugins
from vgpt.attention.registry import variants
from vgpt.errors import UsageError
from vgpt.evaluation.tasks import registry, resolve_task, tasks
from vgpt.evaluation.tasks.registry import origin_of_task

ROOT = Path(__file__).parents[3]
HEADER = """
import numpy as np
from vgpt.evaluation.tasks import Drawn, Task, register_task
"""
COPY = """
@register_task("echo")
class Echo(Task):
    "Say what you see."

    source = "of our own"
    length: int = 32

    @property
    def n_tokens(self):
        return 4

    def content_bits(self):
        return 2 * self.length

    def chance(self):
        return 1 / 4

    def draw(self, draws):
        inputs = draws.integers(4, self.length)
        return Drawn(inputs, inputs, content=inputs)
"""
VARIANT = """
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.registry import register_attention
@register_attention("fine", module="vgpt.attention.grouped.module:GroupedAttention")
class C(MHAConfig): ...
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Forget the tasks and variants of a test at its end."""
    from vgpt.attention import registry as attention

    tasks()
    variants()
    tables = [(registry, "_tasks"), (attention, "_configs"), (attention, "_modules")]
    tables += [(plugins, "_origins"), (plugins, "_other_origins")]
    for module, name in tables:
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture
def write(tmp_path):
    def make(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(HEADER + text)
        return path

    return make


def load(*paths):
    load_plugins([str(path) for path in paths], pytest.fail, dict)


def test_a_file_brings_a_task_that_stands_behind_the_built_in_ones(write):
    built_in = list(tasks())
    path = write(COPY)
    load(path)
    assert list(tasks()) == [*built_in, "echo"]
    assert tasks()["echo"].summary == "Say what you see."
    assert resolve_task("echo:length=16").batch(0, "test", range(3)).inputs.shape == (3, 16)
    origin = origin_of_task("echo")
    assert origin is not None
    assert origin.source == str(path)
    assert len(origin.digest) == 64
    assert origin_of_task("mqar") is None
    assert os.environ[VARIABLE] == str(path)


def test_a_file_may_bring_a_variant_and_a_task(write):
    import vgpt

    assert vgpt.load_plugin(write(COPY + VARIANT)) == ["fine", "echo"]
    assert "fine" in variants()
    assert "echo" in tasks()


def test_every_command_takes_a_plugin_with_nothing_but_a_task(write, vgpt):
    done = vgpt("--plugin", write(COPY), "variants")
    assert (done.code, done.err) == (0, "")


def test_a_file_loaded_twice_is_read_once(write):
    path = write(COPY + "print('read')")
    load(path, path)
    load(path)
    assert list(tasks()).count("echo") == 1


def test_an_installed_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "echoing.py").write_text(HEADER + COPY)
    info = tmp_path / "echoing-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echoing\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[vgpt.tasks]\necho = echoing:Echo\n")
    monkeypatch.syspath_prepend(tmp_path)
    load()
    assert "echo" in tasks()
    assert str(origin_of_task("echo")) == "echoing (echoing 0.3)"
    sys.modules.pop("echoing")


def test_tasks_need_neither_torch_nor_the_command_line(write):
    code = (
        "import sys\nfrom vgpt.attention.plugins import load_plugins\nload_plugins([sys.argv[1]], print, dict)\n"
        "from vgpt.evaluation.tasks import resolve_task\nresolve_task('echo').batch(0, 'train', range(2))\n"
        "print(sorted({'torch', 'typer'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, str(write(COPY))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


BROKEN = {
    "error": ("1 / 0", "ZeroDivisionError"),
    "name taken": (COPY.replace("echo", "mqar"), "task 'mqar' is registered twice"),
    "no name": (COPY.replace('"echo"', '"a+b"'), "task 'a+b' is no name"),
    "no task": ('register_task("echo")(dict)', "is no Task"),
    "setting without a default": (COPY.replace("length: int = 32", "size: int"), "size = {}: Field required"),
    "default out of place": (COPY.replace("32", "4"), "only 256 instances differ"),
    "nothing drawn": (COPY.replace("def draw", "def drawn"), "task 'echo' does not define draw"),
    "answers of another size": (COPY.replace("inputs, inputs,", "inputs, inputs[:, 1:],"), "targets of (1, 31)"),
    "ids that there are none of": (COPY.replace("return 4", "return 2"), "inputs outside [0, 2)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_task_is_refused_with_its_reason_and_leaves_nothing(write, case):
    text, reason = BROKEN[case]
    before = tasks(), variants()
    path = write(VARIANT + COPY.replace('"echo"', '"first"') + text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert reason in caught.value.message
    assert "\n" not in caught.value.message
    assert (tasks(), variants()) == before
    assert plugins.named(str(path)).module not in sys.modules
    path.write_text(HEADER + COPY)
    load(path)
    assert "echo" in tasks()


def test_a_plugin_that_brings_the_room_itself_is_undone_too(write):
    """Where no one has asked for tasks before, the plug-in's own import does."""
    code = (
        "import sys\nfrom vgpt.attention.plugins import load_plugins\nfrom vgpt.errors import UsageError\n"
        "try: load_plugins([sys.argv[1]], print, dict)\n"
        "except UsageError as error: print('division' in error.message)\n"
        "from vgpt.evaluation.tasks import tasks\nprint('echo' in tasks(), 'mqar' in tasks())"
    )
    words = [sys.executable, "-c", code, str(write(COPY + "1 / 0"))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "False", "True"]


def test_a_class_is_one_task(write):
    load(write(COPY))
    with pytest.raises(TypeError, match="Echo is 'echo' already; subclass it"):
        registry.register_task("again")(tasks()["echo"])
