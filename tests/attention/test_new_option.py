"""The worked example of CONTRIBUTING.md: an option is an entry and a formula, and everything else follows from them."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ENTRY, FORMULA = re.findall(r"^```python\n(.*?)^```", TEXT, re.S | re.M)
# Another one, for what the example does not have: weights in products, and so FLOPs.
SECOND_ENTRY = """\
Option(
    "second_gate",
    help="a gate without bias on the output of each head",
    acts_on="output",
    params=lambda sizes, value: sizes.n_embd * sizes.n_head,
    matmul_params=lambda sizes, value: sizes.n_embd * sizes.n_head,
),
"""
SECOND_FORMULA = """\
@formula("second_gate")
class SecondGate(Formula):
    def parts(self, sizes, value):
        return {"second": nn.Linear(sizes.n_embd, sizes.n_head, bias=False)}

    def output(self, layer, y, x):
        return (y.unflatten(-1, (layer.heads, -1)) * layer.second(x).sigmoid()[..., None]).flatten(-2)
"""
# Runs commands of the package that stands first on the path, in one process, since each would import torch anew.
RUN = """\
import contextlib, io, json, sys
from vgpt.cli.app import build_app
told = []
for words in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            build_app(words)(words)
        except SystemExit as end:
            code = end.code
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""
BACKBONE = ["--n-layer", "2", "--n-head", "4", "--n-embd", "32", "--block-size", "16"]
CHECKS = "parameters,switches,flops,decoding,fast_is_naive"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of vgpt with the example's entry and formula put where they belong, and nothing else changed."""
    place = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "vgpt", place / "vgpt")
    table, formulas = (place / "vgpt/attention" / name for name in ("options.py", "switches.py"))
    source, end = table.read_text(), '\n)\n"""Every option'
    assert source.count(end) == 1
    table.write_text(
        source.replace(end, "\n" + textwrap.indent(f"{ENTRY.rstrip()},\n{SECOND_ENTRY}", "    ") + end.lstrip("\n"))
    )
    formulas.write_text(f"{formulas.read_text()}\n\n{FORMULA}\n\n{SECOND_FORMULA}")
    return place


def run(package, code, *arguments, **environment):
    """Run Python with the changed package, and return what it printed."""
    env = {**os.environ, "PYTHONPATH": str(package), "NO_COLOR": "1", "COLUMNS": "200", **environment}
    words = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=package, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(package, *lines, **environment):
    return json.loads(run(package, RUN, json.dumps([line.split() for line in lines]), **environment))


@pytest.fixture(scope="module")
def told(package):
    backbone = " ".join(BACKBONE)
    lines = {
        "plain": f"explain mha --json {backbone}",
        "mha": f"explain mha --json --temperature {backbone}",
        "gqa": f"explain gqa --json --temperature {backbone}",
        "mla": f"explain mla --json --temperature {backbone}",
        "gate": f"explain mha --json --second-gate {backbone}",
        "text": f"explain mha --temperature {backbone}",
        "linear": f"explain linear {backbone}",
        "refused": f"explain linear --temperature {backbone}",
        "misspelled": f"explain mha --temperatur {backbone}",
        "help": "train --help",
    }
    return dict(zip(lines, commands(package, *lines.values()), strict=True))


def explained(told, name):
    code, out, err = told[name]
    assert code == 0, err
    return json.loads(out)


def test_the_flag_is_there_with_its_help_and_refused_where_the_entry_says_so(told, package):
    help_text = " ".join(told["help"][1].split())
    assert "--temperature" in help_text
    assert "a learned factor per head on the scores" in help_text
    code, _, err = told["refused"]
    assert code == 2
    assert "--temperature does not apply to --attn linear: there is no softmax whose scores it could scale" in " ".join(
        err.replace("│", " ").split()
    )
    assert told["misspelled"][0] == 2
    ((code, _, err),) = commands(package, "explain mha", VGPT_TEMPERATURE="warm")
    assert code == 2
    assert "--temperature" in err
    assert "warm" in err


@pytest.mark.parametrize("kind", ["mha", "gqa", "mla"])
def test_its_parameters_are_counted_as_the_module_has_them(told, kind):
    found = explained(told, kind)
    (layer,) = found["layers"]
    assert layer["tensors"]["extra.temperature"] == [4]
    assert layer["params"] == layer["params_counted"]
    if kind == "mha":
        plain = explained(told, "plain")
        assert layer["params"] == plain["layers"][0]["params"] + 4
        assert found["all_layers"]["params"] == plain["all_layers"]["params"] + 2 * 4
        assert found["all_layers"]["forward_flops_per_token"] == plain["all_layers"]["forward_flops_per_token"]


def test_flops_follow_from_weights_in_products(told):
    gate, plain = (explained(told, name) for name in ("gate", "plain"))
    weights = 32 * 4
    (layer,) = gate["layers"]
    assert layer["params"] == layer["params_counted"] == plain["layers"][0]["params"] + weights
    for name, times in (("forward_flops_per_token", 2), ("train_flops_per_token", 6), ("decode_flops_at_context", 2)):
        assert gate["all_layers"][name] == plain["all_layers"][name] + 2 * times * weights, name


def test_explain_names_it_and_the_reason_where_it_does_not_apply(told):
    assert explained(told, "plain")["switches"]["temperature"] is True
    assert "extra.temperature" in told["text"][1]
    assert "--temperature" in told["text"][1]
    assert "not --sinks: there is no softmax whose denominator a sink could join" in told["linear"][1]
    assert "not --temperature: there is no softmax whose scores it could scale" in told["linear"][1]


@pytest.mark.slow
def test_the_kit_tries_it_and_passes_what_honors_it(package):
    ((code, out, err),) = commands(package, f"verify mha gqa mla --checks {CHECKS} --json")
    assert code == 0, out + err
    assert len(json.loads(out)["variants"]) == 3


@pytest.mark.slow
def test_the_kit_finds_a_formula_that_does_nothing(package, tmp_path):
    shutil.copytree(package / "vgpt", tmp_path / "vgpt")
    formulas = tmp_path / "vgpt/attention/switches.py"
    source = formulas.read_text()
    assert source.count("return q * layer.temperature.to(q.dtype)[:, None]") == 1
    formulas.write_text(source.replace("return q * layer.temperature.to(q.dtype)[:, None]", "return q"))
    ((code, out, _),) = commands(tmp_path, "verify mha --checks switches --json")
    assert code == 1
    assert "--temperature is accepted, yet changes nothing" in out


AUDIT = """\
import json
from vgpt.compare.audit.conditions import audit
from vgpt.compare.rows import make_row
from vgpt.settings.train import TrainConfig
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Tag

def run(**model):
    flat = TrainConfig.model_validate({"model": model}).flat()
    return RunInfo("", "r", "e", "finished", 0, {n: str(v) for n, v in flat.items()}, tags={Tag.ATTN: flat["attn"]})

rows = [make_row([run(attn="mha")]), make_row([run(attn="mqa", temperature=True)])]
print(json.dumps([[one.aspect, one.name, one.values] for one in audit(rows).differences]))
"""


def test_the_audit_holds_it_equal(package):
    found = json.loads(run(package, AUDIT))
    assert ["trunk", "temperature", {"mha": "False", "mqa": "True"}] in found


@pytest.mark.slow
def test_every_check_of_the_kit_passes(package):
    ((code, out, err),) = commands(package, "verify mha gqa mla linear --json")
    assert code == 0, out + err
