"""Third-party variants: named or installed, whole or not at all, and never in the way of the rest."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vgpt.attention import plugins, registry
from vgpt.attention.build import build_attention
from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.plugins import VARIABLE, Plugin, load_plugins, named, origin_of
from vgpt.attention.registry import variants
from vgpt.errors import CheckpointError, UsageError
from vgpt.settings.fields import leaves
from vgpt.settings.train import TrainConfig

EXAMPLE = Path(__file__).parents[1] / "plugin" / "decayed_average.py"
ROOT = Path(__file__).parents[2]
TINY = "--n-layer 2 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --max-steps 3 --eval-windows 2 --device cpu"
TINY = [*TINY.split(), "--dtype", "float32", "--tracker", "journal", "--data", "data"]

HEADER = """
from typing import Annotated
from pydantic import Field
from vgpt.attention.config import AttentionConfig
from vgpt.attention.grouped.config import GQAConfig, MHAConfig
from vgpt.attention.registry import register_attention
"""
FINE = '@register_attention("fine", module="vgpt.attention.grouped.module:GroupedAttention")\nclass C(MHAConfig): ...\n'


def load_plugin(plugin):
    return plugins.load_plugin(plugin, lambda: leaves(TrainConfig))


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Forget the variants that a test brings, at its end or when called."""
    variants()
    tables = [(registry, "_configs"), (registry, "_modules"), (plugins, "_origins")]
    before = [dict(getattr(*table)) for table in tables]

    def reset():
        for (module, name), table in zip(tables, before, strict=True):
            monkeypatch.setattr(module, name, dict(table))
        monkeypatch.setenv(VARIABLE, "")

    reset()
    return reset


