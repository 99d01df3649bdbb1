"""A small corpus and data sets made from it."""

import json
from pathlib import Path

import pytest

from vgpt.data.manifest import Manifest
from vgpt.data.prepare import prepare
from vgpt.settings.commands import PrepareConfig

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "ran",
    "after",
    "it",
    "until",
    "night",
    "fell",
    "old",
    "town",
]


def story(number: int, sentences: int = 6) -> str:
    """Text that differs by number and repeats enough for merges."""
    lines = [
        " ".join(WORDS[(number * 7 + line * 3 + word * (number % 5 + 1)) % len(WORDS)] for word in range(9))
        for line in range(sentences)
    ]
    return f"Story {number}.\n" + "\n".join(lines) + "\n"


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    """A .jsonl file of 200 short documents."""
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": story(i)}) + "\n" for i in range(200)), encoding="utf-8")
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A .txt file: one document of about 50 kB."""
    path = tmp_path / "book.txt"
    path.write_text("".join(story(i) for i in range(150)), encoding="utf-8")
    return path


@pytest.fixture
def prepared(stories: Path, tmp_path: Path) -> tuple[Path, Manifest]:
    """A data set made from the stories, and its manifest."""
    out = tmp_path / "set"
    return out, prepare([str(stories)], PrepareConfig(out=out, vocab_size=300))
