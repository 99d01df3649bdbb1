"""The notebooks can be run: their format, their code and the names and settings they use; slowly, from end to end."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import vgpt
from vgpt.settings.commands import EvalConfig, PrepareConfig, SampleConfig
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import leaves
from vgpt.settings.train import TrainConfig

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SETTINGS = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "evaluate": EvalConfig,
    "sample": SampleConfig,
    "compare": CompareConfig,
}
OWN = {"preset", "quiet", "data", "prompt"}
"""Arguments of the functions that are no settings, or that all of them take."""

EXECUTE = """
import json, sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=240, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
kinds = [kind for cell in book.cells for out in cell.get("outputs", []) for kind in out.get("data", {})]
print(json.dumps({"figures": kinds.count("image/png"), "counts": [c.get("execution_count") for c in book.cells]}))
"""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    book = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == kind]


def faults(source):
    """Return the public names, imports and settings in a notebook's code that are not there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] == "vgpt":
                home = importlib.import_module(module)
                found += [f"{module}.{one.name}" for one in node.names if not hasattr(home, one.name)]
            case ast.Attribute(value=ast.Name(id="vgpt"), attr=name) if name not in vgpt.__all__:
                found.append(f"vgpt.{name}")
            case ast.Call(func=ast.Attribute(attr=name)) if name in SETTINGS:
                known = leaves(SETTINGS[name]).keys() | OWN
                found += [f"{name}({one.arg}=)" for one in node.keywords if one.arg and one.arg not in known]
    return found


def test_there_is_a_notebook_for_each_step_of_the_pipeline():
    assert [path.stem for path in NOTEBOOKS] == ["1-cleaning", "2-bpe", "3-pretraining", "4-fine-tuning", "5-comparing"]


@every_notebook
def test_a_notebook_is_valid_and_committed_without_outputs(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["metadata"]["kernelspec"]["name"]) == (4, "python3")
    ran = [cell for cell in book["cells"] if cell.get("outputs") or cell.get("execution_count") is not None]
    assert ran == []
    nbformat = pytest.importorskip("nbformat", reason="nbformat is in the extra 'notebooks'")
    nbformat.validate(nbformat.from_dict(book))


@every_notebook
def test_the_code_of_a_notebook_compiles_and_uses_what_is_there(path):
    code = cells(path, "code")
    for cell in code:
        compile(cell, path.name, "exec")
    assert faults("\n".join(code)) == []


@every_notebook
def test_the_notebooks_that_a_notebook_names_exist(path):
    words = " ".join(cells(path, "markdown")).replace("`", " ").split()
    named = {word.rstrip(".,:") for word in words if ".ipynb" in word}
    assert {name for name in named if not (path.parent / name).is_file()} == set()


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("vgpt.trian()", ["vgpt.trian"]),
        ("from vgpt.text.clean import STEP", ["vgpt.text.clean.STEP"]),
        ("vgpt.train(n_layr=2)", ["train(n_layr=)"]),
        ("run.sample('x', temprature=1)", ["sample(temprature=)"]),
        ("vgpt.train(preset='demo', n_layer=2, **more)", []),
    ],
)
def test_what_is_not_there_is_found(source, fault):
    assert faults(source) == fault


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs_to_its_end_draws_and_leaves_nothing(path, tmp_path):
    for name in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is in the extra 'notebooks'")
    words = [sys.executable, "-c", EXECUTE, str(path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["figures"] >= 1
    counts = [count for count in told["counts"] if count is not None]
    assert counts == list(range(1, len(cells(path, "code")) + 1))
    assert list(tmp_path.iterdir()) == []
