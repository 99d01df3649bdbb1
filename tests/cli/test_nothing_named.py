"""A row of commands without a name: each takes what the one before made, and says what it took."""

import contextlib
import json
import shutil

import pytest

from tests.cli.tiny import TINY


def text(seed: int) -> str:
    return "".join(f"{i * seed % 97} cats sat on {i % 7} mats and ran after {i % 5} dogs\n" for i in range(500))


@pytest.fixture(scope="module")
def place(tmp_path_factory, vgpt):
    """A directory in which the first two commands were typed."""
    place = tmp_path_factory.mktemp("row")
    (place / "corpus.txt").write_text(text(3))
    (place / "other.txt").write_text(text(5))
    with contextlib.chdir(place):
        assert vgpt("prepare", "corpus.txt", "--vocab-size", 300).code == 0
        trained = vgpt("train", "--attn", "mla", "--kv-lora-rank", 8, *TINY)
    assert trained.code == 0, trained.err
    (place / "said.txt").write_text(trained.err)
    return place


@pytest.fixture
def run(place, vgpt):
    """Run a command in a copy of the directory."""

    def run(*words, cwd=""):
        with contextlib.chdir(place / cwd):
            return vgpt(*words)

    return run


def run_names(place):
    return sorted(path.parent.name for path in place.glob("runs/*/summary.json"))


def test_a_plain_train_takes_the_data_prepared_last_and_says_so_first(place, run):
    assert (place / "said.txt").read_text().splitlines()[0] == "data: data/corpus (prepared last in this directory)"
    settings = json.loads(next(place.glob("runs/*/settings.json")).read_text())
    assert settings["train"]["data"] == "data/corpus"
    assert not (place / "data" / "demo").exists()
    shown = run("train", "--show-settings", "--json")
    wanted = {"value": "data/corpus", "origin": "prepared last in this directory"}
    assert json.loads(shown.out)["data"] == wanted


def test_sample_and_eval_without_a_name_take_the_newest_finished_run_and_say_so(place, run):
    (name,) = run_names(place)
    for words in (["eval", "--json"], ["sample", "--max-tokens", 3, "--json"], ["sample", "ckpt/", "--max-tokens", 3]):
        result = run(*words)
        assert result.code == 0, result.err
        assert result.err.splitlines()[0] == f"run: {name}, the newest finished one in runs/"
    assert json.loads(run("eval", "--json").out)["checkpoint"].startswith(f"runs/{name}/ckpt/")


def test_inside_a_runs_directory_that_run_is_meant(place, run):
    (name,) = run_names(place)
    inside = run("sample", "--max-tokens", 3, "--json", cwd=f"runs/{name}")
    assert f"run: that of this directory, {name}" in inside.err
    named = run("sample", "ckpt/", "--max-tokens", 3, "--json", cwd=f"runs/{name}")
    assert json.loads(inside.out)["samples"] == json.loads(named.out)["samples"]


def test_where_no_run_has_finished_that_is_said_with_the_names_of_those_begun(tmp_path, run):
    result = run("sample", "--runs-dir", tmp_path)
    assert result.code == 1
    assert "no run is named, and none in" in result.err
    assert "vgpt train" in result.err


@pytest.mark.parametrize("spelling", ["data/corpus/", "./data/corpus", "ABSOLUTE", "copy of it"])
def test_the_same_data_in_another_spelling_is_the_same_run(place, run, spelling):
    if spelling == "copy of it" and not (place / spelling).exists():
        shutil.copytree(place / "data" / "corpus", place / spelling)
    data = place / "data" / "corpus" if spelling == "ABSOLUTE" else spelling
    (name,) = run_names(place)
    words = ["--attn", "mla", "--kv-lora-rank", 8, *TINY, "--data", data]
    again = run("train", *words)
    assert again.code == 0, again.err
    assert f"{name} is finished at step 2: nothing to train" in again.err
    assert run_names(place) == [name]
    by_name = run("train", *words, "--run-name", name)
    assert by_name.code == 0, by_name.err
    plan = run("compare", "mla:kv_lora_rank=8", *TINY, "--data", data, "--plan", "--json")
    assert json.loads(plan.out)["missing"] == 0, plan.out


