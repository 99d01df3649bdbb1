"""Names in the documents are names in the code: paths, modules, functions, classes, members and flags in code marks.

Also the site: its pages, its links and what it loads. The site itself is built by `.ci/run`.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import runpy
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
# The guide of plug-ins shows flags that its plug-ins bring: it is tested with them.
DOCUMENTS += sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "plugins.md")
FOLDERS = ("vgpt", "tests", "docs", "benchmarks", "presets", "notebooks", ".ci", ".github")
OTHERS_FLAGS = {"--update-golden", "--strict", "--reach"}
"""Flags of pytest, mkdocs and benchmarks, and of the example of a variant."""

TAGS = {"attn", "group", "verified", "conditions", "seed", "tasks"}
"""Tags of records, and a group of entry points, which look like modules."""
APART = {"tracking", "conformance", "describe", "bench"}
"""Rooms that may change places, for they do not know each other."""


def spans(text):
    """Return what stands in code marks within a line or a paragraph; blocks of code are no names."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)]


def is_there(name):
    """Tell whether a dotted name leads from a module over its members to something."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            if importlib.util.find_spec(".".join(parts[:count])) is None:
                continue
        except ModuleNotFoundError:
            continue
        return has_members(importlib.import_module(".".join(parts[:count])), parts[count:])
    return False


def has_members(owner, names):
    """Tell whether each name is a member of the one before; fields of settings and dataclasses are members too."""
    for name in names:
        if any(
            name in getattr(owner, held, {}) for held in ("model_fields", "__dataclass_fields__", "__annotations__")
        ):
            return name == names[-1]
        try:
            owner = inspect.getattr_static(owner, name)
        except AttributeError:
            return False
    return True


@cache
def classes():
    """Return where the classes of vgpt stand, by name."""
    found = {}
    for path in (ROOT / "vgpt").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(module)
    return found


@cache
def flags():
    """Return all flags of all commands that their help shows."""
    from typer.main import get_command

    from vgpt.cli.app import build_app

    left, found = [get_command(build_app())], {"--help", "--install-completion"}
    while left:
        command = left.pop()
        left += getattr(command, "commands", {}).values()
        options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
        found |= {word for option in options for word in [*option.opts, *option.secondary_opts]}
    return found


def wrong(span):
    """Return what is wrong with one name; None where it is right, or no name of ours."""
    if re.fullmatch(r"[\w.*/-]+", span) and span.split("/")[0] in FOLDERS and "/" in span:
        return None if span.rstrip("/") and any(ROOT.glob(span.rstrip("/"))) else "no such path"
    if re.fullmatch(r"[A-Z]+\.md|pyproject\.toml|mkdocs\.yml", span):
        return None if (ROOT / span).is_file() else "no such file"
    if re.fullmatch(r"vgpt(\.\w+)+", span) and span.split(".")[1] not in TAGS:
        return None if is_there(span) else "no such name"
    if found := re.fullmatch(r"([A-Z]\w*[a-z]\w*)\.(\w+)", span):
        places = [f"{module}.{span}" for module in classes().get(found[1], [])]
        return None if any(is_there(place) for place in places) else "no such member"
    unknown = [word for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", span) if word.replace("_", "-") not in flags()]
    if unknown and not set(unknown) <= OTHERS_FLAGS:
        return f"no such flag: {', '.join(unknown)}"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_in_code_marks_exists(document):
    names = dict.fromkeys(spans(document.read_text(encoding="utf-8")))
    assert {name: fault for name in names if (fault := wrong(name))} == {}


@pytest.mark.parametrize(
    ("span", "fault"),
    [
        ("vgpt.training.run.train_runs", "no such name"),
        ("vgpt.trainig.run", "no such name"),
        ("vgpt.settings.train.TrainConfig.identities", "no such name"),
        ("vgpt/trainer/", "no such path"),
        ("tests/test_layer.py", "no such path"),
        ("ARCHITEXTURE.md", "no such file"),
        ("Cache.nbyte", "no such member"),
        ("TokensCache.put", "no such member"),
        ("--n-kv-heads 4", "no such flag: --n-kv-heads"),
        ("vgpt.settings.train.TrainConfig.identity", None),
        ("vgpt.settings.train.TrainingSettings.lr", None),
        ("vgpt.attention.config.Shape.n_head", None),
        ("vgpt/attention/*/module.py", None),
        ("Cache.length", None),
        ("--n_kv_head 4", None),
    ],
)
def test_a_name_that_is_not_there_is_found(span, fault):
    assert wrong(span) == fault


def test_the_architecture_names_every_room():
    rooms = {path.parent.name for path in (ROOT / "vgpt").glob("*/__init__.py")}
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert {room for room in rooms if f"`vgpt/{room}/`" not in text} == set()


def test_the_architecture_has_the_rooms_in_the_order_of_their_layers():
    order = runpy.run_path(str(ROOT / "tests/test_layers.py"))["ORDER"]
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = [room or "leaves" for room in re.findall(r"^\| `vgpt/(\w+)/`", text, re.M)]
    wanted = [group[0].partition(",")[0] if len(group) == 1 else "files" for group in reversed(order)]
    assert sorted(listed) == sorted(wanted)
    assert [room for room in listed if room not in APART] == [room for room in wanted if room not in APART]


@pytest.fixture(scope="module")
def pages():
    return runpy.run_path(str(ROOT / ".ci/docs_pages.py"))


@pytest.fixture(scope="module")
def check():
    return runpy.run_path(str(ROOT / ".ci/offline_site.py"))


@pytest.fixture(scope="module")
def lowest():
    return runpy.run_path(str(ROOT / ".ci/lowest"))


@pytest.fixture(scope="module")
def gpu_summary():
    return runpy.run_path(str(ROOT / "benchmarks/gpu_summary.py"))


def test_every_guide_is_in_the_navigation(pages):
    shown = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M))
    written = {path.name for path in (ROOT / "docs").glob("*.md")} - {pages["PLUGINS"]}
    assert written | set(pages["PAGES"].values()) | {"reference/api.md"} <= shown


def test_links_lead_to_where_their_targets_stand(pages):
    text = "[a](docs/runs.md#x) [`b`](vgpt/errors.py) [c](presets/README.md) ![d](benchmarks/results/report.png)"
    turned, pictures = pages["relinked"](text, "README.md", "index.md")
    assert turned == "[a](runs.md#x) `b` [c](results.md) ![d](pictures/report.png)"
    assert pictures == {"benchmarks/results/report.png": "pictures/report.png"}
    assert pages["relinked"]("[a](../README.md)", "docs/runs.md", "runs.md")[0] == "[a](index.md)"
    assert pages["relinked"]("[a](https://arxiv.org) [b](#c)", "README.md", "index.md")[1] == {}


def test_the_references_hold_every_setting_and_command(pages):
    from vgpt.settings.fields import leaves
    from vgpt.settings.train import TrainConfig

    settings = "\n".join(pages["settings"]())
    shown = [leaf for leaf in leaves(TrainConfig).values() if not leaf.hidden]
    assert [leaf.flag for leaf in shown if f"`{leaf.flag}`" not in settings] == []
    commands = "\n".join(pages["commands"]())
    of_vgpt_itself = {"--version", "--help", "--plugin", "--install-completion", "--show-completion"}
    assert [flag for flag in flags() - of_vgpt_itself if f"`{flag}`" not in commands] == []
    assert "## vgpt tokenize train" in commands


def test_the_api_names_what_exists(pages):
    named = re.findall(r"^::: (\S+)$", "\n".join(pages["api"]()), re.M)
    assert "vgpt.attention.config.AttentionConfig" in named
    assert [name for name in named if not is_there(name)] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/css">'),
        ("a.html", '<link rel="preconnect" href="https://fonts.example">'),
        ("a.html", '<img alt="" src="http://example/x.png">'),
        ("a.html", "<style>@import 'https://example/x.css';</style>"),
        ("a.html", '<p style="background: url(https://example/x.png)">'),
        ("a.html", '<pre class="mermaid">graph</pre>'),
        ("a.css", "@font-face {src: url('https://example/x.woff2')}"),
        ("a.js", 'load("https://example/x.js")'),
    ],
)
def test_a_page_that_loads_something_from_elsewhere_is_found(check, tmp_path, name, text):
    (tmp_path / "index.html").write_text('<a href="https://arxiv.org">paper</a><script src="x.js"></script>')
    assert list(check["faults"](tmp_path)) == []
    (tmp_path / name).write_text(text)
    assert len(list(check["faults"](tmp_path))) == 1


def test_a_site_without_pages_is_found(check, tmp_path):
    assert list(check["faults"](tmp_path)) == [f"{tmp_path}: no page"]


def test_every_dependency_declares_one(lowest):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = lowest["bounds"](project)
    assert found["torch"] == "2.10"
    assert found["pytest-xdist"] == "3.6.1"
    assert lowest["lowest_python"](project) == "3.11"


def test_one_without_a_bound_is_refused(lowest):
    table = {"project": {"dependencies": ["a>=1", "b<2"], "optional-dependencies": {"hf": [], "dev": []}}}
    with pytest.raises(SystemExit, match=r"no lower bound .*: b<2"):
        lowest["bounds"](table)


def test_what_is_taken_higher_is_told_and_what_is_taken_lower_refused(lowest):
    assert lowest["told"]("a==1.10.0\nB_c==2.1\n", {"a": "1.10", "b-c": "2.0"}) == [
        "a==1.10.0",
        "b-c==2.1  (not 2.0: another dependency asks for more)",
    ]
    with pytest.raises(SystemExit, match=r"a>=1\.10: taken is 1\.9"):
        lowest["told"]("a==1.9\n", {"a": "1.10"})
    with pytest.raises(SystemExit, match=r"a>=1: taken is nothing"):
        lowest["told"]("", {"a": "1"})


def test_a_stage_that_is_not_recorded_says_so(gpu_summary, tmp_path):
    for name in ("training", "cores", "decoding", "machine"):
        rows = list(gpu_summary[name](tmp_path))
        assert rows[-1].startswith("| not recorded yet: ")
        assert len({row.count("|") for row in rows}) == 1


def test_recorded_figures_stand_in_the_tables(gpu_summary, tmp_path):
    about = {"gpu": "H100", "versions": {"torch": "2.11.0"}, "date": "2026-11-26"}
    stage = {"hardware": about, "driver": "570", "commit": "abc", "wrong": []}
    rate = {"median": 500_000, "low": 490_000, "high": 510_000, "MFU": 0.41, "MFU as PaLM": 0.44}
    training = {"stage": "training", **stage, "figures": {"vgpt, tokens/s": rate, "first loss of vgpt": 10.9}}
    (tmp_path / "training.json").write_text(json.dumps(training))
    assert list(gpu_summary["training"](tmp_path))[2:] == ["| vgpt | 500,000 | 490,000 to 510,000 | 41.0% | 44.0% |"]
    assert list(gpu_summary["machine"](tmp_path))[2:] == [
        "| training | H100 | 570 | torch 2.11.0 | `abc` | 2026-11-26 | 0 |"
    ]
    figure = {"tokens_per_second": 2500.5, "ms_per_step": 0.4, "gb_per_second": 600.0}
    decoding = {"figures": {"mha, batch 1, prompt 64": figure, "attention, batch None, prompt None": {}}}
    (tmp_path / "decoding.json").write_text(json.dumps(decoding))
    assert list(gpu_summary["decoding"](tmp_path))[2:] == ["| mha | 1 | 64 | 0.4 | 2,500 | 600 |"]
    linear = [{"T": 4096, "forward and backward": {"ms": {"kernel": {"median": 1.0}, "SDPA flash": {"median": 4.0}}}}]
    (tmp_path / "linear.json").write_text(json.dumps({"lengths": linear}))
    assert list(gpu_summary["cores"](tmp_path))[2] == "| 4,096 | linear, vgpt's kernels | 1.00 | 4.00x |"


def test_the_workflows_run_on_every_python_that_is_declared():
    yaml = pytest.importorskip("yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = re.findall(r":: Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    jobs = {path.stem: yaml.safe_load(path.read_text())["jobs"] for path in (ROOT / ".github/workflows").glob("*.yml")}
    check = jobs["check"]["run"]
    assert check["strategy"]["matrix"]["python"] == declared
    assert {"run": ".ci/run"} in check["steps"]
    (lowest,) = [step["with"]["python-version"] for step in jobs["lowest"]["tests"]["steps"] if "with" in step]
    assert f">={lowest}" == project["requires-python"]
    steps = [step for all_of_them in jobs.values() for job in all_of_them.values() for step in job["steps"]]
    called = [step["run"].split()[0] for step in steps if "run" in step]
    assert [word for word in called if word.startswith(".ci/") and not os.access(ROOT / word, os.X_OK)] == []


def test_every_form_for_issues_asks_for_something():
    yaml = pytest.importorskip("yaml")
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert forms
    for form in (yaml.safe_load(path.read_text()) for path in forms):
        assert form["name"]
        assert form["description"]
        assert any(field.get("validations", {}).get("required") for field in form["body"])
