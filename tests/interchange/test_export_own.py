"""Models that bring code of their own: loaded by transformers where there is no vgpt."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vgpt.attention import plugins, registry
from vgpt.attention.registry import variants
from vgpt.errors import CheckpointError
from vgpt.interchange.carried import carry
from vgpt.interchange.export import export_run
from vgpt.model.generation import generate
from vgpt.training.checkpoints.checkpoint import find_checkpoint

pytestmark = pytest.mark.oracle
PLUGIN = Path(__file__).parents[1] / "plugin" / "decayed_average.py"

# What anybody would type, in a process of its own, where an import of vgpt fails.
ELSEWHERE = """
import json, sys
sys.modules["vgpt"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
place, prompts = sys.argv[1], torch.tensor(json.load(sys.stdin))
model = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=True).eval()
model.generation_config.eos_token_id = None
with torch.no_grad():
    logits = model(prompts).logits[:, -1]
text = model.generate(prompts, do_sample=False, max_new_tokens=64, attention_mask=torch.ones_like(prompts))
print(json.dumps({
    "logits": logits.tolist(), "text": text[:, prompts.shape[1]:].tolist(), "parameters": model.num_parameters(),
    "tied": model.config.tie_word_embeddings, "modules": [name for name in sys.modules if name.startswith("vgpt")],
}))
"""


def elsewhere(place: Path, prompts: torch.Tensor, temporary: Path) -> dict:
    environment = {**os.environ, "HF_MODULES_CACHE": str(temporary), "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, str(place)],
        input=json.dumps(prompts.tolist()),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def forget(monkeypatch):
    """Forget the variants of a test at its end."""
    variants()
    for module, name in ((registry, "_configs"), (registry, "_modules"), (plugins, "_origins")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))


def check(run: Path, out: Path, **settings: object) -> None:
    found = export_run(str(run), out, runs_dir=out.parent, **settings)
    assert (found.architecture, found.own_code) == ("VgptForCausalLM", True)
    assert found.difference <= 1e-4
    ours = find_checkpoint(run).load_model().eval()
    prompts = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(5))
    theirs = elsewhere(out, prompts, out.parent / "modules")
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(theirs["logits"]), ours(prompts)[:, -1], rtol=0, atol=1e-4)
    assert theirs["text"] == generate(ours, prompts, max_new_tokens=64, temperature=0, seed=0).tokens
    assert len(theirs["text"][0]) == 64
    assert theirs["tied"] == ours.config.tie_weights
    assert theirs["parameters"] == sum(parameter.numel() for parameter in ours.parameters())
    assert theirs["modules"] == ["vgpt"]  # which is None: nothing below it was imported


@pytest.mark.slow
def test_a_mix_is_written_with_its_code_and_loaded_where_there_is_no_vgpt(vgpt, make_run, tmp_path):
    run, out = make_run("local:window_size=5+linear"), tmp_path / "out"
    done = vgpt("export", run, out)
    assert done.code == 0, done.err
    assert "VgptForCausalLM (code of its own: load it with trust_remote_code=True)" in " ".join(done.out.split())
    files = {path.name for path in out.iterdir()}
    assert {"modeling_vgpt.py", "configuration_vgpt.py", "vgpt_attention_linear_module.py", "README.md"} <= files
    assert not [name for name in files if "latent" in name or "sparse" in name]  # nothing that it does not need
    text = (out / "modeling_vgpt.py").read_text()
    named = set(re.findall(r"^ *from \.(\w+) import", text, re.M))
    # Older versions of transformers copy only what this file names.
    assert {f"{name}.py" for name in named} == {name for name in files if name.endswith(".py")} - {"modeling_vgpt.py"}
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] == 96
    assert "trust_remote_code=True" in (out / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attn", "changes"),
    [
        ("local:window_size=5+linear", {}),
        ("mha", {}),
        ("mqa", {"pos": "alibi", "tie_weights": False}),
        ("gqa:n_kv_head=2", {"pos": "rope", "qk_norm": True, "out_gate": "elem", "sinks": True, "bias": False}),
        ("local:window_size=5", {"pos": "none", "activation": "silu"}),
        ("sparse:sparse_block_size=4", {}),
        ("linear", {}),
        ("linear:feature_map=taylor2,linear_norm=rms", {"pos": "rope", "tie_weights": False}),
        ("mla:kv_lora_rank=12", {}),
        ("mla:kv_lora_rank=12,q_lora_rank=10", {"pos": "rope"}),
        ("2xlinear+mla:kv_lora_rank=12+mha", {"n_layer": 4}),
    ],
)
def test_every_variant_is_loaded_where_there_is_no_vgpt(make_run, tmp_path, attn, changes):
    check(make_run(attn, **changes), tmp_path / "out", classes="own")


@pytest.mark.slow
def test_a_plug_in_travels_along(make_run, tmp_path, forget):
    assert plugins.load_plugin(plugins.named(str(PLUGIN)), lambda: None) == ["decay"]
    check(make_run("decay:half_life=4+mha"), tmp_path / "out")
    carried = [path.name for path in (tmp_path / "out").glob("vgpt_plugin_*.py")]
    assert len(carried) == 1
    text = (tmp_path / "out" / carried[0]).read_text()
    assert "from .vgpt_attention_base import CausalSelfAttention" in text
    assert '"""A third-party variant in one file' in text


