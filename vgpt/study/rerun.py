"""Training a row of a report again, from its recorded settings, and holding the result against what was reported."""

# pyright: reportMissingTypeStubs=false

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from vgpt.attention.grammar import attention_label, full_label
from vgpt.attention.plugin_record import plugin_flags, plugin_record
from vgpt.attention.registry import variants
from vgpt.compare.request import PlannedRun
from vgpt.errors import UsageError, VgptError
from vgpt.files.text import parse_json, table_of
from vgpt.formatting import printable
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import command_words, leaves
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.train import PLACES, TrainConfig
from vgpt.study.report_data import ReportedRow, ReportedRun
from vgpt.study.reproduce import matters
from vgpt.tracking.schema import Metric, Tag
from vgpt.tracking.store import read_local_run
from vgpt.training.records.source_code import source_digest

EXPERIMENT = "reproduced"
REPRODUCED, REFUTED, UNDECIDED = "reproduced", "not reproduced", "undecided"
EXIT_CODES = {REPRODUCED: 0, REFUTED: 10, UNDECIDED: 11}
Verdict = Literal["reproduced", "not reproduced", "undecided"]
_ALPHA = 0.05
_MACHINE = (Tag.TORCH, Tag.NUMPY, Tag.DEVICE, Tag.CPU_CAPABILITY, Tag.KERNELS)


@dataclass(frozen=True)
class Rerun:
    """What is trained again.

    Attributes:
        row: of the report.
        runs: what to train, by seed.
        new_seeds: whether their seeds are others than the reported ones.
        differs: how data, source, plug-ins or settings are not those of the report, in sentences.
        seconds: how long the reported runs took in training; None where they do not tell.
    """

    row: ReportedRow
    runs: tuple[PlannedRun, ...]
    new_seeds: bool
    differs: tuple[str, ...]
    seconds: float | None

    @property
    def title(self) -> str:
        """The variant as readers know it."""
        return self.runs[0].title if self.runs else self.row.label


@dataclass(frozen=True)
class SeedResult:
    """One seed: the loss that was reported, None for a new seed, and the one that came out now."""

    seed: int
    reported: float | None
    found: float

    @property
    def same(self) -> bool:
        """Whether both are the same to the last bit."""
        return self.reported is not None and self.reported == self.found


@dataclass(frozen=True)
class Outcome:
    """What the reported result is worth.

    Attributes:
        seeds: the result of each.
        mean: of the new losses.
        interval: what the mean is held against: the reported 95% interval, or for new seeds the 95% interval that the
            mean of so many further seeds lies in; None where one seed was reported.
        verdict: what follows.
    """

    seeds: tuple[SeedResult, ...]
    mean: float
    interval: tuple[float, float] | None
    verdict: Verdict

    @property
    def inside(self) -> bool | None:
        """Whether the mean lies inside the interval; None without one."""
        return None if self.interval is None else self.interval[0] <= self.mean <= self.interval[1]


def plan_rerun(row: ReportedRow, *, out: Path, seeds: int | None, threads: int | None) -> Rerun:
    """Return what trains a row again.

    Args:
        row: of a report.
        out: directory of the new runs.
        seeds: how many new seeds; None for those of the report.
        threads: CPU threads; None for as many as each run recorded.

    Raises:
        UsageError: the recorded settings cannot be read here.
    """
    found: list[PlannedRun] = []
    differs: dict[str, None] = {}
    for run in row.runs:
        planned = _planned(run, out, threads, run.seed)
        found.append(planned)
        differs |= dict.fromkeys(_differences(run, planned))
    if seeds is not None:
        first = 1 + max(run.seed for run in row.runs)
        found = [_planned(row.runs[0], out, threads, first + number) for number in range(seeds)]
    times = [run.metrics.get(Metric.TRAIN_SECONDS, math.nan) for run in row.runs]
    seconds = fmean(times) * len(found)
    return Rerun(row, tuple(found), seeds is not None, tuple(differs), seconds if math.isfinite(seconds) else None)


def machine_notes(row: ReportedRow, out: Path) -> list[str]:
    """Say how this machine is another than the report's, once something was trained: the bits may differ then."""
    said: dict[str, None] = {}
    for run in row.runs:
        for directory in out.glob("*/"):
            now = read_local_run(directory)
            for tag in _MACHINE if now is not None else ():
                old, new = run.tags.get(tag, ""), now.tags.get(tag, "") if now else ""
                if old != new:
                    said[f"{tag.removeprefix('vgpt.')}: {printable(old)[:80] or 'not recorded'} there, {new} here"] = (
                        None
                    )
    return list(said)


def judge_rerun(rerun: Rerun) -> Outcome:
    """Hold the losses of a rerun that was trained against the report.

    New seeds are other draws: where their mean may lie, the spread of the reported ones tells, by the interval for the
    mean of m further values from n of a normal distribution, mean ± t(n - 1) sd sqrt(1/n + 1/m).

    Source: Hahn and Meeker 1991, "Statistical Intervals", section 4.7.

    Raises:
        VgptError: a run has no loss.
    """
    reported = {run.seed: run.metrics.get(Metric.VAL_LOSS, math.nan) for run in rerun.row.runs}
    results: list[SeedResult] = []
    for planned in rerun.runs:
        run = read_local_run(planned.config.directory)
        loss = run.metrics.get(Metric.VAL_LOSS, math.nan) if run is not None else math.nan
        if run is None or run.status != "finished" or not math.isfinite(loss):
            raise VgptError(f"seed {planned.seed} was trained and has no loss", f"See {planned.config.directory}.")
        results.append(SeedResult(planned.seed, None if rerun.new_seeds else reported[planned.seed], loss))
    mean = fmean(one.found for one in results)
    interval = rerun.row.interval
    if rerun.new_seeds:
        interval = further_mean([loss for loss in reported.values() if math.isfinite(loss)], len(results))
    same = all(one.same for one in results)
    if interval is None:
        return Outcome(tuple(results), mean, None, REPRODUCED if same else UNDECIDED)
    return Outcome(
        tuple(results), mean, interval, REPRODUCED if same or interval[0] <= mean <= interval[1] else REFUTED
    )


