import ast
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import median

import pytest

PACKAGE = Path(__file__).parents[1] / "vgpt"
LEAVES = ("errors", "schema", "files", "formatting", "threads", "environment", "addresses", "launchers", "package")
# A room imports only from those before it; attention's settings side stands left of settings, its torch side, which is
# whatever imports torch, right of data.
ORDER = [
    LEAVES,
    ("text",),
    ("attention, settings side",),
    ("settings",),
    ("data",),
    ("attention",),
    ("model",),
    ("conformance",),
    ("tracking",),
    ("evaluation",),
    ("training",),
    ("interchange",),
    ("bench",),
    ("describe",),
    ("compare",),
    ("study",),
    ("probe",),
    ("report",),
    ("api",),
    ("cli",),
]
FACES = {"vgpt", "vgpt.attention", "vgpt.evaluation.tasks"}
"""What users import from: they name everything, import nothing by themselves, and no file inside imports from them."""
TORCH_FREE = [*LEAVES, "text", "settings", "data", "describe", "compare", "study", "report", "api", "cli"]
TORCH_FREE_FILES = {
    "attention": ["config", "grammar", "plugin_record", "plugins", "registry", "roles", "sparse.links", "stamps"],
    "bench": ["disturbance", "result", "rounds", "statistics", "tables"],
    "model": ["config", "costs", "sampling"],
    "probe": ["card", "logged", "plan", "recipe", "records", "run"],
}
"""Files of the other rooms that do without torch too; so does every file with the settings of a family."""
MOST_FILES, MOST_LINES, LONGEST_FUNCTION, MEDIAN_FILE = 25, 3_500, 60, 130


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def file_of(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every import of a file, at its head, in its functions and under TYPE_CHECKING; of vgpt's own the file meant."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            files = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [
                file if node.module.startswith("vgpt") and file_of(file).is_file() else node.module for file in files
            ]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return tuple(dict.fromkeys(found))


def layer(module: str) -> int:
    parts = module.split(".")[1:]
    if module in FACES:
        return len(ORDER)
    if parts[0] == "attention":
        torch_side = any(name.split(".")[0] == "torch" for name in imports(file_of(module)))
        return ORDER.index(("attention",) if torch_side else ("attention, settings side",))
    names = [i for i, group in enumerate(ORDER) if parts[0] in group]
    assert names, f"{module} has no place in the order of layers"
    return names[0]


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_from_layers_to_its_left(path):
    own = module_name(path)
    for name in imports(path):
        if name.startswith("vgpt"):
            assert layer(name) <= layer(own), f"{own} imports {name}"


def test_a_face_is_open_to_users_alone():
    for path in FILES:
        assert not FACES & set(imports(path)), path


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Take away what imports nothing that is left, as long as there is any: circles and their users remain."""
    left = {name: targets & arrows.keys() - {name} for name, targets in arrows.items()}
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    return sorted(left)


def test_no_file_imports_itself_by_way_of_others():
    assert circles({module_name(path): {n for n in imports(path) if n.startswith("vgpt")} for path in FILES}) == []


def test_no_room_imports_itself_by_way_of_others():
    rooms = defaultdict[str, set[str]](set)
    for path in FILES:
        own, *_ = [*module_name(path).split(".")[1:], "vgpt"]
        rooms[own] |= {[*name.split(".")[1:], "vgpt"][0] for name in imports(path) if name.startswith("vgpt")}
    assert circles(rooms) == []


def test_no_folder_of_training_imports_itself_by_way_of_others():
    folders = defaultdict[str, set[str]](set)
    for path in (PACKAGE / "training").rglob("*.py"):
        targets = [file_of(name).parent for name in imports(path) if name.startswith("vgpt.training.")]
        folders[module_name(path.parent)] |= {module_name(target) for target in targets}
    assert circles(folders) == []
    assert len(folders) > 1


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c", "d"]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_folder_holds_more_than_a_reader_can_survey():
    folders = defaultdict[Path, list[Path]](list)
    for path in FILES:
        folders[path.parent].append(path)
    lines = {folder: sum(len(p.read_text().splitlines()) for p in paths) for folder, paths in folders.items()}
    full = {module_name(f) for f, paths in folders.items() if len(paths) > MOST_FILES or lines[f] > MOST_LINES}
    assert full == set()


def test_a_function_fits_a_screen():
    long = {
        f"{module_name(path)}.{node.name}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert long == set()


def test_files_are_long_enough_to_hold_an_idea():
    assert median(n for path in FILES if (n := len(path.read_text().splitlines())) > 1) >= MEDIAN_FILE


def test_only_one_file_imports_mlflow():
    users = [module_name(path) for path in FILES if any(name.split(".")[0] == "mlflow" for name in imports(path))]
    assert users == ["vgpt.tracking.mlflow_store.mlflow_client"]


def test_nothing_that_loads_a_file_can_execute_it():
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "torch.load", "torch.save"}, f"{path}: {called}"
        assert not {"pickle", "dill", "cloudpickle", "shelve", "marshal"} & set(imports(path)), path


def test_no_file_outgrows_its_room():
    assert [(path.name, n) for path in FILES if (n := len(path.read_text().splitlines())) > 350] == []


def test_the_torch_free_side_imports_neither_torch_nor_mlflow():
    modules = [
        module_name(p) for p in FILES if module_name(p).split(".")[1:2] and module_name(p).split(".")[1] in TORCH_FREE
    ]
    modules += [*FACES, *(f"vgpt.{room}.{name}" for room, names in TORCH_FREE_FILES.items() for name in names)]
    modules += [module_name(path) for room in TORCH_FREE_FILES for path in (PACKAGE / room).rglob("__init__.py")]
    families = [module_name(path) for path in (PACKAGE / "attention").glob("*/config.py")]
    assert "vgpt.attention.grouped.config" in families
    tasks = [module_name(path) for path in (PACKAGE / "evaluation/tasks").glob("*.py")]
    assert "vgpt.evaluation.tasks.mqar" in tasks
    modules += families + tasks
    heavy = ("torch", "mlflow", "matplotlib", "scipy", "pyarrow", "tiktoken", "safetensors", "transformers")
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\n"
    code += f"print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_path_that_the_lint_and_the_type_checker_are_told_of_exists_and_the_lints_are_folders():
    tools = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    exceptions = list(tools["ruff"]["lint"]["per-file-ignores"])
    assert [path for path in exceptions if not path.endswith("/**")] == []
    folders = [path.removesuffix("/**") for path in exceptions]
    named = [*folders, *tools["pyright"]["include"], *tools["pyright"]["strict"], *tools["ruff"]["extend-include"]]
    root = PACKAGE.parent
    assert [path for path in named if not any(root.glob(path))] == []
    assert [path for path in folders if not (root / path).is_dir()] == []


def test_help_answers_without_torch_and_mlflow():
    code = (
        "import sys\nfrom vgpt.cli.app import build_app\n"
        "try: build_app()(['--help'])\nexcept SystemExit: pass\n"
        "slow = ('torch', 'mlflow', 'numpy', 'vgpt.compare.comparison')\n"
        "print([m for m in slow if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "train" in done.stdout
    assert done.stderr.strip() == "[]"
