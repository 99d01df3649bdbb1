"""Twenty planted secrets: none of them is in anything that vgpt prints, writes or sends to be kept."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = "It is a truth universally acknowledged, that a keeper of secrets must be in want of none that leak.\n"
TINY = (
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--batch-size", "2"),
    *("--max-steps", "4", "--eval-windows", "2", "--eval-interval", "2", "--save-interval", "2"),
    *("--device", "cpu", "--dtype", "float32"),
)
ENVIRONMENT = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "WANDB_API_KEY",
    "GITHUB_TOKEN",
    "DATABASE_URL",
    "SSH_PASSPHRASE",
    "UNRELATED",
)
DOTENV = (
    "MLFLOW_TRACKING_CLIENT_CERT_PASSWORD",
    "AWS_ACCESS_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "GOOGLE_CREDENTIALS",
    "OPENAI_API_KEY",
    "VGPT_COMMENT",
    "SECRET",
)


def canary(number: int) -> str:
    return f"canary{number:02d}birdseed"


def places(uri: str) -> tuple[dict[str, str], str, str]:
    """Return the environment, the text of `.env` and a tracking URI, with twenty canaries in them."""
    names = iter(range(1, 21))
    environment = {name: canary(next(names)) for name in ENVIRONMENT}
    dotenv = "".join(f'{name}="{canary(next(names))}"\n' for name in DOTENV) + f"# {canary(next(names))}\n"
    user, password = canary(next(names)), canary(next(names))
    return environment, dotenv, uri.replace("://", f"://{user}:{password}@")


def found(place: Path, texts: list[str]) -> list[str]:
    """Return where a canary sings: files by name, texts by their line."""
    pattern = re.compile(rb"canary\d\dbirdseed")
    own = {place / ".env"}
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink() and path not in own]
    hits = [f"{path}: {pattern.findall(path.read_bytes())[:3]}" for path in files if pattern.search(path.read_bytes())]
    named = [str(path) for path in place.rglob("*") if pattern.search(os.fsencode(path))]
    return hits + named + [line for text in texts for line in text.splitlines() if pattern.search(line.encode())]


def started(place: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    base = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vgpt", *words]
    return subprocess.run(command, cwd=place, env=base | environment, capture_output=True, text=True, check=False)


def session(place: Path, uri: str, *, workers: tuple[str, ...] = ()) -> list[str]:
    """Prepare, train (once by flag, once by environment), show, fail, and compare; return all that was printed."""
    environment, dotenv, secret_uri = places(uri)
    (place / "text.txt").write_text("".join(f"{i} {TEXT}" for i in range(400)))
    (place / ".env").write_text(dotenv)
    by_flag = ("--tracking-uri", secret_uri)
    through = environment | {"MLFLOW_TRACKING_URI": secret_uri}
    prepare = ("prepare", "text.txt", "--out", "data", "--vocab-size", "300", "--workers", "1")
    train = ("train", "--data", "data", *TINY, *workers)
    done = {
        "prepare": started(place, environment, *prepare),
        "by flag": started(place, environment, *train, "--run-name", "flag", *by_flag),
        "by environment": started(place, through, *train, "--run-name", "environment"),
        "shown": started(place, through, "train", "--show-settings", *by_flag),
        "shown as json": started(place, through, "train", "--show-settings", "--json", *by_flag),
        "refused": started(place, environment, *train, "--run-name", "flag", "--lr", "0.5", *by_flag),
        "faulty": started(place, environment, "train", "--lr", "70", *by_flag),
        "compared": started(place, environment, "compare", "mha", *by_flag),
    }
    for name in ("prepare", "by flag", "by environment", "shown", "shown as json"):
        assert done[name].returncode == 0, done[name].stderr
    assert [done[name].returncode for name in ("refused", "faulty")] == [2, 2]
    return [text for result in done.values() for text in (result.stdout, result.stderr)]


def test_of_the_secrets_none_is_in_the_output_log_or_checkpoints_of_a_quick_run(tmp_path, vgpt, monkeypatch):
    environment, dotenv, secret_uri = places("http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "text.txt").write_text("".join(f"{i} {TEXT}" for i in range(400)))
    (tmp_path / ".env").write_text(dotenv)
    where = ("--tracking-uri", secret_uri, "--tracker", "journal")
    done = [
        vgpt("prepare", "text.txt", "--out", "data", "--vocab-size", "300", "--workers", "1"),
        vgpt("train", "--data", "data", *TINY, "--run-name", "one", *where),
        vgpt("train", "--show-settings", *where),
        vgpt("train", "--show-settings", "--json", *where),
        vgpt("compare", "mha", "mqa", "--data", "data", "--dry-run", *TINY, *where),
    ]
    assert [result.code for result in done[:4]] == [0, 0, 0, 0]
    assert "127.0.0.1:9" in done[2].out
    assert found(tmp_path, [text for result in done for text in (result.out, result.err)]) == []


@pytest.mark.slow
def test_of_twenty_secrets_none_is_in_any_output_log_or_checkpoint(tmp_path):
    """The server is not there: what would be sent stays in the journal, and errors speak of the address."""
    texts = session(tmp_path, "http://127.0.0.1:9")
    assert list(tmp_path.glob("runs/*/ckpt/step-*/settings.json"))
    assert found(tmp_path, texts) == []
    # The address itself is what `vgpt sync` needs, and is no secret.
    assert "127.0.0.1:9" in (tmp_path / "runs/flag/tracking.json").read_text()


@pytest.mark.slow
def test_of_twenty_secrets_none_is_in_a_store_or_in_what_workers_read(tmp_path):
    environment, dotenv, _ = places("http://x")
    (tmp_path / "text.txt").write_text("".join(f"{i} {TEXT}" for i in range(400)))
    (tmp_path / ".env").write_text(dotenv)
    prepare = ("prepare", "text.txt", "--out", "data", "--vocab-size", "300", "--workers", "1")
    train = ("train", "--data", "data", *TINY, "--run-name", "two", "--nproc", "2")
    done = [started(tmp_path, environment, *words) for words in (prepare, train, ("compare", "mha"))]
    assert [result.returncode for result in done] == [0, 0, 0], [result.stderr for result in done]
    assert (tmp_path / "mlflow.db").exists()
    assert found(tmp_path, [text for result in done for text in (result.stdout, result.stderr)]) == []
    texts = session(tmp_path, "http://127.0.0.1:9", workers=("--nproc", "2"))
    assert found(tmp_path, texts) == []


def test_settings_are_written_without_credentials_and_used_with_them(settings):
    config = settings(run__tracking_uri="https://alice:canary01birdseed@host:5000/path?key=canary02birdseed")
    assert "canary" not in config.model_dump_json()
    assert "canary" not in json.dumps(config.model_dump(mode="json"))
    assert "canary" not in json.dumps(config.flat())
    assert "canary" not in repr(config)
    assert json.loads(config.model_dump_json())["run"]["tracking_uri"] == "https://host:5000/path"
    assert config.run.tracking_uri is not None
    assert "canary01birdseed" in config.run.tracking_uri
