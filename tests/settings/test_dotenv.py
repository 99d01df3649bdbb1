import pytest

from vgpt.errors import SettingsError
from vgpt.settings.dotenv import permission_note, read_dotenv


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
