"""Which code was measured: free of torch, so that records are found without it."""

import hashlib
from pathlib import Path

import vgpt

_MEASURED_ROOMS = ("attention", "model", "training", "bench")


def source_digest() -> str:
    """Return a hash of the code whose speed is measured: that of attention, model, training and bench."""
    root, digest = Path(vgpt.__file__).parent, hashlib.sha256()
    for room in _MEASURED_ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