def test_carried_files_import_each_other_alone_and_say_the_same_otherwise():
    files = carry(["vgpt.attention.linear.module", "vgpt.attention.linear.config", "vgpt.model.gpt2"])
    assert {"vgpt_attention_linear_kernels.py", "vgpt_model_gpt2.py", "vgpt_attention_base.py"} <= files.keys()
    for name, text in files.items():
        compile(text, name, "exec")
        assert not re.search(r"^\s*(from|import) vgpt", text, re.M), name
        named = set(re.findall(r"^\s*from \.(\w+) import", text, re.M))
        assert {f"{one}.py" for one in named} <= files.keys()
        # transformers finds only what is named in this way.
        assert set(re.findall(r"from \. import (\w+)", text)) <= named
    registered = files["vgpt_attention_linear_config.py"]
    assert 'module=f"{__package__}.vgpt_attention_linear_module:LinearAttention"' in registered


def test_kernels_travel_from_a_machine_without_their_library(monkeypatch):
    # As where triton is not installed: importing them would fail.
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "vgpt.attention.linear.kernels", raising=False)
    assert "vgpt_attention_linear_kernels.py" in carry(["vgpt.attention.linear.module"])
    assert "vgpt.attention.linear.kernels" not in sys.modules


def test_modules_of_a_plug_ins_own_package_travel_along(tmp_path, monkeypatch):
    package = tmp_path / "carriage"
    package.mkdir()
    (package / "__init__.py").write_text("from .wheels import COUNT\nNAME = 'carriage'\n")
    (package / "wheels.py").write_text("COUNT = 4\n")
    (package / "mine.py").write_text(
        "from carriage import NAME\nfrom . import wheels\nimport carriage.wheels as again\n\n"
        "def told():\n    from .wheels import COUNT as late\n    return NAME, wheels.COUNT, again.COUNT, late\n"
        "HOME = 'carriage.wheels:COUNT'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    files = carry(["carriage.mine"], ["carriage"])
    assert files.keys() == {"carriage.py", "carriage_mine.py", "carriage_wheels.py"}
    flat = tmp_path / "elsewhere"
    flat.mkdir()
    for name, text in files.items():
        (flat / name).write_text(text)
    code = "from elsewhere.carriage_mine import HOME, told; print(told(), HOME)"
    (tmp_path / "carriage").rename(tmp_path / "gone")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "('carriage', 4, 4, 4) elsewhere.carriage_wheels:COUNT"


def test_transformers_asks_for_no_library_but_torch_and_pydantic(tmp_path):
    loader = pytest.importorskip("transformers.dynamic_module_utils")
    asked: set[str] = set()
    for name, text in carry(["vgpt.attention.linear.module", "vgpt.model.gpt2"]).items():
        (tmp_path / name).write_text(text)
        asked |= set(loader.get_imports(tmp_path / name))
    # It asks for what a file imports, but for what stands in `try`: triton is only where GPUs are.
    assert asked - set(sys.stdlib_module_names) == {"torch", "pydantic"}


@pytest.mark.parametrize(
    ("line", "said"),
    [("import vgpt", "`import vgpt` cannot travel"), ("from vgpt.attention.base import *", "import \\*")],
)
def test_imports_that_cannot_be_carried_are_named(tmp_path, monkeypatch, line, said):
    (tmp_path / "oddly.py").write_text(f'"""A plug-in."""\n\n{line}\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "oddly", raising=False)
    with pytest.raises(CheckpointError, match=f"oddly.py, line 3: .*{said}"):
        carry(["oddly"], ["oddly"])
