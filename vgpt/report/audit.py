"""The fairness audit: what differs between the runs of a comparison besides the attention and the seed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vgpt.report.grouping import Row
from vgpt.report.matched import matching_condition, width_rule
from vgpt.settings.fields import leaves
from vgpt.settings.matching import UNMATCHED
from vgpt.settings.train import TrainConfig
from vgpt.tracking.store import RunInfo

ASPECTS: dict[str, tuple[str, ...]] = {
    "data": ("data",),
    "start": ("init_from", "fork"),
    "batch": ("batch_size", "grad_accum"),
    "schedule": ("max_steps", "max_tokens", "lr", "min_lr", "warmup_steps"),
    "optimizer": ("weight_decay", "beta1", "beta2", "grad_clip", "max_bad_steps"),
    "trunk": (
        "n_layer",
        "n_head",
        "n_embd",
        "block_size",
        "mlp_hidden",
        "activation",
        "bias",
        "tie_weights",
        "dropout",
        "flash",
        "qk_norm",
        "out_gate",
        "sinks",
        "attn_last",
    ),
    "positions": ("pos",),
    "precision": ("dtype", "tf32"),
    "device": ("device", "compile", "recompute", "threads"),
    "evaluation": ("eval_windows", "eval_interval", "patience"),
}
"""What the settings of a run are about; settings not listed here are audited as `other`."""

TAGGED = {
    "data_digest": ("data", "vgpt.data_digest"),
    "tokenizer": ("data", "vgpt.tokenizer"),
    "init_digest": ("start", "vgpt.init_digest"),
    "dtype": ("precision", "vgpt.dtype"),
    "device": ("device", "vgpt.device"),
    "eval_windows": ("evaluation", "vgpt.eval_windows"),
    "vgpt": ("software", "vgpt.version"),
    "torch": ("software", "vgpt.torch"),
}
"""Conditions recorded as tags: name -> (aspect, tag). A tag says what was computed, where a setting may say `auto`."""

NOT_RECORDED = "not recorded"
THREADS = "threads"
"""The setting whose outcome the name of the device tells: no condition by itself, yet one of a run's commands."""


@dataclass(frozen=True)
class Difference:
    """One condition that is not equal.

    Attributes:
        aspect: what it is about: data, schedule, trunk, ...
        name: the setting, or the name of the recorded fact.
        values: value by label of the row; rows whose own runs disagree show all their values.
    """

    aspect: str
    name: str
    values: dict[str, str]


@dataclass(frozen=True)
class Audit:
    """What was compared and what differs.

    Attributes:
        checked: aspects on which at least one run has something recorded, in the order of reports.
        shared: value by name of every condition that is equal.
        differences: every condition that is not equal.
        tuned: settings that were tuned for each row by the same rule, and may differ.
        flagged: label of each row whose conditions are not those of the first row -> names of what differs there.
    """

    checked: tuple[str, ...]
    shared: dict[str, str]
    differences: tuple[Difference, ...]
    flagged: dict[str, tuple[str, ...]]
    tuned: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether the comparison is fair as far as the records tell."""
        return not self.differences


@dataclass(frozen=True)
class _Condition:
    aspect: str
    name: str
    read: Callable[[RunInfo], str]


def audit(rows: Sequence[Row], *, tuned: Sequence[str] = ()) -> Audit:
    """Compare the conditions of all rows with those of the first.

    The variant, its own settings and the seed may differ; everything else that bears on loss, cost or speed is
    looked at: data, tokenizer, tokens trained on, batch, schedule, optimizer, trunk, positions, precision, device,
    evaluation and the versions of the software. What only some runs recorded counts as a difference. Where the widths
    of MLPs were matched, the rule and the width of its reference must be equal, not the widths.
    What is `tuned` for each row with equal effort may differ between rows, as the audit then says.
    """
    runs = [run for row in rows for run in row.runs]
    checked: dict[str, None] = {}
    shared: dict[str, str] = {}
    differences: list[Difference] = []
    flagged: dict[str, list[str]] = {}
    for condition in _conditions(runs):
        if not any(condition.read(run) for run in runs) or condition.name in tuned:
            continue
        checked.setdefault(condition.aspect)
        values = {row.label: {condition.read(run) or NOT_RECORDED for run in row.runs} for row in rows}
        distinct = set[str]().union(*values.values())
        if len(distinct) == 1:
            shared[condition.name] = distinct.pop()
            continue
        shown = {label: ", ".join(sorted(found)) for label, found in values.items()}
        differences.append(Difference(condition.aspect, condition.name, shown))
        for row in rows:
            if len(values[row.label]) > 1 or values[row.label] != values[rows[0].label]:
                flagged.setdefault(row.label, []).append(condition.name)
    by_label = {label: tuple(names) for label, names in flagged.items()}
    return Audit(tuple(checked), shared, tuple(differences), by_label, tuple(tuned))


def condition_settings() -> list[str]:
    """Return the flat names of the settings that a fair comparison holds equal."""
    return [
        leaf.name
        for leaf in leaves(TrainConfig).values()
        if leaf.path[0] in ("model", "train", "system") and not leaf.is_attention and not leaf.variants
        # Seeds may differ, and how many threads computed a run is told by the name of its device.
        if leaf.name not in ("seed", THREADS)
    ]


def _conditions(runs: Sequence[RunInfo]) -> list[_Condition]:
    """Return what to look at: tags, tokens, then settings, leaving out a setting whose outcome a tag already tells."""
    tags = {name: tag for name, (_, tag) in TAGGED.items() if any(run.tags.get(tag) for run in runs)}
    found = [_Condition(TAGGED[name][0], name, _tag(tag)) for name, tag in tags.items()]
    found.append(_Condition("budget", "tokens", _tokens))
    found.append(_Condition("batch", "sequences_per_step", _sequences))
    rule = width_rule(runs)
    found.append(_Condition("trunk", "match", lambda run: matching_condition(run, rule)))
    aspects = {name: aspect for aspect, names in ASPECTS.items() for name in names}
    for name in condition_settings():
        # The path of the data may differ where its digest does not.
        if name in tags or name in UNMATCHED or (name == "data" and "data_digest" in tags):
            continue
        found.append(_Condition(aspects.get(name, "other"), name, _param(name)))
    order = ["data", "budget", *(aspect for aspect in ASPECTS if aspect != "data"), "other", "software"]
    return sorted(found, key=lambda condition: order.index(condition.aspect))


def _tag(tag: str) -> Callable[[RunInfo], str]:
    return lambda run: run.tags.get(tag, "")


def _param(name: str) -> Callable[[RunInfo], str]:
    return lambda run: run.params.get(name, "")


def _sequences(run: RunInfo) -> str:
    """Sequences of one step: how processes and micro-steps divide them changes nothing that is learnt."""
    parts = [run.params.get(name, "") for name in ASPECTS["batch"]]
    parts += [run.params.get(name, "1") for name in ("nproc", "nnodes")]
    return str(math.prod(map(int, parts))) if all(part.isdecimal() for part in parts) else ""


def _tokens(run: RunInfo) -> str:
    tokens = run.metrics.get("train/tokens", math.nan)
    return f"{tokens:.0f}" if math.isfinite(tokens) else ""
