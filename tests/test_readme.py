"""The documents cannot rot: their tables are generated, their commands parsed, the example of a variant is run.

`pytest tests/test_readme.py --update-golden` writes the generated tables anew.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vgpt.attention.config import Shape
from vgpt.attention.registry import variants
from vgpt.settings.fields import format_value
from vgpt.settings.presets import preset_names

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
BENCHMARKS = ROOT / "benchmarks/README.md"
PAGES = [README, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "presets/README.md", BENCHMARKS]
# The guide of plug-ins shows flags that its plug-ins bring: it is tested with them.
PAGES += sorted(path for path in DOCS.glob("*.md") if path.name != "plugins.md")
SMALL = Shape(n_embd=768, n_head=12, block_size=1024)
LAYERS, BFLOAT16 = 12, 2


def variant_table():
    """Every built-in variant: what it is, its settings, and what its cache costs in GPT-2 small."""
    yield "| `--attn` | what it is | settings and defaults | KV cache of GPT-2 small at 1,024 tokens, bfloat16 |"
    yield "|---|---|---|---|"
    for kind, config in variants().items():
        if not config.__module__.startswith("vgpt."):
            continue
        fields = config.model_fields.items()
        settings = (
            ", ".join(f"`--{name.replace('_', '-')} {format_value(info.default)}`" for name, info in fields) or "-"
        )
        layers = [config().at(layer) for layer in range(LAYERS)]
        cache = sum(layer.cache_cost(SMALL).nbytes(SMALL.block_size, BFLOAT16) for layer in layers)
        yield f"| `{kind}` | {config.summary} | {settings} | {cache / 2**20:.4g} MiB |"


def command_table():
    """Every command with the first sentence of its help."""
    from typer.main import get_command

    from vgpt.cli.app import build_app

    yield "| command | what it does |"
    yield "|---|---|"
    for name, command in get_command(build_app()).commands.items():
        sentence = (command.help or "").strip().partition("\n")[0]
        yield f"| `vgpt {name}` | {sentence} |"


def preset_table():
    """Every packaged preset with the first line of its file and what it suits."""
    yield "| `--preset` | what it is | suits |"
    yield "|---|---|---|"
    for name in preset_names():
        lines = (ROOT / "presets" / f"{name}.toml").read_text(encoding="utf-8").splitlines()
        suits = next(line for line in lines if line.startswith("# Suits: "))
        suits = suits.removeprefix("# Suits: ").partition(".")[0]
        yield f"| `{name}` | {lines[0].removeprefix('# ').rstrip('.')} | {suits} |"


def results(name, script="summary.py"):
    """Return a table of a script in benchmarks/."""

    def table():
        return runpy.run_path(str(ROOT / "benchmarks" / script))["TABLES"][name]()

    return table


GPU_TABLES = ["machine", "training", "cores", "decoding"]
TABLES = {
    "variants": (README, variant_table),
    "commands": (README, command_table),
    "presets": (DOCS / "settings.md", preset_table),
    "claims": (BENCHMARKS, results("claims")),
    "training": (BENCHMARKS, results("training")),
    "decoding": (BENCHMARKS, results("decoding")),
    "attention": (BENCHMARKS, results("attention")),
    "variant-steps": (BENCHMARKS, results("variant-steps")),
    "kept-memory": (BENCHMARKS, results("kept-memory")),
    **{f"gpu-{name}": (DOCS / "gpu.md", results(f"gpu-{name}", "gpu_summary.py")) for name in GPU_TABLES},
}


@pytest.mark.parametrize("name", TABLES)
def test_generated_tables_are_up_to_date(name, request):
    page, rows = TABLES[name]
    table = "".join(f"{row}\n" for row in rows())
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    assert pattern.search(text), f"no place for the table of {name}"
    if request.config.getoption("--update-golden"):
        text = pattern.sub(lambda found: found[1] + table + found[2], text)
        page.write_text(text, encoding="utf-8")
    assert pattern.search(text)[0] == f"<!-- {name} -->\n{table}<!-- /{name} -->"


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def commands(text):
    """Return the words of every command in a script."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;<>"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def documented():
    """Return every `vgpt` command that the documents and the heads of the presets show."""
    scripts = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"), "bash")]
    for preset in sorted((ROOT / "presets").rglob("*.toml")):
        head = preset.read_text(encoding="utf-8").partition("\n\n")[0]
        scripts += re.findall(r"^#   (.*)$", head, re.M)
    found = [words for script in scripts for words in commands(script) if words[0] == "vgpt"]
    return {shlex.join(words): words[1:] for words in found}


@pytest.mark.parametrize("command", documented())
def test_every_command_shown_is_one_that_vgpt_takes(command, vgpt, tmp_path, monkeypatch):
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)
    result = vgpt(*documented()[command], "--show-settings")
    assert result.code == 0, result.err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for words in [words for block in blocks(text, "bash") for words in commands(block)]:
        if words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words[1]


def test_the_readme_stays_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


def test_the_two_blocks_that_ci_runs_are_there():
    for name, part in (("quick-start", "vgpt compare mha gqa mqa --run-missing --preset demo"), ("tests", "pytest")):
        script = [sys.executable, ROOT / ".ci/readme_block.py", README, name]
        assert part in subprocess.run(script, capture_output=True, text=True, check=True).stdout


def marked(name):
    """Return the block that follows a marker in the guide of training on GPUs."""
    text = (DOCS / "training-on-a-gpu.md").read_text(encoding="utf-8")
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)^```", text, re.S | re.M)[1]


def test_the_examples_for_clusters_start_what_vgpt_takes(vgpt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yaml = pytest.importorskip("yaml")
    (line,) = [line for line in marked("slurm").splitlines() if line.startswith("srun ")]
    job = yaml.safe_load(marked("pytorchjob"))
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    for words in (shlex.split(line)[1:], container["command"]):
        assert words[0] == "vgpt"
        result = vgpt(*words[1:], "--show-settings")
        assert result.code == 0, result.err


def test_the_variant_of_ones_own_trains_from_its_entry_point(tmp_path):
    text = (DOCS / "variants.md").read_text(encoding="utf-8")
    source = next(block for block in blocks(text, "python") if "register_attention" in block)
    entry = next(block for block in blocks(text, "toml") if "entry-points" in block)
    (tmp_path / "my_attention.py").write_text(source)
    info = tmp_path / "my_attention-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_attention\nVersion: 1.0\n")
    group, line = re.search(r'entry-points\."(.+?)"\]\n(.+)', entry).groups()
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")

    def run(*words):
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    settings = run("-m", "vgpt", "train", "--attn", "near", "--reach", "3", "--show-settings")
    assert re.search(r"reach +3 +command line", settings)
    run("-c", CHECK_OF_THE_VARIANT)


CHECK_OF_THE_VARIANT = """
import torch, my_attention
from vgpt.attention.build import build_attention
from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention
config = resolve_attention("near:reach=3")
layer = build_attention(config, Shape(n_embd=8, n_head=2, block_size=16))
for parameter in layer.parameters():
    torch.nn.init.normal_(parameter)
assert int(layer.mask(0, 9, 0, 9).sum()) == config.pairs(9)
x = torch.randn(1, 9, 8, requires_grad=True)
layer(x)[0, 6].sum().backward()
assert (x.grad[0].abs().sum(-1) > 0).tolist() == [False] * 4 + [True] * 3 + [False] * 2
"""