@pytest.mark.parametrize(
    "spelled", [["--min-lr", "1e-4"], ["--mlp-hidden", "64"], ["--device", "auto"], ["--v-head-dim", "8"]]
)
def test_a_default_spelled_out_is_the_same_run(place, run, spelled):
    (name,) = run_names(place)
    again = run("train", "--attn", "mla", "--kv-lora-rank", 8, *TINY, *spelled)
    assert f"{name} is finished at step 2: nothing to train" in again.err, again.err
    plan = run("compare", "mla:kv_lora_rank=8", *TINY, *spelled, "--plan", "--json")
    assert json.loads(plan.out)["missing"] == 0, plan.out


def test_other_data_of_the_same_name_is_another_matter(place, run):
    result = run("prepare", "other.txt", "--vocab-size", 300, "--out", "data/other")
    assert result.code == 0
    (name,) = run_names(place)
    try:
        words = ["--attn", "mla", "--kv-lora-rank", 8, *TINY]
        refused = run("train", *words, "--run-name", name, "--data", "data/other")
        assert refused.code == 2
        assert "data: 'data/corpus' there, 'data/other' asked" in refused.err
        kept = run("train", *words, "--run-name", name)
        assert kept.err.splitlines()[0] == f"data: data/corpus (the run {name})"
        plan = run("compare", "mla:kv_lora_rank=8", *TINY, "--plan", "--json")
        assert plan.err.splitlines()[0] == "data: data/other (prepared last in this directory)"
        assert json.loads(plan.out)["missing"] == 1
        assert "--data data/other" in json.loads(plan.out)["runs"][0]["command"]
    finally:
        shutil.rmtree(place / "data" / "other")
        run("prepare", "corpus.txt", "--vocab-size", 300)


def test_a_data_set_that_is_gone_is_said_and_not_passed_over(place, run):
    (place / "data" / "corpus").rename(place / "moved")
    try:
        result = run("train", *TINY)
        assert result.code == 1
        assert result.err.startswith("data: data/corpus (prepared last in this directory, but gone)")
        evaluated = run("eval")
        assert evaluated.code == 1
        assert "--data DIRECTORY" in evaluated.err
        assert run("eval", "--data", "moved").code == 0
        (name,) = run_names(place)
        words = ["--attn", "mla", "--kv-lora-rank", 8, *TINY]
        assert f"{name} is finished" in run("train", *words, "--data", "moved").err
    finally:
        (place / "moved").rename(place / "data" / "corpus")


def test_a_special_token_in_a_prompt_is_said_to_be_letters_and_has_a_switch(run):
    prompt = "<|endoftext|>ROMEO:"
    letters = run("sample", "--max-tokens", 2, "--json", "--prompt", prompt)
    assert "'<|endoftext|>' in the text is read as letters; --allow-special" in letters.err
    token = run("sample", "--max-tokens", 2, "--json", "--prompt", prompt, "--allow-special")
    assert "letters" not in token.err
    words = ["--tokenizer", "data/corpus", prompt, "--json"]
    encoded = run("tokenize", "encode", *words)
    assert "read as letters" in encoded.err
    assert len(json.loads(encoded.out)) > len(json.loads(run("tokenize", "encode", *words, "--allow-special").out))


def test_a_byte_order_mark_in_a_prompts_file_is_no_prompt(place, run):
    (place / "prompt.txt").write_bytes(b"\xef\xbb\xbfcats")
    result = run("sample", "--max-tokens", 1, "--json", "--prompt-file", "prompt.txt")
    assert json.loads(result.out)["prompt"] == "cats"
    words = ["tokenize", "encode", "--tokenizer", "data/corpus", "--json"]
    assert run(*words, "--file", "prompt.txt").out == run(*words, "cats").out


def test_a_missing_file_of_text_is_named(run):
    result = run("tokenize", "encode", "--tokenizer", "data/corpus", "--file", "gone.txt")
    assert result.code == 2
    assert "--file gone.txt cannot be read: No such file" in result.err


@pytest.mark.parametrize(
    "words", [["prepare", "x.txt"], ["train", "--dry-run"], ["compare", "mha"], ["runs"], ["eval"]]
)
def test_a_working_directory_that_is_gone_is_said_to_be(tmp_path, vgpt, words):
    (tmp_path / "gone").mkdir()
    with contextlib.chdir(tmp_path), contextlib.chdir("gone"):
        (tmp_path / "gone").rmdir()
        result = vgpt(*words)
        with contextlib.suppress(OSError):
            import os

            os.chdir(tmp_path)
    assert result.code == 2
    assert "the working directory is gone" in result.err


