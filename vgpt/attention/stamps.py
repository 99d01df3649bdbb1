"""What `vgpt verify` has proved, and whether it still holds: a file beside the runs, which name it in their records.

A pass is of one variant with its settings, by the code that was there: the digest of the plug-in's file and that of
vgpt's own attention, on which a plug-in rests too. Code that has changed since has not been verified.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from vgpt.attention.config import AttentionConfig, ModelAttention
from vgpt.attention.grammar import full_label
from vgpt.attention.plugins import origin_of
from vgpt.files.text import table_of
from vgpt.files.writing import replace_json

FILE = "verified.json"
"""Name of the record in the directory of all runs."""

VERSION = 1
NEVER, CHANGED = "not verified", "changed since verified"


def stamp_for(runs_dir: Path, attn: ModelAttention, n_layer: int) -> str:
    """Return what is known of the variants of all layers: "verified 2026-11-26", or the worst that is true of one.

    Where some layers are better off, the variants that are not are named.
    """
    known = read_stamps(runs_dir)
    layers = distinct_layers(attn, n_layer)
    found = {layer.kind: _state(known.get(full_label(layer)), layer) for layer in layers}
    for state in (NEVER, CHANGED):
        if bad := [kind for kind, told in found.items() if told == state]:
            return state if len(bad) == len(found) else f"{state}: {', '.join(bad)}"
    return min(found.values())  # the earliest date


def write_stamps(
    runs_dir: Path, attn: Iterable[AttentionConfig], about: Mapping[str, Any], notify: Callable[[str], None]
) -> Path:
    """Record that these variants have passed all checks, beside what is recorded of others.

    Args:
        runs_dir: directory of all runs; made where it is not there.
        attn: settings of layers, no mixes.
        about: what else to record: versions, device, trunk, checks.
        notify: takes a remark where the present file cannot be read and is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    runs_dir.mkdir(parents=True, exist_ok=True)
    path = runs_dir / FILE
    known = read_stamps(runs_dir, notify)
    for config in attn:
        known[full_label(config)] = {
            "kind": config.kind,
            "settings": config.model_dump(mode="json"),
            "date": date.today().isoformat(),
            **digests(config),
            **about,
        }
    replace_json(path, {"version": VERSION, "variants": known}, indent=2, sort_keys=False)
    return path


def read_stamps(runs_dir: Path, notify: Callable[[str], None] | None = None) -> dict[str, dict[str, Any]]:
    """Return the records by variant with all its settings; none where there is no file, or one that cannot be read."""
    path = runs_dir / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        known: Any = document["variants"] if document["version"] == VERSION else None
        table = table_of(known)
        if not isinstance(known, dict) or not all(isinstance(entry, dict) for entry in table.values()):
            raise ValueError("no table of variants in it")
        return table
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if notify is not None:
            notify(f"{path} cannot be read ({error}); what it said of other variants is lost")
        return {}


def digests(config: AttentionConfig) -> dict[str, str]:
    """Return the SHA-256 of the code that a layer is made of: of vgpt's attention, and of the plug-in's file."""
    found = {"attention_sha256": attention_digest()}
    if (plugin := origin_of(config.kind)) is not None:
        return {**found, "plugin": plugin.source, "plugin_sha256": plugin.digest}
    if not (module := type(config).__module__).startswith("vgpt."):  # registered by a program of the user's
        file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
        content = file.read_bytes() if file.is_file() else b""
        return {**found, "plugin": module, "plugin_sha256": hashlib.sha256(content).hexdigest()}
    return found


@cache
def attention_digest() -> str:
    """Return the SHA-256 of the names and contents of vgpt's attention sources."""
    root = Path(__file__).parent
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\0".encode() + hashlib.sha256(files[name].read_bytes()).digest())
    return total.hexdigest()


def distinct_layers(attn: ModelAttention, n_layer: int) -> list[AttentionConfig]:
    """Return each distinct setting of a layer once, in their order."""
    found: list[AttentionConfig] = []
    for index in range(n_layer):
        if (layer := attn.at(index)) not in found:
            found.append(layer)
    return found


def _state(entry: dict[str, Any] | None, config: AttentionConfig) -> str:
    if entry is None:
        return NEVER
    if any(entry.get(name) != value for name, value in digests(config).items()):
        return CHANGED
    return f"verified {entry.get('date', 'at an unknown date')}"
