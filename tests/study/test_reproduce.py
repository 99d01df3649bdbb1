import shlex

import pytest

from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.train import TrainConfig
from vgpt.study.reproduce import compare_command, reproduction


def typed(command):
    words = iter(shlex.split(command)[2:])
    found = {}
    for word in words:
        name = word[2:].replace("-", "_")
        if name.startswith("no_"):
            found[name[3:]] = False
        else:
            found[name] = next(words)
    return found


@pytest.mark.parametrize(
    ("attn", "settings"),
    [
        ("mha", {}),
        ("gqa:n_kv_head=4", {"lr": 3e-4, "seed": 7, "bias": False, "max_tokens": 5000}),
        ("mla", {"dropout": 0.1}),
        ("local:window_size=8", {"pos": "rope"}),
        ("mqa", {"match": "params", "match_to": "mha"}),
    ],
)
def test_the_command_of_a_run_has_its_settings(make_run, attn, settings):
    run = make_run(attn, settings=settings)
    found = reproduction(run)
    assert found.exact
    again = load_settings(TrainConfig, Sources(command_line=typed(found.command))).settings
    assert again.settings_hash == run.tags["vgpt.settings_hash"]


def test_a_record_that_this_version_reads_otherwise_is_marked(make_run):
    assert not reproduction(make_run("mha", tags={"vgpt.settings_hash": "f" * 64})).exact
    assert not reproduction(make_run("mha", tags={"vgpt.attn": "novel"})).exact


def test_a_command_is_quoted_for_a_shell(make_run):
    run = make_run("mha", settings={"data": "my data; rm -rf ~"})
    assert "--data 'my data; rm -rf ~'" in reproduction(run).command


def test_the_command_of_a_comparison_is_what_was_typed(ask):
    request = ask("mha", "gqa", preset="demo", n_kv_head="4", seeds="3", at_tokens="5000", columns="loss,p")
    assert compare_command(request) == (
        "vgpt compare mha gqa:n_kv_head=4 --preset demo --seeds 3 --at-tokens 5000 --columns loss,p"
    )
    assert compare_command(ask("mha", force=True)) == "vgpt compare mha --force"
