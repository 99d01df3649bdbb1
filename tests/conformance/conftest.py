"""What the tests of the kit share."""

import pytest

from vgpt.conformance import failures


@pytest.fixture
def caught():
    """A function that asserts that one check fails, and says why."""

    def caught(config, check, phrase):
        found = failures(config, only=[check])
        assert len(found) == 1, "not caught"
        assert f": {check}: " in found[0]
        assert phrase in found[0]

    return caught
