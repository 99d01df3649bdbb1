"""The guide of plug-ins, tested from its own text, and the plug-in that `vgpt new-variant` writes."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vgpt.attention import plugins, registry
from vgpt.attention.base import roles_of
from vgpt.attention.build import build_attention
from vgpt.attention.config import Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.registry import variants
from vgpt.attention.roles import Role
from vgpt.conformance import failures

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
(DIFF,) = re.findall(r"<!-- diff_attention\.py -->\n```python\n(.*?)^```", GUIDE, re.S | re.M)
QUICK = ["pairs", "parameters", "visibility", "decoding", "cache_bytes", "state_dict", "initial_weights", "in_a_model"]


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Forget the variants of a test at its end."""
    variants()
    for module, name in ((registry, "_configs"), (registry, "_modules"), (plugins, "_origins")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setenv(plugins.VARIABLE, "")


@pytest.fixture
def place(tmp_path, monkeypatch, vgpt):
    """A directory with the guide's plug-in, and the one that its first command writes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "diff_attention.py").write_text(DIFF)
    done = vgpt("new-variant", "mine")
    assert done.code == 0, done.err
    return tmp_path


def load(path):
    import vgpt

    return vgpt.load_plugin(path)


def imported(source):
    """Return the modules that a source imports."""
    nodes = list(ast.walk(ast.parse(source)))
    found = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return found | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def test_differential_attention_takes_seventy_lines_and_the_public_names_of_attention(place):
    assert len(DIFF.splitlines()) <= 70
    for source in (DIFF, (place / "mine_attention.py").read_text()):
        assert {name for name in imported(source) if name.startswith("vgpt")} == {"vgpt.attention"}


def test_differential_attention_passes_every_check(place):
    assert load("diff_attention.py") == ["diff"]
    assert failures("diff") == []


def test_differential_attention_is_the_formula_of_the_paper(place):
    load("diff_attention.py")
    shape, layer, H, D = Shape(24, 3, 16), 2, 3, 8
    module = build_attention(resolve_attention("diff"), shape, layer).double()
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5, generator=numbers)
    x = torch.randn(1, 7, 24, generator=numbers, dtype=torch.float64)
    q, k, v = (part[0] for part in module.c_attn(x).split(24, -1))
    l_q1, l_k1, l_q2, l_k2 = module.lambdas
    # Ye et al. 2024, equations 1 to 3, with the layers counted from 1 there and from 0 here.
    start = 0.8 - 0.6 * 2.718281828459045 ** (-0.3 * layer)
    weight = torch.exp(l_q1 @ l_k1) - torch.exp(l_q2 @ l_k2) + start
    future, heads = torch.ones(7, 7).triu(1).bool(), []
    for h in range(H):
        maps = []
        for i in (0, 1):
            columns = slice(h * D + i * D // 2, h * D + (i + 1) * D // 2)
            scores = q[:, columns] @ k[:, columns].T / (D / 2) ** 0.5
            maps.append(scores.masked_fill(future, -torch.inf).softmax(-1))
        y = (maps[0] - weight * maps[1]) @ v[:, h * D : (h + 1) * D]
        y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.norm
        heads.append((1 - start) * y)
    torch.testing.assert_close(module(x)[0], module.c_proj(torch.cat(heads, -1)))


def test_lambda_starts_from_small_normal_numbers_and_does_not_decay(place):
    load("diff_attention.py")
    module = build_attention(resolve_attention("diff"), Shape(2048, 2, 16))
    with torch.no_grad():
        module.init_parameters(torch.Generator().manual_seed(1))
    assert abs(float(module.lambdas.detach().std()) / 0.1 - 1) < 0.05
    assert abs(float(module.lambdas.detach().mean())) < 0.01
    assert roles_of(module)["lambdas"] is Role.OWN
    assert not Role.OWN.decays


def test_every_command_of_the_guide_is_one_that_vgpt_takes(place, vgpt):
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```", GUIDE, re.S | re.M) for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("vgpt ")]
    assert len(commands) >= 5
    for words in commands:
        if words[0] != "new-variant":
            done = vgpt(*words, "--show-settings")
            assert done.code == 0, done.err


def test_every_name_of_the_guide_is_there():
    import vgpt.attention as face
    from vgpt.attention.config import AttentionConfig

    names = set(re.findall(r"`([A-Za-z_]+)(?:\[\w+\]|\(.*?\))?`", GUIDE)) - {"mine", "learned", "rope", "bias"}
    owners = [face, face.CausalSelfAttention, AttentionConfig]
    known = {name for name in names if any(hasattr(owner, name) for owner in owners)}
    assert known >= {"attend", "Switches", "visible", "pairs", "maps", "parameter_roles", "init_parameters", "step_at"}
    assert {name for name in names - known if name[0].isupper()} == set()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", GUIDE):
        assert (ROOT / "docs" / target).exists(), target


def test_a_new_variant_works_as_written(place):
    load("mine_attention.py")
    assert failures("mine:window_size=24", only=QUICK) == []
    assert variants()["mine"]().window_size == 64


@pytest.mark.slow
def test_a_new_variant_passes_its_own_test_and_vgpt_verify(place):
    for words in (
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine_attention.py"],
        ["-m", "vgpt", "--plugin", "mine_attention.py", "verify", "mine"],
    ):
        done = subprocess.run([sys.executable, *words], cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["mine"], "mine_attention.py is there already and is not replaced"),
        (["Mine"], "mine_attention.py is there already and is not replaced"),
        (["mha"], "there is a variant 'mha' already"),
        (["9lives"], "'9lives' is no name of a variant"),
        (["a/b"], "'a/b' is no name of a variant"),
    ],
)
def test_a_new_variant_replaces_nothing(place, vgpt, words, phrase):
    before = {path: path.read_bytes() for path in place.iterdir()}
    done = vgpt("new-variant", *words)
    assert done.code == 2
    assert phrase in " ".join(done.err.replace("│", " ").split())
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_a_new_variant_goes_where_it_is_asked_for_under_a_name_with_dashes(place, vgpt):
    done = vgpt("new-variant", "two-words", "--out", "deep/er")
    assert done.code == 0, done.err
    written = place / "deep/er/two_words_attention.py"
    assert (place / "deep/er/test_two_words_attention.py").exists()
    assert load(written) == ["two-words"]
    assert "class TwoWordsConfig(SoftmaxConfig)" in written.read_text()
