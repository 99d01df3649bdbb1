"""Whether two settings are of one run: by what they mean and by the data's digest, not by how they are spelled."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vgpt.data.manifest import Manifest
from vgpt.errors import DataError, UsageError
from vgpt.files.paths import DEMO
from vgpt.settings.train import SystemSettings, TrainConfig
from vgpt.tracking.record import RECORD_FILE, SETTINGS_FILE, read_record
from vgpt.training.checkpoints.checkpoint import step_of, steps
from vgpt.training.checkpoints.files import write_json

DEMO_DIRECTORY = Path("data/demo")
# What may be there before a run's settings are: its lock, its checkpoints, what a launcher leaves for its processes.
_BEFORE_SETTINGS = re.compile(r"run\.lock|ckpt|launch.*\.json|logs|\..*\.tmp")


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


def refuse_foreign(directory: Path) -> None:
    """Refuse a directory with files of somebody else's: a run writes into its own alone.

    Raises:
        UsageError: there are files, and nothing that a run leaves behind.
    """
    try:
        names = {path.name for path in directory.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return  # making it says what is wrong
    begun = RECORD_FILE in names or bool(steps(directory / "ckpt"))
    settings = _table(directory / SETTINGS_FILE)
    if SETTINGS_FILE in names and not begun and not settings.keys() >= {"model", "train", "run"}:
        raise _foreign(directory, [SETTINGS_FILE])
    rest = {name for name in names if not _BEFORE_SETTINGS.fullmatch(name)}
    if rest and not begun and SETTINGS_FILE not in names:
        raise _foreign(directory, sorted(rest))


def _foreign(directory: Path, names: list[str]) -> UsageError:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return UsageError(
        f"{directory} holds files that are no part of a run: {shown}",
        "They are not touched. Choose another --run-name or --runs-dir.",
    )


def refuse_other_settings(config: TrainConfig) -> None:
    """Hold a run's name to its settings.

    Raises:
        UsageError: the run exists with other settings; the message shows each that differs.
    """
    path = config.directory / SETTINGS_FILE
    # A run that never came to train, because its data or its source was refused, holds no name.
    if not path.exists() or not (steps(config.directory / "ckpt") or (config.directory / RECORD_FILE).exists()):
        write_json(path, config.model_dump(mode="json"))
        return
    try:
        before = TrainConfig.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}", "Choose another --run-name.") from error
    digest = recorded_digest(config.directory)
    if _only_converted(config.directory):
        # It was made with settings for the training to come, which nothing has begun: others are as good.
        train = config.train.model_copy(update={"init_from": before.train.init_from})
        before = before.model_copy(update={"train": train, "system": config.system, "workers": config.workers})
        if same_settings(before, config, digest=digest):
            write_json(path, config.model_dump(mode="json"))
            return
    if same_settings(before, config, digest=digest):
        return
    old, new = before.flat(), config.flat()
    run_section = set(type(config.run).model_fields)
    same = {name for name in ("data",) if digest and digest == data_digest(config.train.data)}
    differing = [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} asked"
        for name in dict.fromkeys([*old, *new])
        if name not in run_section | same | {"attention_backend"} and old.get(name) != new.get(name)
    ]
    raise UsageError(
        f"the run {config.name} exists with other settings:\n" + "\n".join(differing),
        "Choose another --run-name, or repeat its settings to continue it.",
    )


def _only_converted(directory: Path) -> bool:
    """Tell whether a run has converted weights at step 0 and nothing else."""
    return not (directory / RECORD_FILE).exists() and [step_of(path) for path in steps(directory / "ckpt")] == [0]


def under_its_name(config: TrainConfig) -> tuple[TrainConfig, str]:
    """Give a run that nobody named the name it goes by, where that is not the hash of its settings.

    One that was begun with the same settings, spelled in another way, keeps its name; one on data that was prepared
    anew in the place of other data gets a name of its own.

    Returns:
        The settings, and what is to be said of the name; empty for nothing.
    """
    if config.run.run_name is not None:
        return config, ""
    if config.directory.exists():
        before, now = recorded_digest(config.directory), data_digest(config.train.data)
        if not before or not now or before == now or config.train.data == DEMO:
            return config, ""
        other = f"{config.name}-{now[:8]}"
        return _named(config, other), f"{config.name} was trained on other data of the same name: this is {other}"
    for directory, before in _begun(config):
        if same_settings(before, config, digest=recorded_digest(directory)):
            name = directory.name
            return _named(
                config, name
            ), f"{name} was begun with these settings, spelled in another way: this is that run"
    return config, ""


def _named(config: TrainConfig, name: str) -> TrainConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"run_name": name})})


def _begun(config: TrainConfig) -> Iterator[tuple[Path, TrainConfig]]:
    """Yield the runs with the variant and the seed asked for that nobody named."""
    prefix = f"{config.model.attn.kind}-s{config.train.seed}-"
    for path in sorted(config.run.runs_dir.glob(f"{prefix}*/{SETTINGS_FILE}")):
        try:
            yield path.parent, TrainConfig.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            continue  # damaged, or of another version: no run to go on from


def _table(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing where it is no table."""
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def _resolved(system: SystemSettings) -> dict[str, Any]:
    """Return device and precision as `auto` comes to them here; as they stand where they are not to be had."""
    from vgpt.training.hardware.devices import chosen

    try:
        device, dtype = chosen(system)
    except UsageError:
        return {"device": system.device, "dtype": system.dtype}
    return {"device": device, "dtype": dtype}
