"""`vgpt sample`: the text that generation makes, whole characters only, figures on stderr."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vgpt.cli.sample import Printer, spelled, visible
from vgpt.model.config import GPT2Config
from vgpt.model.generation import generate
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize
from vgpt.settings.train import TrainConfig
from vgpt.text.patterns import resolve_pattern
from vgpt.text.tokenizer import END_OF_TEXT, Tokenizer
from vgpt.text.vocabulary import Vocabulary
from vgpt.training.checkpoints.checkpoint import TrainingState, save_checkpoint
from vgpt.training.parallel.replica import Replica

BYTES = Tokenizer(Vocabulary("bytes", resolve_pattern("gpt2"), (), {END_OF_TEXT: 256}))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with one checkpoint of a random model over bytes."""
    place = tmp_path_factory.mktemp("sample")
    write_run(place / "runs" / "tiny")
    return place


def write_run(directory, seed=4):
    settings = TrainConfig.model_validate(
        {"model": {"attn": "gqa", "n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "tie_weights": False}}
    )
    model = GPT2Model(GPT2Config(vocab_size=257, **settings.model.model_dump()))
    initialize(model, seed)
    with torch.no_grad():
        model.lm_head.weight[256] -= 10  # end-of-text does not come by itself
    save_checkpoint(
        directory / "ckpt",
        model=model.config,
        weights=Replica(model).weights(),
        optimizer={},
        state=TrainingState(step=1),
        settings=settings,
        tokenizer=BYTES,
    )
    return model


@pytest.fixture
def sample(vgpt, place):
    def run(*words, stdin=None):
        return vgpt(
            "sample", "tiny", "--runs-dir", place / "runs", "--dtype", "float32", "--device", "cpu", *words, stdin=stdin
        )

    return run


def as_json(outcome):
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_the_text_is_what_generation_makes_of_the_checkpoint(sample, place):
    model = write_run(place / "again")
    prompt = BYTES.encode("ROMEO:")
    made = generate(model, torch.tensor([prompt]), max_new_tokens=20, temperature=1.2, top_k=50, top_p=0.9, seed=7)
    flags = "--prompt ROMEO: --max-tokens 20 --temperature 1.2 --top-k 50 --top-p 0.9 --seed 7 --json"
    got = as_json(sample(*flags.split()))
    assert [row["ids"] for row in got["samples"]] == made.tokens
    assert got["prompt"] == "ROMEO:"


def test_plain_output_is_prompt_and_text_and_the_figures_are_on_stderr(sample):
    words = ("--prompt", "To be", "--max-tokens", 12, "--temperature", 0)
    text = as_json(sample(*words, "--json"))["samples"][0]["text"]
    plain = sample(*words)
    assert plain.out == f"To be{text}\n"
    assert "tokens/s" in plain.err
    # 16 tokens held, 2 layers, 2 key/value heads of width 8, keys and values, 4 bytes each
    assert f"cache {16 * 2 * 2 * 8 * 2 * 4:,} bytes for 16 tokens (as its analytic size)" in plain.err.replace("\n", "")


def test_the_json_figures_agree_with_each_other(sample):
    got = as_json(sample("--prompt", "abc", "--max-tokens", 9, "--num-samples", 3, "--json"))
    assert got["new_tokens"] == sum(row["tokens"] + row["end_of_text"] for row in got["samples"])
    assert got["cache_bytes"] == got["cache_bytes_analytic"] > 0
    assert (got["cache_rows"], got["cache_tokens"]) == (3, 11)
    assert got["tokens_per_second"] == pytest.approx(got["new_tokens"] / got["seconds"])


def test_samples_are_separated_and_do_not_depend_on_how_many_there_are(sample):
    many = as_json(sample("--num-samples", 18, "--max-tokens", 6, "--prompt", "x", "--json"))["samples"]
    few = as_json(sample("--num-samples", 2, "--max-tokens", 6, "--prompt", "x", "--json"))["samples"]
    assert [row["ids"] for row in many[:2]] == [row["ids"] for row in few]
    assert len({tuple(row["ids"]) for row in many}) == 18
    printed = sample("--num-samples", 18, "--max-tokens", 6, "--prompt", "x").out
    for number, row in enumerate(many, start=1):
        expected = f"--- sample {number} of 18 ---\nx{row['text']}\n"
        assert expected.replace("\r\n", "\n") in printed  # as the runner does with what it captured


def test_a_cache_changes_nothing_and_no_cache_says_so(sample):
    cached = sample("--max-tokens", 80, "--prompt", "q")
    plain = sample("--max-tokens", 80, "--prompt", "q", "--no-cache")
    assert cached.out == plain.out
    assert "without a cache" in plain.err


def test_a_sliding_context_is_noted_on_stderr(sample):
    assert "filled up once" in sample("--max-tokens", 60, "--prompt", "q").err.replace("\n", " ")
    assert "filled up" not in sample("--max-tokens", 20, "--prompt", "q").err


def test_no_prompt_and_an_empty_prompt_begin_at_end_of_text(sample):
    begun = as_json(sample("--max-tokens", 5, "--json"))
    assert begun == {**as_json(sample("--max-tokens", 5, "--prompt", "", "--json")), **timing(begun)}
    assert begun["cache_tokens"] == 5


def timing(table):
    return {name: table[name] for name in ("seconds", "tokens_per_second")}


def test_a_prompt_comes_from_a_file_or_stdin_as_it_is(sample, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes("naïve\r\n\n".encode())
    expected = as_json(sample("--prompt-file", file, "--max-tokens", 4, "--json"))
    assert expected["prompt"] == "naïve\r\n\n"
    piped = as_json(sample("--prompt-file", "-", "--max-tokens", 4, "--json", stdin="naïve\r\n\n".encode()))
    assert piped["samples"] == expected["samples"]


def test_wrong_prompts_are_named(sample, tmp_path):
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    for words, message in [
        (("--prompt", "a", "--prompt-file", "b"), "give one of them"),
        (("--prompt-file", tmp_path / "none.txt"), "cannot be read"),
        (("--prompt-file", tmp_path / "latin.txt"), "no UTF-8 text"),
        (("--temperature", "-1"), "--temperature = '-1'"),
        (("--top-p", "0"), "--top-p = '0'"),
        (("--max-tokens", "0"), "--max-tokens = '0'"),
        (("--context", "49"), "48 learned positions"),
    ]:
        outcome = sample(*words)
        assert outcome.code == 2, words
        assert message in " ".join(outcome.err.replace("│", " ").split()), outcome.err
        assert outcome.out == ""


def test_a_missing_run_is_named(vgpt, tmp_path):
    outcome = vgpt("sample", "nowhere", "--runs-dir", tmp_path)
    assert outcome.code == 1
    assert "no checkpoint at nowhere" in outcome.err


def test_characters_of_several_tokens_are_printed_whole(monkeypatch):
    monkeypatch.setattr(sys, "stdout", screen := io.StringIO())
    printer = Printer(BYTES, "", 0, 1, silent=False)
    states = []
    for byte in "aé€😀".encode():
        printer.take(0, byte)
        states.append(screen.getvalue())
    assert states == ["a", "a", "aé", "aé", "aé", "aé€", "aé€", "aé€", "aé€", "aé€😀"]
    printer.take(0, 0xE2)
    printer.finish([[]])
    assert screen.getvalue() == "aé€😀\ufffd\n"


def test_control_characters_are_spelled_out_and_text_is_not():
    assert visible("\x1b[2J\r\a\x9b\x7f\0") == "\\x1b[2J\\x0d\\x07\\x9b\\x7f\\x00"
    plain = "tabs\tand\nlines, Größe, 漢字, עברית, 👩‍👩‍👧"
    assert visible(plain) == plain


def test_an_id_without_bytes_is_shown_not_fatal():
    gappy = Tokenizer(Vocabulary("gap", resolve_pattern("gpt2"), (), {END_OF_TEXT: 300}))
    assert spelled(gappy, [65, 280, 66]).decode() == "A\ufffdB"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_gets_no_control_characters_but_a_pipe_gets_the_bytes(place):
    command = [sys.executable, "-m", "vgpt", "sample", "tiny", "--prompt", "\x1b[31mred", "--max-tokens", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "utf-8"}
    main, side = pty.openpty()
    subprocess.run(command, cwd=place, env=environment, stdout=side, stderr=subprocess.DEVNULL, check=True)
    os.close(side)
    assert b"\\x1b[31mred" in os.read(main, 10_000)
    os.close(main)
    piped = subprocess.run(command, cwd=place, env=environment, capture_output=True, check=True)
    assert piped.stdout.startswith(b"\x1b[31mred")
