"""One tiny run and one small comparison, made by the functions themselves, for all tests of them."""

import os
from pathlib import Path

import pytest

import vgpt

TINY = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 16,
    "batch_size": 2,
    "max_steps": 4,
    "log_interval": 2,
    "eval_windows": 4,
    "tracker": "journal",
    "device": "cpu",
    "dtype": "float32",
}


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """A directory with prepared data and two runs of one setting but the attention; what the functions returned."""
    place, before = tmp_path_factory.mktemp("bench"), Path.cwd()
    lines = (f"Scene {number}. Enter a reader, {number % 7} books in hand.\n" for number in range(600))
    (place / "play.txt").write_text("".join(lines))
    os.chdir(place)
    try:
        data = vgpt.prepare("play.txt", vocab_size=300, out="data", workers=1)
        runs = [vgpt.train(attn=attn, data=data, **TINY) for attn in ("mha", "gqa:n_kv_head=1")]
    finally:
        os.chdir(before)
    return place, data, runs


@pytest.fixture
def tiny():
    """Settings of a model that trains in a moment."""
    return TINY


@pytest.fixture
def vgpt_command(request):
    """What a command prints on stdout."""
    command = request.getfixturevalue("vgpt")

    def run(*words):
        outcome = command(*words)
        assert outcome.code == 0, outcome.err
        return outcome.out

    return run


@pytest.fixture
def data(bench, monkeypatch):
    """The prepared data; the test stands in its directory."""
    monkeypatch.chdir(bench[0])
    return bench[1]


@pytest.fixture
def run(bench, data):
    """A finished run of multi-head attention; the test stands in its directory."""
    return bench[2][0]
