import re

import pytest

from vgpt.settings.commands import EvalConfig, TokenizerConfig, TokenizerTrainConfig, VerifyConfig
from vgpt.settings.fields import leaves
from vgpt.settings.probe import ProbeConfig
from vgpt.settings.train import TrainConfig


@pytest.mark.parametrize(
    "model", [TrainConfig, EvalConfig, TokenizerConfig, TokenizerTrainConfig, VerifyConfig, ProbeConfig]
)
def test_every_setting_has_help_and_a_unique_flag(model):
    for leaf in leaves(model).values():
        assert leaf.info.description, f"{leaf.flag} has no help"
        assert not leaf.info.description.endswith("."), leaf.flag


def test_help_shows_panels_choices_ranges_and_defaults_of_variants(vgpt):
    shown = vgpt("train", "--help").out
    text = re.sub(r"[\s│]+", " ", shown)
    assert "mha, mqa, gqa" in text
    assert "--n-kv-head int >=1" in text
    assert "(gqa: 2)" in text
    assert "[default: 0.001]" in text


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["prepare"],
        ["eval"],
        ["compare"],
        ["reproduce"],
        ["sample"],
        ["convert"],
        ["verify"],
        ["bench"],
        ["probe"],
        ["runs"],
        ["sync"],
        ["export"],
        ["import"],
        ["tokenize", "train"],
    ],
)
def test_help_text_is_as_recorded(vgpt, check_golden, command):
    result = vgpt(*command, "--help")
    assert result.code == 0
    check_golden(f"help/{'_'.join(command) or 'vgpt'}.txt", result.out)


def test_underscored_spellings_and_attention_type_are_the_same_flags(vgpt):
    plain = vgpt("train", "--attn", "gqa", "--n-kv-head", "3", "--show-settings")
    spelled = vgpt("train", "--attention_type", "gqa", "--n_kv_head", "3", "--show_settings")
    assert plain.code == spelled.code == 0
    assert plain.out == spelled.out


def test_show_settings_names_the_origin_of_every_value(vgpt, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("VGPT_SEED=7\n")
    monkeypatch.setenv("VGPT_LR", "0.5")
    shown = vgpt("train", "--preset", "demo", "--batch-size", "3", "--show-settings").out
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    assert rows["seed"] == ["7", ".env"]
    assert rows["lr"] == ["0.5", "environment"]
    assert rows["batch_size"] == ["3", "command", "line"]
    assert rows["n_layer"] == ["4", "preset", "demo"]
    assert rows["beta1"] == ["0.9", "default"]


def test_the_version_is_printed(vgpt):
    assert re.fullmatch(r"vgpt \d+\.\d+\.\d+\n", vgpt("--version").out)


def test_completion_offers_flags_and_variants():
    import os
    import subprocess
    import sys

    def complete(words: str) -> list[str]:
        environment = os.environ | {
            "_VGPT_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        code = "import sys; sys.argv[0] = 'vgpt'; from vgpt.cli.app import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    assert "--n-kv-head" in complete("vgpt train --n-")
    assert complete("vgpt train --attn m") == ["mha", "mqa", "mla", "mix"]
