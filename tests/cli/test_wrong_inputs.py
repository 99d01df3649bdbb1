"""Every wrong input gets one clear message with the way out, exit code 1 or 2, and no traceback."""

import contextlib
import gzip
import json
import re

import pytest

from tests.cli.tiny import TINY

TEXT = "It is a truth universally acknowledged, that a reader of errors must be in want of a way out.\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory, vgpt):
    """A folder with prepared data, a trained run, and everything that can be wrong."""
    place = tmp_path_factory.mktemp("place")

    def write(name: str, content: str | bytes) -> None:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content.encode() if isinstance(content, str) else content)

    text = "".join(f"{i} {TEXT}" for i in range(600))
    write("text.txt", text)
    write("other.txt", "".join(f"{TEXT[::-1].strip()} {i}\n" for i in range(600)))
    write("empty.txt", "")
    write("short.txt", "ab")
    write("binary.txt", bytes(range(256)) * 40)
    write("latin.txt", "Größe und Maß\n".encode("latin-1") * 100)
    write("table.csv", "a,b\n1,2\n")
    write("broken.jsonl", '{"text": "fine"}\n{"text": \n')
    write("keys.jsonl", '{"body": "no text here"}\n')
    write("broken.txt.gz", gzip.compress(text.encode())[:-50])
    write("broken.parquet", b"PAR1 no parquet at all PAR1")
    write("bad.toml", "[train\nlr = 1\n")
    write("typo.toml", "[train]\nlearning_rate = 1.0\n[model]\nn_layers = 2\n")
    write("notes/readme.txt.old", "nothing")
    write("bad.model", "minbpe v9\n")

    def run(*words: str) -> None:
        with contextlib.chdir(place):
            result = vgpt(*words)
        assert result.code == 0, result.err

    run("prepare", "text.txt", "--out", "good", "--vocab-size", "300", "--workers", "1")
    run("prepare", "other.txt", "--out", "otherdata", "--vocab-size", "300", "--workers", "1")
    for name in ("manifest", "truncated", "tokenizer"):
        run("prepare", "text.txt", "--out", name, "--vocab-size", "300", "--workers", "1")
    write("manifest/manifest.json", (place / "manifest/manifest.json").read_bytes()[:-30])
    write("truncated/train.bin", (place / "truncated/train.bin").read_bytes()[:-2])
    for path in (place / "otherdata").glob("tokenizer*"):
        write(f"tokenizer/{path.name}", path.read_bytes())
    run("train", "--data", "good", "--run-name", "fine", *TINY)
    run("train", "--data", "good", "--run-name", "flipped", *TINY)
    weights = place / "runs/flipped/ckpt/step-00000002/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return place


CASES = {
    "unknown_command": "trian",
    "unknown_flag": "train --atn mha",
    "flag_without_value": "train --lr",
    "unknown_variant": "train --attn gpa",
    "flag_of_another_variant": "train --attn mqa --n-kv-head 2",
    "negative_heads": "train --attn gqa --n-kv-head -2",
    "heads_do_not_divide": "train --attn gqa --n-head 6 --n-kv-head 4",
    "width_not_divisible": "train --n-embd 100 --n-head 6",
    "many_faults": "train --preset typo.toml --lr 70 --batch-size many --dtype bf16 --run-name ../up",
    "unknown_preset": "train --preset dmeo",
    "preset_is_no_toml": "train --preset bad.toml",
    "run_name_leaves_the_directory": "train --run-name ../../etc",
    "min_lr_above_lr": "train --lr 0.001 --min-lr 0.01",
    "no_such_device": "train --data good --device cuda:7",
    "float16_on_a_cpu": "train --data good --device cpu --dtype float16",
    "data_is_missing": "train --data nowhere",
    "data_is_no_data": "train --data notes",
    "manifest_is_damaged": "train --data manifest",
    "bin_is_truncated": "train --data truncated",
    "tokenizer_is_another": "train --data tokenizer",
    "block_longer_than_data": "train --data good --block-size 100000",
    "name_with_other_settings": "train --data good --run-name fine --lr 0.5",
    "file_is_missing": "prepare nothing.txt --out out",
    "file_is_empty": "prepare empty.txt --out out",
    "file_is_too_short": "prepare short.txt --out out",
    "file_is_binary": "prepare binary.txt --out out",
    "file_is_not_utf8": "prepare latin.txt --out out",
    "format_is_unknown": "prepare table.csv --out out",
    "folder_has_no_text": "prepare notes --out out",
    "jsonl_is_broken": "prepare broken.jsonl --out out",
    "jsonl_has_no_text": "prepare keys.jsonl --out out",
    "gzip_is_broken": "prepare broken.txt.gz --out out",
    "parquet_is_broken": "prepare broken.parquet --out out",
    "vocabulary_larger_than_the_text_allows": "prepare text.txt --out out --vocab-size 5000",
    "vocabulary_too_small": "prepare text.txt --out out --vocab-size 100",
    "pattern_is_no_pattern": "prepare text.txt --out out --pattern ((",
    "pattern_loses_text": "prepare text.txt --out out --pattern [a-z]+",
    "cleaning_step_is_unknown": "prepare text.txt --out out --clean nfd",
    "gpt2_without_its_files": "prepare text.txt --out out --tokenizer gpt2 --vocab-dir notes",
    "target_holds_something_else": "prepare text.txt --out notes",
    "run_is_missing": "sample nothing",
    "folder_is_no_run": "sample notes",
    "checkpoint_is_damaged": "sample flipped",
    "evaluated_on_another_tokenizer": "eval fine --data otherdata",
    "sampling_settings": "sample fine --temperature -1 --top-p 2 --max-tokens -5",
    "tokenizer_is_missing": "tokenize encode hello --tokenizer nowhere",
    "tokenizer_is_damaged": "tokenize encode hello --tokenizer bad.model",
    "id_is_out_of_range": "tokenize decode 5 301 --tokenizer good",
    "id_is_no_number": "tokenize decode five --tokenizer good",
    "compare_with_nothing_there": "compare mha gqa --runs-dir nowhere --tracker journal",
    "compare_an_unknown_variant": "compare mha gpa",
    "compare_with_a_flag_nobody_owns": "compare mha mqa --n-kv-head 2",
    "mlflow_is_dead": "compare mha --tracking-uri http://127.0.0.1:9",
    "mlflow_store_of_no_known_kind": "train --data good --tracker mlflow --tracking-uri gopher://x",
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_input_gets_a_clear_message_and_no_traceback(place, case, vgpt, check_golden, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(place / "notes"))
    result = vgpt(*CASES[case].split())
    assert result.code in (1, 2), result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert "Error" in result.err
    said = re.sub(r"done in \d+\.\d s", "done in ... s", result.err)  # a busy machine is no fault
    check_golden(f"wrong_inputs/{case}.txt", f"$ vgpt {CASES[case]}\n{said}exit {result.code}\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--data truncated", 4),
        ("--data manifest", 4),
        ("--data good --init-from flipped", 5),
        ("--data good --attn gpa", 2),
    ],
)
def test_a_launcher_can_tell_data_and_checkpoints_that_no_retry_would_mend(place, words, code, vgpt, monkeypatch):
    monkeypatch.chdir(place)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert vgpt("train", *TINY, *words.split(), "--run-name", "launched").code == code


def test_nothing_is_left_behind_by_what_was_refused(place):
    assert not (place / "out").exists()
    assert json.loads((place / "runs/fine/settings.json").read_text())["train"]["lr"] == 1e-3
    assert not [path for path in place.iterdir() if path.name.startswith(".") and path.name != ".vgpt-data"]