def test_a_picture_has_the_name_that_was_given(tmp_path, vgpt):
    with contextlib.chdir(tmp_path):
        assert vgpt("explain", "gqa", "--png", "pic", "--mask-tokens", 8).code == 0
        assert (tmp_path / "pic").read_bytes().startswith(b"\x89PNG")
        assert [path.name for path in tmp_path.iterdir()] == ["pic"]
        (tmp_path / "notes.png").write_text("dear diary")
        refused = vgpt("explain", "gqa", "--png", "notes.png", "--mask-tokens", 8)
    assert refused.code == 1
    assert (tmp_path / "notes.png").read_text() == "dear diary"


def test_a_page_does_not_replace_a_file_of_another_kind(tmp_path, run):
    (tmp_path / "thesis.tex").write_text("\\documentclass{book}")
    result = run("compare", "mla", "--tracker", "journal", "--html", tmp_path / "thesis.tex")
    assert result.code == 2
    assert (tmp_path / "thesis.tex").read_text() == "\\documentclass{book}"


@pytest.mark.parametrize("name", ["settings.json", "thesis.tex"])
def test_a_directory_of_somebody_else_is_no_place_for_a_run(place, tmp_path, run, name):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / name).write_text('{"editor": "vim"}')
    result = run("train", *TINY, "--runs-dir", tmp_path, "--run-name", "theirs")
    assert result.code == 2
    assert f"holds files that are no part of a run: {name}" in " ".join(result.err.replace("│", " ").split())
    assert [path.name for path in theirs.iterdir()] == [name]
    assert (theirs / name).read_text() == '{"editor": "vim"}'


def test_presets_and_studies_with_a_byte_order_mark_are_read(place, run):
    (place / "bom.toml").write_bytes(b"\xef\xbb\xbf[train]\nlr = 2e-3\n")
    shown = run("train", "--preset", "bom.toml", "--show-settings", "--json")
    assert json.loads(shown.out)["lr"] == {"value": "0.002", "origin": "preset bom.toml"}
    (place / "study.toml").write_bytes(b'\xef\xbb\xbfname = "s"\nvariants = ["mha", "mqa"]\npreset = "demo"\n')
    plan = run("compare", "--study", "study.toml", "--tracker", "journal", "--plan", "--json")
    assert json.loads(plan.out)["missing"] == 2, plan.err


def test_files_left_out_of_a_folder_are_counted_in_what_is_said(tmp_path, run):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text(text(3))
    (tmp_path / "folder" / "b.csv").write_text("a,b")
    (tmp_path / "folder" / "c.txt").symlink_to("nowhere")
    result = run("prepare", tmp_path / "folder", "--vocab-size", 300, "--out", tmp_path / "out")
    assert "2 files in folders" in result.out
    run("prepare", "corpus.txt", "--vocab-size", 300)


def test_a_text_that_spells_the_end_of_text_is_said_to_hold_letters(tmp_path, run):
    (tmp_path / "a.txt").write_text(text(3).replace("dogs", "dogs<|endoftext|>"))
    result = run("prepare", tmp_path / "a.txt", "--vocab-size", 300, "--out", tmp_path / "out")
    assert result.code == 0
    assert "spells <|endoftext|> 500 times, which is read as letters" in result.err
    assert "<|endoftext|>" not in run("prepare", "corpus.txt", "--vocab-size", 300).err


def test_data_that_was_prepared_anew_under_the_same_name_makes_another_run(place, run):
    (name,) = run_names(place)
    words = ["--attn", "mla", "--kv-lora-rank", 8, *TINY]
    assert run("prepare", "other.txt", "--vocab-size", 300, "--overwrite").code == 0
    try:
        plan = run("compare", "mla:kv_lora_rank=8", *TINY, "--plan", "--json")
        assert json.loads(plan.out)["missing"] == 1
        for _ in range(2):
            trained = run("train", *words)
            assert trained.code == 0, trained.err
            assert f"{name} was trained on other data of the same name: this is {name}-" in trained.err
        other = next(found for found in run_names(place) if found != name)
        assert f"{other} is finished at step 2: nothing to train" in trained.err
        plan = run("compare", "mla:kv_lora_rank=8", *TINY, "--plan", "--json")
        assert json.loads(plan.out)["missing"] == 0
    finally:
        for found in place.glob(f"runs/{name}-*"):
            shutil.rmtree(found)
        assert run("prepare", "corpus.txt", "--vocab-size", 300, "--overwrite").code == 0
