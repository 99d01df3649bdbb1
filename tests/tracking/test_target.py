from pathlib import Path

import pytest

from vgpt.errors import TrackingError
from vgpt.tracking.mlflow_store.target import resolve_target
from vgpt.tracking.tracker import RunStart, open_tracker


def test_without_any_word_the_store_is_a_file_in_the_working_directory(tmp_path):
    target = resolve_target()
    assert target.database == tmp_path / "mlflow.db"
    assert target.uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_caller_wins_over_the_environment_and_the_environment_over_dotenv(monkeypatch):
    Path(".env").write_text("MLFLOW_TRACKING_URI=http://from-dotenv\n")
    assert resolve_target(recorded="http://recorded").uri == "http://from-dotenv"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment")
    assert resolve_target().uri == "http://from-environment"
    assert resolve_target("http://asked").uri == "http://asked"


def test_a_recorded_store_is_used_in_place_of_the_default():
    assert resolve_target(recorded="http://recorded").uri == "http://recorded"


def test_dotenv_gives_mlflow_its_own_variables_and_those_of_its_artifact_store_alone(monkeypatch):
    Path(".env").write_text("MLFLOW_TRACKING_TOKEN=t0ken\nAWS_SECRET_ACCESS_KEY=s3cret\nHF_TOKEN=other\nVGPT_LR=1\n")
    environment = resolve_target().environment
    assert environment["MLFLOW_TRACKING_TOKEN"] == "t0ken"
    assert environment["AWS_SECRET_ACCESS_KEY"] == "s3cret"
    assert not {"HF_TOKEN", "VGPT_LR"} & set(environment)


def test_dotenv_of_a_parent_folder_is_not_read(tmp_path, monkeypatch):
    Path(".env").write_text("MLFLOW_TRACKING_URI=http://parent\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert resolve_target().database == tmp_path / "below" / "mlflow.db"


def test_credentials_leave_an_http_uri_for_the_variables_that_mlflow_reads():
    target = resolve_target("https://alice:s3%40cret@host:5000/path")
    assert target.uri == "https://host:5000/path"
    assert target.environment["MLFLOW_TRACKING_USERNAME"] == "alice"
    assert target.environment["MLFLOW_TRACKING_PASSWORD"] == "s3@cret"


def test_credentials_of_a_database_stay_in_its_uri_and_out_of_what_is_shown():
    target = resolve_target("postgresql+psycopg2://alice:s3cret@host/db?sslpassword=hidden")
    assert "s3cret" in target.uri
    assert target.shown == "postgresql+psycopg2://***@host/db"


@pytest.mark.parametrize("uri", ["http://alice:hunter2@host", "postgresql://alice:hunter2@host/db"])
def test_a_target_never_shows_its_secrets(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-value")
    target = resolve_target(uri)
    for text in (repr(target), target.shown, target.redact(f"failed at {uri} with hunter2 and t0ken-value")):
        assert "hunter2" not in text
        assert "t0ken-value" not in text


def test_what_the_user_has_set_for_mlflow_stays(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    environment = resolve_target().environment
    assert environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
    assert environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize(
    "uri", ["htp://host", "./mlruns", "mlruns", "http://", "file:///tmp/mlruns", "sqlite://", "://", " "]
)
def test_a_uri_that_mlflow_cannot_keep_runs_in_is_refused_before_training(uri):
    with pytest.raises(TrackingError) as caught:
        resolve_target(uri)
    assert repr(uri) in caught.value.message
    assert "sqlite:///mlflow.db" in caught.value.hint


def test_a_wrong_uri_in_the_environment_does_not_keep_a_run_from_journaling(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://alice:hunter2@host")
    (tmp_path / "run").mkdir()
    start = RunStart("run", tmp_path / "run", "vgpt", {}, {"note": "at gopher://alice:hunter2@host"})
    tracker = open_tracker(start, kind="journal", resume_step=None, notify=pytest.fail)
    tracker.finish("finished", {})
    assert "hunter2" not in "".join(path.read_text() for path in (tmp_path / "run").glob("*.json*"))


def test_a_dotenv_with_credentials_that_others_can_read_is_remarked_on():
    Path(".env").write_text("MLFLOW_TRACKING_PASSWORD=abcdef\n")
    Path(".env").chmod(0o644)
    assert any("chmod 600" in note for note in resolve_target().notes)
    Path(".env").chmod(0o600)
    assert resolve_target().notes == ()
