"""Finding the recorded run of some settings: by their hash, otherwise by what they mean and by the data's digest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vgpt.data.manifest import Manifest
from vgpt.errors import DataError, VgptError
from vgpt.files.paths import DEMO
from vgpt.settings.fields import leaves
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.train import SystemSettings, TrainConfig
from vgpt.tracking.run_info import RunInfo, newest_first
from vgpt.tracking.schema import Tag

_SECTIONS = ("model", "train", "system", "workers")


class KnownRuns:
    """Recorded runs, by the settings that made them.

    Runs are told by the hash that they recorded, and by the digest of their data where that is at hand. Where no run
    has the hash, those of the same variant and seed are read again: one is the same where its settings mean the same
    and its data has the same digest, however both are spelled.

    Args:
        runs: to look in; of several that are the same the newest counts.
    """

    def __init__(self, runs: Iterable[RunInfo]) -> None:
        self._runs: Sequence[RunInfo] = newest_first(runs)
        self._hashes = {run.settings_hash for run in self._runs}
        self._read: dict[int, TrainConfig | None] = {}

    def find(self, config: TrainConfig) -> RunInfo | None:
        """Return the run of these settings; None where none is on record."""
        return next(iter(self.find_all(config)), None)

    def find_all(self, config: TrainConfig) -> list[RunInfo]:
        """Return every run of these settings, the newest first."""
        wanted = _Target(config)
        for name in (config.settings_hash, config.spelled_hash):
            if name in self._hashes:
                named = [run for run in self._runs if run.settings_hash == name]
                return [run for run in named if not wanted.has_other_data(run)]
        return [run for run in self._runs if self._is_same(run, wanted)]

    def _is_same(self, run: RunInfo, wanted: "_Target") -> bool:
        config = wanted.config
        if run.attention[0] != config.model.attn.kind or run.seed != str(config.train.seed):
            return False
        if id(run) not in self._read:
            self._read[id(run)] = settings_of(run)
        before = self._read[id(run)]
        if before is None or run.settings_hash not in (before.settings_hash, before.spelled_hash):
            return False
        old, new = before.identity(), wanted.identity
        if old["train"]["data"] != new["train"]["data"]:
            if not wanted.digest or run.tags.get(Tag.DATA_DIGEST) != wanted.digest:
                return False
            old["train"]["data"] = new["train"]["data"]
        system = old.pop("system")
        if old != {name: table for name, table in new.items() if name != "system"}:
            return False
        return system == new["system"] or wanted.computed_as(run, before.system)


@dataclass(frozen=True)
class _Target:
    config: TrainConfig

    @cached_property
    def identity(self) -> dict[str, Any]:
        return self.config.identity()

    @cached_property
    def digest(self) -> str:
        place = self.config.train.data
        try:
            return "" if place == DEMO else Manifest.load(Path(place)).digest
        except (DataError, OSError):
            return ""

    @cached_property
    def _hardware(self) -> tuple[str, str]:
        from vgpt.training.hardware.devices import hardware  # imports torch, which few comparisons need

        return hardware(self.config.system)

    def has_other_data(self, run: RunInfo) -> bool:
        """Tell whether the data of this name is not what the run was trained on: it was prepared anew."""
        return bool(self.digest) and run.tags.get(Tag.DATA_DIGEST, self.digest) != self.digest

    def computed_as(self, run: RunInfo, before: SystemSettings) -> bool:
        """Tell whether a run was computed on the device and in the precision that these settings come to here."""
        if _otherwise(before) != _otherwise(self.config.system):
            return False
        return (_model_of(run.tags.get(Tag.DEVICE, "")), run.tags.get(Tag.DTYPE, "")) == self._hardware


def settings_of(run: RunInfo) -> TrainConfig | None:
    """Return the settings that a run records; None where this version cannot read them."""
    known = leaves(TrainConfig)
    names = [name for name, leaf in known.items() if leaf.path[0] in _SECTIONS and not leaf.variants]
    recorded = {name: run.params[name] for name in names if name in run.params}
    try:
        attn = run.attention_label
        return load_settings(TrainConfig, Sources(command_line={**recorded, "attn": attn})).settings
    except (VgptError, KeyError, TypeError, ValueError):
        return None


def _otherwise(system: SystemSettings) -> dict[str, Any]:
    """Return what settings say besides device and precision."""
    return {**system.model_dump(exclude={"device", "dtype", "attention_backend"}), "compile": bool(system.compile)}


def _model_of(device: str) -> str:
    """Return a device's name without the threads that it was used with."""
    return device.partition(" (")[0]