def further_mean(values: Sequence[float], further: int) -> tuple[float, float] | None:
    """Return the 95% prediction interval for the mean of `further` more values; None from fewer than two."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # a quarter of a second to import

    n, mean = len(values), fmean(values)
    half = float(stdtrit(n - 1, 1 - _ALPHA / 2)) * stdev(values) * math.sqrt(1 / n + 1 / further)
    return mean - half, mean + half


def fresh_directory(row: ReportedRow, out: Path | None) -> Path:
    """Return a directory for the new runs that is not there yet.

    Raises:
        UsageError: the one asked for is.
    """
    if out is not None:
        if out.exists():
            raise UsageError(f"--out {out} is there already, and nothing is overwritten", "Name another directory.")
        return out
    kept = "".join(letter if letter.isalnum() else "-" for letter in row.label)[:40].strip("-")
    place = Path("reproduced") / f"{kept or 'row'}-{time.strftime('%Y%m%d-%H%M%S')}"
    if place.exists():
        raise UsageError(f"{place} is there already, and nothing is overwritten", "Name a directory: --out DIR.")
    return place


def _planned(run: ReportedRun, out: Path, threads: int | None, seed: int) -> PlannedRun:
    """Return the training of a reported run, under a seed, in a directory of its own."""
    known = {name: leaf for name, leaf in leaves(TrainConfig).items() if matters(leaf)}
    given = {name: run.params[name] for name in known if name in run.params}
    _check_places(given)
    recorded = run.tags.get(Tag.THREADS, "")
    given["threads"] = str(threads) if threads else recorded if recorded.isdecimal() else given.get("threads", "none")
    given |= {"seed": str(seed), "run_name": f"s{seed}", "runs_dir": str(out), "experiment": EXPERIMENT}
    given |= {"tracker": "journal"}
    kind, attn = _attention(run)
    try:
        config = load_settings(CompareConfig, Sources(command_line={**given, "attn": attn})).settings
    except VgptError as error:
        if kind not in variants():  # a report says where a plug-in lay; that is not loaded for it
            raise _unknown(kind) from error
        raise UsageError(
            f"the recorded settings of {printable(run.name)[:80]} cannot be used: {error.message[:400]}",
            "A report of another version of vgpt is reproduced by that version.",
        ) from error
    words = ("train", "--attn", attn, *command_words(leaves(TrainConfig), given))
    words += plugin_flags(config.model.attn, config.model.n_layer)
    return PlannedRun(full_label(config.model.attn), seed, config, words)


def _attention(run: ReportedRun) -> tuple[str, str]:
    """Return a run's variant, and the same with its settings as --attn takes it.

    Raises:
        UsageError: they cannot be read.
    """
    kind = run.tags.get(Tag.ATTN) or run.params.get("attn", "")
    try:
        settings = table_of(parse_json(run.tags.get(Tag.ATTN_SETTINGS, "{}")))
        return kind, attention_label(kind, {name: value for name, value in settings.items() if name != "kind"})
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError("the recorded settings of the variant cannot be read", "Name another report.") from error


def _unknown(kind: str) -> UsageError:
    return UsageError(
        f"the variant {printable(kind)[:80]!r} of the report is not known here",
        "If it is a plug-in's, name the file that you trust: vgpt reproduce ... --plugin FILE.",
    )


def _check_places(given: dict[str, str]) -> None:
    """Refuse places that no run of this machine can have been trained from."""
    for name in PLACES:
        place = given.get(name, "none")
        if "://" in place or place.startswith("-") or not place.isprintable():
            raise UsageError(
                f"the report's {name} is no path of a data set", "Reports name folders that were prepared."
            )


def _differences(run: ReportedRun, planned: PlannedRun) -> Iterable[str]:
    """Yield how what would be trained here is not what was reported."""
    from vgpt.training.records.same_run import data_digest  # imports torch

    config = planned.config
    hashes = (config.settings_hash, config.spelled_hash)
    if run.tags.get(Tag.SETTINGS_HASH, "") not in hashes:
        yield f"seed {run.seed}: this version reads the recorded settings otherwise"
    plugins = {one["kind"]: one["sha256"] for one in plugin_record(config.model.attn, config.model.n_layer)}
    pairs: list[tuple[str, str, str]] = [
        ("data", run.tags.get(Tag.DATA_DIGEST, ""), data_digest(config.train.data) or "not there"),
        ("source", run.tags.get(Tag.SOURCE, ""), source_digest()),
        ("plug-ins", _canonical(run.tags.get(Tag.PLUGINS, "{}")), _canonical(plugins)),
    ]
    for name, there, here in pairs:
        if there != here:
            yield f"{name}: {printable(there)[:80] or 'not recorded'} in the report, {here} here"


def _canonical(value: str | dict[str, str]) -> str:
    try:
        table = table_of(parse_json(value)) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return "damaged"
    return ", ".join(f"{name} {str(digest)[:12]}" for name, digest in sorted(table.items())) or "none"
