import os
from pathlib import Path

import pytest

from vgpt.errors import SettingsError
from vgpt.settings.commands import unknown_variables
from vgpt.settings.dotenv import permission_note, read_dotenv
from vgpt.settings.loader import Sources


def write(tmp_path, text):
    path = tmp_path / ".env"
    path.write_bytes(text.encode())
    return path


def test_an_absent_file_has_no_assignments(tmp_path):
    assert read_dotenv(tmp_path / ".env") == {}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=plain", "plain"),
        ("export A=plain", "plain"),
        ("  A = spaced  ", "spaced"),
        ("A=", ""),
        ("A= # only a comment", ""),
        ("A=value # comment", "value"),
        ("A=has#hash", "has#hash"),
        ('A="two words # kept" # comment', "two words # kept"),
        (r'A="line\nbreak \"quoted\" back\\slash"', 'line\nbreak "quoted" back\\slash'),
        (r"A='raw \n $HOME'", r"raw \n $HOME"),
        ("A=b=c", "b=c"),
        ("A=http://user:pw@host/?q=1#frag", "http://user:pw@host/?q=1#frag"),
        ("A=first\r\nA=last\r\n", "last"),
        ("\ufeffA=after a byte order mark", "after a byte order mark"),
    ],
)
def test_an_assignment_means_what_a_shell_would_take_it_for(tmp_path, line, value):
    assert read_dotenv(write(tmp_path, line)) == {"A": value}


def test_comments_and_blank_lines_are_passed_over(tmp_path):
    assert read_dotenv(write(tmp_path, "# note\n\nA=1\n  # B=2\nC=3\n")) == {"A": "1", "C": "3"}


@pytest.mark.parametrize("line", ["no assignment hunter2", "1A=hunter2", 'A="hunter2', "A='hunter2", "=hunter2"])
def test_a_malformed_line_is_named_by_number_and_never_shown(tmp_path, line):
    with pytest.raises(SettingsError) as caught:
        read_dotenv(write(tmp_path, f"OK=1\n{line}\n"))
    assert "line 2" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_all_malformed_lines_are_reported_together(tmp_path):
    with pytest.raises(SettingsError) as caught:
        read_dotenv(write(tmp_path, "x\nA=1\ny\n"))
    assert len(caught.value.faults) == 2


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / ".env"
    path.write_bytes(b"A=\xff\xfe\x00")
    with pytest.raises(SettingsError, match="UTF-8"):
        read_dotenv(path)


def test_a_file_that_others_can_read_is_remarked_on(tmp_path):
    path = write(tmp_path, "A=1")
    path.chmod(0o600)
    assert permission_note(path) is None
    path.chmod(0o644)
    assert "chmod 600" in (permission_note(path) or "")
    assert permission_note(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (
            'KEY="-----BEGIN\nline # two\n\n-----END" # note\nB=1\n',
            {"KEY": "-----BEGIN\nline # two\n\n-----END", "B": "1"},
        ),
        ("KEY='a\n$b\\n'\nB=1", {"KEY": "a\n$b\\n", "B": "1"}),
        ('KEY="a\r\nb"\r\nB=1\r\n', {"KEY": "a\nb", "B": "1"}),
        ('A=one\u2028still one\nB="\u0085"', {"A": "one\u2028still one", "B": "\u0085"}),
    ],
)
def test_a_quoted_value_may_hold_line_ends(tmp_path, text, values):
    assert read_dotenv(write(tmp_path, text)) == values


def test_a_value_whose_quotes_stay_open_is_named_by_the_line_it_begins_on(tmp_path):
    with pytest.raises(SettingsError) as caught:
        read_dotenv(write(tmp_path, 'A="one\ntwo"\nB="hunter2\nC=3\n'))
    assert "line 3" in caught.value.faults[0]
    assert len(caught.value.faults) == 1
    assert "hunter2" not in str(caught.value)


def test_a_folder_of_that_name_is_passed_over(tmp_path):
    (tmp_path / ".env").mkdir()
    assert read_dotenv(tmp_path / ".env") == {}
    assert read_dotenv(Path("/dev/null")) == {}


def test_what_would_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / ".env")
    with pytest.raises(SettingsError, match="no plain file"):
        read_dotenv(tmp_path / ".env")


def test_the_utf_16_that_windows_writes_is_understood(tmp_path):
    (tmp_path / ".env").write_bytes("A=caf\u00e9\r\nB=2\r\n".encode("utf-16"))
    assert read_dotenv(tmp_path / ".env") == {"A": "caf\u00e9", "B": "2"}


def test_a_value_that_no_environment_can_hold_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="line 1"):
        read_dotenv(write(tmp_path, "MLFLOW_TRACKING_TOKEN=a\0b"))


def test_variables_that_no_command_reads_are_named_with_the_nearest_that_one_does():
    dotenv = {"VGPT_N_LAYERS": "hunter2", "VGPT_DEVICE": "cpu", "OTHER": "x"}
    environment = {"VGPT_LEARNINGRATE": "1", "VGPT_LR": "1", "VGPT_DEBUG": "1", "VGPT_PLUGINS": "", "VGPT_WINDOWS": "3"}
    notes = unknown_variables(Sources(dotenv=dotenv, environment=environment))
    assert [note.split()[0] for note in notes] == ["VGPT_LEARNINGRATE", "VGPT_N_LAYERS"]
    assert "did you mean 'VGPT_N_LAYER'" in notes[1]
    assert "hunter2" not in " ".join(notes)


def test_a_misspelled_variable_is_said_by_the_command(vgpt, monkeypatch):
    monkeypatch.setenv("VGPT_N_LAYERS", "2")
    assert "did you mean 'VGPT_N_LAYER'" in vgpt("train", "--show-settings").err
    monkeypatch.setenv("VGPT_N_LAYER", "2")
    monkeypatch.delenv("VGPT_N_LAYERS")
    assert vgpt("train", "--show-settings").err == ""