@pytest.fixture
def write(tmp_path):
    """Write a plug-in file and return its path."""

    def make(text, name="mine.py", header=HEADER):
        path = tmp_path / name
        path.write_text(header + text)
        return path

    return make


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with prepared data."""
    place = tmp_path_factory.mktemp("place")
    (place / "text.txt").write_text("".join(f"{i} To be, or not to be, that is the question.\n" for i in range(500)))
    run(place, "prepare", "text.txt", "--out", "data", "--vocab-size", "300", "--workers", "1")
    return place


def run(place, *words, check=True, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "vgpt", *map(str, words)],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), VARIABLE: ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def install(place, text, name="vgpt_mine", version="0.3", value=""):
    """Lay a module and the metadata of its package into a folder, as an installer does."""
    (place / f"{name}.py").write_text(text)
    info = place / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[vgpt.attention]\nmine = {value or name}\n")
    return {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)])}


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 100


def test_the_example_trains_samples_resumes_and_is_compared(place, vgpt, monkeypatch):
    monkeypatch.chdir(place)
    named_run = ["train", "--attn", "decay", "--half-life", "2", "--run-name", "mine", *TINY]
    assert vgpt("--plugin", EXAMPLE, *named_run).code == 0
    record = json.loads((place / "runs/mine/environment.json").read_text())["plugins"]
    assert record == [
        {"kind": "decay", "source": str(EXAMPLE), "distribution": "", "sha256": Plugin(str(EXAMPLE)).digest}
    ]
    assert "nothing to train" in vgpt(*named_run, "--plugin", EXAMPLE).err
    shown = vgpt("sample", "mine", "--max-tokens", "5", "--plugin", EXAMPLE, "--json")
    # 2 layers, 2 heads, a sum of 8 values and one of the weights, 4 bytes each, whatever the length
    assert json.loads(shown.out)["cache_bytes"] == json.loads(shown.out)["cache_bytes_analytic"] == 2 * 2 * 9 * 4
    assert vgpt("eval", "mine", "--plugin", EXAMPLE, "--device", "cpu").code == 0
    assert vgpt("train", "--attn", "mha", *TINY).code == 0
    rows = json.loads(vgpt("--plugin", EXAMPLE, "compare", "mha", "decay", "--tracker", "journal", "--json").out)[
        "rows"
    ]
    assert [(row["label"], row["kv_measured_equals_analytic"]) for row in rows] == [
        ("mha", True),
        ("decay:half_life=2.0", True),
    ]


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 6], [12]])
def test_the_example_decodes_as_it_trains(pieces):
    layer = example_layer()
    x = torch.randn(3, 12, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        cache = layer.make_cache(3, 12, dtype=torch.float32, device="cpu")
        parts = [layer(piece, cache) for piece in x.split(pieces, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), layer(x), rtol=0, atol=1e-5)
    assert cache.nbytes == 3 * layer.config.cache_cost(layer.shape).nbytes(12, 2)


def test_the_example_is_a_weighted_average_of_the_past():
    layer = example_layer().double()
    x = torch.randn(1, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values = layer.c_value(x)[0].view(6, 4, 8)
    rows = []
    for t in range(6):
        heads = []
        for h in range(4):
            rate = float(layer.rate_bias[h].detach().exp()) * 0.5**h / 3.0
            weights = torch.tensor([2.0 ** (-rate * (t - j)) for j in range(t + 1)], dtype=torch.float64)
            heads.append((weights[:, None] * values[: t + 1, h]).sum(0) / weights.sum())
        rows.append(torch.cat(heads))
    torch.testing.assert_close(layer(x)[0], layer.c_proj(torch.stack(rows)), rtol=0, atol=1e-12)


def test_the_example_compiles_as_one_graph():
    layer = example_layer()
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=1e-6)


def test_the_example_is_listed_and_explained(vgpt):
    assert "decay half_life=2.0" in vgpt("variants", "decay:half_life=2", "--plugin", EXAMPLE).out
    text = vgpt("explain", "decay", "--preset", "gpt2-small", "--plugin", EXAMPLE).out
    assert "1,181,196" in text  # 2 * 768^2 weights, 2 * 768 biases, 12 rates
    assert "Source: the moving average in Mega" in text


def test_the_example_has_the_parameters_it_states():
    for bias in (True, False):
        layer = example_layer(bias=bias)
        assert sum(p.numel() for p in layer.parameters()) == layer.config.params(layer.shape)


def example_layer(**shape):
    load_plugin(Plugin(str(EXAMPLE)))
    layer = build_attention(resolve_attention("decay:half_life=3"), Shape(32, 4, 16, **shape))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return layer


@pytest.mark.parametrize("words", [["--plugin", EXAMPLE, "train"], ["train", f"--plugin={EXAMPLE}"]])
def test_a_file_named_before_or_after_the_command_brings_its_flags(vgpt, words):
    shown = " ".join(vgpt(*words, "--help").out.split())
    assert "--half-life" in shown
    assert ", decay" in shown


def test_its_settings_come_from_presets_and_the_environment_too(vgpt, tmp_path, monkeypatch):
    def half_life():
        shown = json.loads(vgpt(*words, "--show-settings", "--json").out)
        return shown["half_life"]["value"], shown["half_life"]["origin"]

    (tmp_path / "mine.toml").write_text('[model.attn]\nkind = "mha"\n[model.attn.decay]\nhalf_life = 7.0\n')
    words = ["--plugin", EXAMPLE, "train", "--preset", tmp_path / "mine.toml", "--attn", "decay"]
    assert half_life() == ("7.0", f"preset {tmp_path / 'mine.toml'}")
    monkeypatch.setenv("VGPT_HALF_LIFE", "3")
    assert half_life() == ("3.0", "environment")


def test_what_is_not_named_is_not_there(vgpt):
    assert "--half-life" not in vgpt("train", "--help").out
    assert vgpt("train", "--attn", "decay").code == 2


def test_several_files_and_modules_can_be_named(vgpt, write, tmp_path, monkeypatch):
    one = write(FINE)
    write(FINE.replace("fine", "other"), "other_variant.py")
    monkeypatch.syspath_prepend(tmp_path)
    shown = vgpt("--plugin", one, "--plugin", "other_variant", "train", "--help").out
    assert "fine,other" in shown.replace(" ", "").replace("│", "").replace("\n", "")


def test_a_word_after_two_dashes_is_no_option(vgpt):
    assert "--plugin" not in vgpt("tokenize", "encode", "--tokenizer", "nowhere", "--", "--plugin").err


def test_a_plugin_named_twice_is_loaded_once(write):
    path = write(FINE + "print('loaded')\n")
    load_plugins([str(path), str(path)], pytest.fail, dict)
    load_plugins([str(path)], pytest.fail, dict)


def test_files_and_modules_in_the_environment_are_loaded(vgpt, write, tmp_path, monkeypatch):
    write(FINE.replace("fine", "other"), "other_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(EXAMPLE), "other_module", ""]))
    assert "decay,other" in re.sub(r"[\s│]", "", vgpt("train", "--help").out)


def test_child_processes_are_told_by_absolute_paths(write, monkeypatch, tmp_path):
    one, other = write(FINE), write(FINE.replace("fine", "other"), "other.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "other.py")
    load_plugins(["mine.py"], pytest.fail, dict)
    assert os.environ[VARIABLE].split(os.pathsep) == [str(one), str(other)]


@pytest.mark.slow
def test_a_comparison_trains_what_is_missing_with_the_plugin(place):
    local = place / "here.py"
    local.write_text(HEADER + FINE)
    done = run(place, "--plugin", "here.py", "compare", "fine", "--run-missing", *TINY)
    assert "fine" in done.stdout
    assert f"--plugin {local}" in done.stderr.replace("\n", " ")


def test_an_installed_package_is_found_by_its_entry_point(tmp_path):
    environment = install(tmp_path, HEADER + FINE.replace("...", "\n    width: int = 3"), value="vgpt_mine:C")
    done = run(tmp_path, "train", "--help", **environment)
    assert "--width" in done.stdout
    assert done.stderr == ""


def test_a_broken_installed_package_warns_with_its_name_and_breaks_nothing(tmp_path):
    environment = install(tmp_path, "import nothing_of_this_name\n")
    done = run(tmp_path, "train", "--help", COLUMNS="400", **environment)
    assert "--n-kv-head" in done.stdout
    assert "note: plug-in vgpt_mine (vgpt-mine 0.3) not loaded:" in done.stderr
    assert "vgpt_mine.py, line 1: ModuleNotFoundError: No module named 'nothing_of_this_name'" in done.stderr


def test_damaged_metadata_breaks_nothing(tmp_path):
    environment = install(tmp_path, "", value="not a module at all")
    assert "--n-kv-head" in run(tmp_path, "train", "--help", **environment).stdout


@pytest.mark.slow
def test_what_was_named_comes_before_what_is_installed(tmp_path):
    environment = install(tmp_path, EXAMPLE.read_text())
    done = run(
        tmp_path, "--plugin", EXAMPLE, "train", "--attn", "decay", "--show-settings", COLUMNS="400", **environment
    )
    assert "vgpt-mine 0.3) not loaded" in done.stderr
    assert "'decay' is registered twice" in done.stderr


def test_a_folder_cannot_run_code_by_its_dotenv(vgpt, write, monkeypatch, tmp_path):
    path = write("raise RuntimeError('this ran')")
    (tmp_path / ".env").write_text(f"{VARIABLE}={path}\n")
    monkeypatch.chdir(tmp_path)
    done = vgpt("train", "--help")
    assert done.code == 0
    assert "VGPT_PLUGINS in .env is left out" in done.err


def test_completion_knows_the_flags_of_a_plugin_on_the_line(write):
    file = write(FINE.replace("...", "\n    width: int = 3"))

    def complete(line, **environment):
        environment |= {"_VGPT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        environment |= {"PYTHONPATH": str(ROOT)}
        code = "import sys; sys.argv[0] = 'vgpt'; from vgpt.cli.app import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert complete(f"vgpt --plugin {file} train --widt") == ["--width"]
    assert complete(f"vgpt train --plugin {file} --attn f") == ["fine"]
    assert complete("vgpt train --widt", VGPT_PLUGINS=str(file)) == ["--width"]
    assert complete("vgpt --plugin nothing.py train --n-kv", VGPT_PLUGINS="nothing.py") == ["--n-kv-head"]


BROKEN = {
    "syntax": ("def f(:\n", "line 7: invalid syntax"),
    "missing import": ("import nothing_of_this_name\n", "line 7: ModuleNotFoundError: No module named"),
    "error": ("1 / 0\n", "line 7: ZeroDivisionError: division by zero"),
    "exit": ("raise SystemExit(3)\n", "line 7: it ends the program (SystemExit: 3)"),
    "name taken": (FINE.replace("fine", "mha"), "line 7: attention 'mha' is registered twice"),
    "no name": (FINE.replace("fine", "a+b"), "line 7: attention 'a+b' is no name"),
    "no settings": (FINE.replace("MHAConfig", ""), "is no AttentionConfig"),
    "registered again": ('register_attention("x", module="X")(MHAConfig)\n', "MHAConfig is 'mha' already"),
    "field of another type": (
        FINE.replace("...", "\n    n_kv_head: str = 'all'"),
        "field 'n_kv_head' is of another type than in 'gqa'",
    ),
    "flag of a backbone setting": (FINE.replace("...", "\n    n_layer: int = 3"), "--n-layer would feed both"),
    "flag of training": (FINE.replace("...", "\n    seed: int = 3"), "--seed would feed both"),
    "option of a command": (FINE.replace("...", "\n    dry_run: int = 3"), "a setting cannot be called 'dry_run'"),
    "flag in another spelling": (FINE.replace("...", "\n    no_flash: int = 3"), "--no-flash would mean two things"),
    "plugin as a setting": (FINE.replace("...", "\n    plugin: int = 3"), "--plugin would mean two things"),
    "setting that hides a method": (FINE.replace("...", "\n    pairs: int = 3"), "cannot be called 'pairs'"),
    "setting without default": (FINE.replace("...", "\n    width: int"), "no valid defaults: width: Field required"),
    "default out of range": (
        FINE.replace("...", "\n    width: Annotated[int, Field(ge=1)] = 0"),
        "no valid defaults: width: Input should be greater than or equal to 1",
    ),
}


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_stops_the_command_that_asked_for_it(vgpt, write, case):
    text, reason = BROKEN[case]
    done = vgpt("--plugin", write(text), "train", "--help")
    assert (done.code, done.out) == (2, "")
    words = " ".join(done.err.replace("│", " ").split())
    assert reason in words, words
    assert "Traceback" not in done.err


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_of_the_environment_only_warns_and_leaves_nothing(vgpt, write, case, monkeypatch):
    before = variants(), dict(registry._modules), set(sys.modules)
    text, reason = BROKEN[case]
    broken = write(FINE.replace('"fine"', '"first"').replace("class C", "class D") + text)
    fine = write(FINE, "fine.py")
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(broken), str(fine)]))
    done = vgpt("train", "--help")
    assert done.code == 0
    assert reason.removeprefix("line 7: ") in " ".join(done.err.split())
    assert str(broken) in done.err.replace("\n", "")
    assert [kind for kind in variants() if kind not in before[0]] == ["fine"]
    assert registry._modules.keys() - before[1].keys() == {"fine"}
    assert "mha" in variants()
    assert variants()["mha"].kind == "mha"
    assert Plugin(str(broken)).module not in sys.modules


@pytest.mark.parametrize(
    ("word", "reason"),
    [("nowhere.py", "no such file"), ("a/b", "neither a file that ends in .py nor"), ("", "--plugin needs a value")],
)
def test_what_cannot_be_a_plugin_is_named(vgpt, word, reason):
    done = vgpt("--plugin", word, "--version")
    assert done.code == 2
    assert reason in " ".join(done.err.split())


def test_a_module_that_does_not_exist_is_named(vgpt):
    done = vgpt("--plugin", "nothing.of.this", "--version")
    assert done.code == 2
    assert "ModuleNotFoundError: No module named 'nothing'" in " ".join(done.err.replace("│", " ").split())


def test_a_file_without_a_variant_is_remarked(vgpt, write):
    done = vgpt("--plugin", write("x = 1\n"), "--version")
    assert done.code == 0
    assert "registers no variant and no task" in " ".join(done.err.split())


def test_what_a_plugin_prints_stays_out_of_results(vgpt, write):
    done = vgpt("--plugin", write(FINE + "print('hello')\n"), "train", "--attn", "fine", "--show-settings", "--json")
    assert json.loads(done.out)["attn"]["value"] == "fine"


def test_a_module_that_is_not_where_it_is_said_to_be_is_named(write):
    load_plugin(named(str(write(FINE.replace("GroupedAttention", "Nowhere")))))
    with pytest.raises(Exception, match="module:Nowhere cannot be loaded"):
        build_attention(resolve_attention("fine"), Shape(16, 2, 8))


def test_a_run_is_loaded_only_with_its_plugin(place, vgpt, monkeypatch, forget):
    monkeypatch.chdir(place)
    assert vgpt("--plugin", EXAMPLE, "train", "--attn", "decay", "--run-name", "alone", *TINY).code == 0
    forget()
    for command in (["sample", "alone"], ["eval", "alone"]):
        done = vgpt(*command)
        words = " ".join(done.err.replace("│", " ").split())
        assert done.code == 1
        assert "its attention 'decay' comes from a plug-in that is not loaded" in words
        assert f"Load it: vgpt --plugin {EXAMPLE}" in words.replace("- ", "-")
    from vgpt.training.checkpoints.checkpoint import find_checkpoint

    with pytest.raises(CheckpointError, match="not loaded"):
        find_checkpoint("alone")
    load_plugin(Plugin(str(EXAMPLE)))
    assert find_checkpoint("alone").load_model().config.attn.kind == "decay"


def test_going_on_with_a_changed_plugin_is_remarked(place, vgpt, monkeypatch, forget):
    monkeypatch.chdir(place)
    file = place / "changing.py"
    file.write_text(EXAMPLE.read_text())

    def go_on():
        forget()
        (place / "runs/changing/summary.json").unlink(missing_ok=True)  # as if the run had not come to its end
        words = ["--plugin", file, "train", "--attn", "decay", "--run-name", "changing", *TINY]
        done = vgpt(*words)
        assert done.code == 0, done.err
        return " ".join(done.err.split())

    go_on()
    assert "is not the one" not in go_on()
    file.write_text(file.read_text() + "# mended\n")
    assert "the plug-in of 'decay' is not the one that trained so far" in go_on()


def test_runs_of_built_in_variants_record_no_plugin(place, vgpt, monkeypatch):
    monkeypatch.chdir(place)
    assert vgpt("train", "--run-name", "plain", *TINY).code == 0
    assert not list((place / "runs/plain").rglob("plugins.json"))
    assert origin_of("mha") is None


def test_an_explicit_plugin_that_is_broken_raises():
    with pytest.raises(UsageError, match="not loaded"):
        load_plugin(Plugin("nothing_of_this_name"))
