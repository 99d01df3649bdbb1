import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vgpt"
# A folder imports only from those before it; attention's settings side stands left of settings, its torch side, which
# is whatever imports torch, right of data, and the kit that tries variants inside models right of the model.
ORDER = [
    ("errors", "files", "locks", "schema"),
    ("text",),
    ("attention, settings side",),
    ("settings",),
    ("data",),
    ("attention",),
    ("model",),
    ("attention.conformance",),
    ("tracking",),
    ("evaluation",),
    ("training",),
    ("report",),
    ("cli",),
]
TORCH_FREE = ["errors", "files", "locks", "schema", "text", "settings", "data", "report", "cli"]


def layer(module: str) -> int:
    parts = module.split(".")[1:]
    if not parts:
        return 0
    if parts[:2] == ["attention", "conformance"]:
        return ORDER.index(("attention.conformance",))
    if parts[0] == "attention":
        return 5 if any(name.split(".")[0] == "torch" for name in imports(file_of(module))) else 2
    names = [i for i, group in enumerate(ORDER) if parts[0] in group]
    assert names, f"{module} has no place in the order of layers"
    return names[0]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def file_of(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_from_layers_to_its_left(path):
    own = module_name(path)
    for name in imports(path):
        if name.startswith("vgpt") and not (own == "vgpt.attention.registry" and name.endswith("attention.base")):
            assert layer(name) <= layer(own), f"{own} imports {name}"


def test_only_one_file_imports_mlflow():
    users = [module_name(path) for path in FILES if any(name.split(".")[0] == "mlflow" for name in imports(path))]
    assert users == ["vgpt.tracking.mlflow_client"]


def test_nothing_that_loads_a_file_can_execute_it():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    modules += ["vgpt.attention.registry", "vgpt.attention.grouped.config", "vgpt.model.config", "vgpt.model.costs"]
    modules += ["vgpt.attention.plugins", "vgpt.attention.plugin_record"]
    heavy = ("torch", "mlflow", "matplotlib", "scipy", "pyarrow", "tiktoken", "transformers")
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\n"
    code += f"print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_without_torch_and_mlflow():
    code = (
        "import sys\nfrom vgpt.cli.app import build_app\n"
        "try: build_app()(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'mlflow') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "train" in done.stdout
    assert done.stderr.strip() == "[]"
