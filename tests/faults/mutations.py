"""Mutated files for every reader: whatever they hold, a person gets an error of vgpt's."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

from vgpt.errors import VgptError

DIGITS = [b"0", b"-1", b"9" * 30, b"9" * 5000, b"1e999", b"NaN", b"null", b"true", b'""', b"[]", b"{}", b'"\\ud800"']
SIGNS = [b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\xff", b"\r\n", b"\n", b'"', b"'", b"[" * 3000, b"{", b"}", b"=", b"~/"]
ADDRESSES = [*SIGNS, b"#", b"../", b"://", b"@", b"%2F", b"%", b"?", b":", b"\\", b"\xed\xa0\x80"]


def mutated(whole: bytes, chance: random.Random, signs: list[bytes] = SIGNS) -> bytes:
    """Return some content after one to five changes: cut, flipped, doubled, swapped, or with what trips readers."""
    content = bytearray(whole)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(content) + 1)
        kind = chance.randrange(8)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            del content[at : at + chance.randrange(1, 40)]
        elif kind == 2 and content:
            content[at % len(content)] ^= 1 << chance.randrange(8)
        elif kind == 3:
            content[at:at] = content[at : at + chance.randrange(1, 60)]
        elif kind == 4:
            content[at : at + chance.randrange(12)] = chance.choice(DIGITS)
        elif kind == 5:
            content[at:at] = chance.choice(signs)
        elif kind == 6:
            content[at:at] = bytes(chance.choices(range(256), k=chance.randrange(1, 30)))
        else:
            other = chance.randrange(len(content) + 1)
            content[at:at], content[other:other] = content[other : other + 9], content[at : at + 9]
    return bytes(content)


def fuzz(read: Callable[[Path], object], path: Path, whole: bytes, cases: int, seed: int = 1) -> tuple[int, int]:
    """Write `cases` mutations of `whole` to `path` one by one and read each.

    A witness beside the file, and every other file of its folder, must be as it was in the end.

    Returns:
        How many were read, and how many refused by an error with a message.

    Raises:
        AssertionError: another exception, with the content that brought it; or a file beside it was touched.
    """
    chance = random.Random(seed)
    (path.parent / "witness").write_bytes(b"not yours")
    path.touch()
    before = fingerprint(path.parent)
    taken = refused = 0
    for _ in range(cases):
        content = mutated(whole, chance)
        path.write_bytes(content)
        try:
            read(path)
            taken += 1
        except VgptError as error:
            assert error.message.strip()  # noqa: PT017 - either way out is fine
            refused += 1
        except Exception as error:
            raise AssertionError(f"{path.name} of {content[:3000]!r}: {type(error).__name__}: {error}") from error
    assert fingerprint(path.parent) | {path.name: before[path.name]} == before
    return taken, refused


def fingerprint(place: Path) -> dict[str, str]:
    """Return what every file below a folder holds; of links, where they lead."""
    return {str(path.relative_to(place)): _content(path) for path in sorted(place.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
