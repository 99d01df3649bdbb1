"""Whether two settings are of one run: by what they mean and by the data's digest, not by how they are spelled."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vgpt.data.manifest import Manifest
from vgpt.errors import DataError, UsageError
from vgpt.files import DEMO
from vgpt.settings.train import SystemSettings, TrainConfig
from vgpt.tracking.record import read_record

DEMO_DIRECTORY = Path("data/demo")
SETTINGS_FILE = "settings.json"


def same_settings(before: TrainConfig, config: TrainConfig, *, digest: str = "") -> bool:
    """Tell whether two settings would learn the same on this machine.

    Args:
        before: settings of a run that was begun.
        config: those asked for.
        digest: of the data that the run was begun with, where it is known.
    """
    old, new = before.identity(), config.identity()
    if old["system"] != new["system"]:
        old["system"] |= _resolved(before.system)
        new["system"] |= _resolved(config.system)
    if old["train"]["data"] != new["train"]["data"] and digest and digest == data_digest(config.train.data):
        old["train"]["data"] = new["train"]["data"]
    return old == new


def data_digest(place: str) -> str:
    """Return the digest of a data set, as its manifest tells it; empty where there is none."""
    try:
        return Manifest.load(DEMO_DIRECTORY if place == DEMO else Path(place)).digest
    except (DataError, OSError):
        return ""


def recorded_digest(directory: Path) -> str:
    """Return the digest of the data that the run in a directory was begun with; empty where it is not recorded."""
    record = read_record(directory)
    if record is not None and (digest := record.tags.get("vgpt.data_digest")):
        return digest
    for path in (directory / "conditions.json", *sorted(directory.glob("ckpt/step-*/state.json"), reverse=True)):
        try:
            table = json.loads(path.read_bytes())
            digest = table.get("data", table.get("data_digest", ""))
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if isinstance(digest, str) and digest:
            return digest
    return ""


def under_its_name(config: TrainConfig) -> TrainConfig:
    """Return the settings with the name of a run that was begun with the same ones, spelt in another way.

    A run that nobody named is called by a hash of its settings as they were spelled when it was begun.
    """
    if config.run.run_name is not None or config.directory.exists():
        return config
    for directory, before in _begun(config):
        if same_settings(before, config, digest=recorded_digest(directory)):
            return config.model_copy(update={"run": config.run.model_copy(update={"run_name": directory.name})})
    return config


def _begun(config: TrainConfig) -> Iterator[tuple[Path, TrainConfig]]:
    """Yield the runs with the variant and the seed asked for that nobody named."""
    prefix = f"{config.model.attn.kind}-s{config.train.seed}-"
    for path in sorted(config.run.runs_dir.glob(f"{prefix}*/{SETTINGS_FILE}")):
        try:
            yield path.parent, TrainConfig.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            continue  # damaged, or of another version: no run to go on from


def _resolved(system: SystemSettings) -> dict[str, Any]:
    """Return device and precision as `auto` comes to them here; as they stand where they are not to be had."""
    from vgpt.training.devices import chosen

    try:
        device, dtype = chosen(system)
    except UsageError:
        return {"device": system.device, "dtype": system.dtype}
    return {"device": device, "dtype": dtype}
