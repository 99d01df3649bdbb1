import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vgpt.attention import plugins, registry
from vgpt.attention.registry import variants
from vgpt.probe.records import OUTCOME_FILE

PLUGIN = Path(__file__).parents[1] / "plugin/decayed_average.py"
TASK = "parity:length=16,test_lengths="
SHORT = [
    "--lrs",
    "1e-2",
    "--seeds",
    "1",
    "--tracker",
    "journal",
    "--test-instances",
    "16",
    "--validation-instances",
    "16",
]


@pytest.fixture
def forget(monkeypatch):
    """Forget the variants that a test brings at its end."""
    variants()
    for module, name in ((registry, "_configs"), (registry, "_modules"), (plugins, "_origins")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setenv(plugins.VARIABLE, "")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_control_made_to_fail_makes_the_card_say_inconclusive_also_of_a_plug_in(vgpt, forget):
    words = ["--plugin", PLUGIN, "probe", "decay", "--tasks", TASK, "--steps", "2", "--jobs", "1", *SHORT]
    first = vgpt(*words, "--html", "card.html")
    assert first.code == 0, first.err
    assert "inconclusive: control gru" in " ".join(first.out.split())
    assert "plan: 2 trainings; about" in first.err
    assert "<svg" in Path("card.html").read_text()
    written = {path: path.stat().st_mtime_ns for path in Path("probes").rglob(OUTCOME_FILE)}
    assert len(written) == 2
    again = vgpt(*words, "--json")
    assert "2 of them on record" in again.err
    (task,) = json.loads(again.out)["tasks"]
    assert [(row["label"].partition(":")[0], row["verdict"]) for row in task["rows"]] == [
        ("gru", "inconclusive"),
        ("decay", "inconclusive"),
    ]
    assert {path: path.stat().st_mtime_ns for path in Path("probes").rglob(OUTCOME_FILE)} == written


def test_the_plan_says_what_would_be_trained_and_trains_nothing(vgpt):
    shown = vgpt("probe", "mha", "linear", "--tasks", "mqar,parity", "--plan")
    assert shown.code == 0, shown.err
    assert "plan: 30 trainings; about" in shown.err  # 3 rates x 2 seeds of 2 variants, and of the control of parity
    assert [line.split()[:2] for line in shown.out.splitlines()[4:]] == [["mqar", "12"], ["parity", "18"]]
    assert not Path("probes").exists()
    table = json.loads(vgpt("probe", "mha", "--tasks", "mqar", "--plan", "--json").out)
    assert len(table) == 6
    assert not any(one["on_record"] for one in table)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mha", "--tasks", "mqra"], "unknown task 'mqra'; did you mean 'mqar'?"),
        (["mha", "--tasks", "mqar:n_pair=3"], "unknown setting 'n_pair'"),
        (["mha", "--tasks", "mqar,parity,mqar"], "--tasks names mqar twice"),
        (["mah"], "'mah' is no variant"),
        (["mha", "--window-size", "4"], "--window-size belongs to local"),
        (["gqa:n_kv_head=3", "--tasks", "mqar"], "possible: [1, 2, 4]"),
        (["mha", "--lrs", "1e-3,1e-3"], "names a learning rate twice"),
        (["mha", "--n-layer", "1", "--tasks", "mqar"], "leaves no layer beside the short convolution"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(vgpt, words, said):
    result = vgpt("probe", *words)
    assert result.code == 2
    assert said in " ".join(result.err.replace("│", " ").split())
    assert not Path("probes").exists()


def test_variants_have_settings_that_fit_small_models_unless_somebody_says_otherwise(vgpt):
    shown = vgpt("probe", "local", "mla", "--tasks", "mqar", "--plan", "--json")
    attn = {one["attn"] for one in json.loads(shown.out)}
    assert any("window_size=8" in one for one in attn)
    assert any("kv_lora_rank=32" in one for one in attn)
    shown = vgpt("probe", "local", "--window-size", "16", "--tasks", "mqar", "--plan", "--json")
    assert any("window_size=16" in one["attn"] for one in json.loads(shown.out))


@pytest.mark.slow
def test_a_probe_that_was_killed_goes_on_where_it_was(tmp_path):
    program = [sys.executable, "-m", "vgpt", "probe", "mha", "--tasks", TASK, "--steps", "40", "--jobs", "1"]
    program += [*SHORT, "--seeds", "3"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(program, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (done := list((tmp_path / "probes").rglob(OUTCOME_FILE))):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in done}
    again = subprocess.run([*program, "--json"], env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "probes").rglob(OUTCOME_FILE))) == 6
    assert {path: path.stat().st_mtime_ns for path in done} == before
    assert all(row["verdict"] != "missing" for row in json.loads(again.stdout)["tasks"][0]["rows"])


@pytest.mark.slow
def test_ctrl_c_ends_a_probe_with_word_of_what_is_left(tmp_path):
    program = [sys.executable, "-m", "vgpt", "probe", "mha", "--tasks", TASK, "--steps", "2000", "--jobs", "2", *SHORT]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # as from a terminal
    process = subprocess.Popen([*program, "--stop-at", "none"], env=environment, stderr=subprocess.PIPE, **listening)
    while not list((tmp_path / "probes").rglob("metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130
    assert "stopped: 2 of 2 trainings are left; the same command goes on with them" in said
    assert "Traceback" not in said
