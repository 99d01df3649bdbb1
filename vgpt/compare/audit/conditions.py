"""The fairness audit: what differs between the runs of a comparison besides the attention and the seed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vgpt.attention.options import SWITCHES
from vgpt.compare.architecture import effective_positions
from vgpt.compare.audit.budgets import matching_condition, width_rule
from vgpt.compare.audit.draws import copied_runs, trained_again
from vgpt.compare.audit.runs import (
    NOT_RECORDED,
    UnequalCondition,
    as_recorded,
    notes_on,
    plugin_conditions,
    record_conditions,
    seed_conditions,
)
from vgpt.compare.audit.unshown import unshown_notes, unshown_runs
from vgpt.compare.rows import Row
from vgpt.settings.fields import leaves
from vgpt.settings.matching import UNMATCHED
from vgpt.settings.train import TrainConfig, spells_default
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import THEN, Metric, Tag

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
        *SWITCHES,
        "attn_last",
    ),
    "positions": ("pos",),
    "precision": ("dtype", "tf32"),
    "device": ("device", "compile", "recompute", "threads"),
    "evaluation": ("eval_windows", "eval_interval", "patience"),
}
"""What the settings of a run are about; settings not listed here are audited as `other`."""

TAGGED = {
    "data_digest": ("data", Tag.DATA_DIGEST),
    "tokenizer": ("data", Tag.TOKENIZER),
    "init_digest": ("start", Tag.INIT_DIGEST),
    "dtype": ("precision", Tag.DTYPE),
    "device": ("device", Tag.DEVICE),
    "eval_windows": ("evaluation", Tag.EVAL_WINDOWS),
    "vgpt": ("software", Tag.VERSION),
    "source": ("software", Tag.SOURCE),
    "replaced_functions": ("software", Tag.REPLACED),
    "torch": ("software", Tag.TORCH),
    "numpy": ("software", Tag.NUMPY),
    "cpu_capability": ("device", Tag.CPU_CAPABILITY),
    "threads": ("device", Tag.THREADS),
    "allocator": ("device", Tag.ALLOCATOR),
    "kernels": ("device", Tag.KERNELS),
}
"""Conditions recorded as tags: name -> (aspect, tag). A tag says what was computed, where a setting may say `auto`."""

SINCE_SEALS = ("source", "replaced_functions", "numpy", "cpu_capability", "threads", "allocator", "kernels")
"""Conditions of `TAGGED` that older runs lack: where no run has them, they are named, and block nothing."""
_DIGESTS = {"data": "data_digest", "init_from": "init_digest"}
THREADS, BACKEND = "threads", "attention_backend"
"""Settings whose outcome is recorded beside them: no conditions by themselves, yet of a run's commands."""


@dataclass(frozen=True)
class Audit:
    """What was compared and what differs.

    Attributes:
        checked: aspects on which at least one run has something recorded, in the order of reports.
        shared: value by name of every condition that is equal.
        differences: every condition that is not equal.
        tuned: settings that were tuned for each row by the same rule, and may differ.
        flagged: label of each row whose conditions are not those of the first row -> names of what differs there.
        unrecorded: conditions of which no run says anything: they are neither equal nor unequal.
        notes: sentences about what makes no row unequal and yet belongs beside any verdict.
        unshown: runs on record of the same variants and conditions that stand in no row, whatever became of them.
    """

    checked: tuple[str, ...]
    shared: dict[str, str]
    differences: tuple[UnequalCondition, ...]
    flagged: dict[str, tuple[str, ...]]
    tuned: tuple[str, ...] = ()
    unrecorded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unshown: tuple[RunInfo, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether the comparison is fair as far as the records tell."""
        return not self.differences


@dataclass(frozen=True)
class _Condition:
    aspect: str
    name: str
    read: Callable[[RunInfo], str]


def audit(rows: Sequence[Row], *, tuned: Sequence[str] = (), recorded: Sequence[RunInfo] = ()) -> Audit:
    """Compare the conditions of all rows with those of the first.

    The variant, its own settings and the seed may differ; everything else that bears on loss, cost or speed is
    looked at: data, tokenizer, tokens trained on, batches, first weights, schedule, optimizer, backbone, effective
    positions, precision, device, evaluation, and the code and software that computed them. What only some runs recorded
    counts as a difference; what none did is named. Where the widths of MLPs were matched, the rule and the width of its
    reference must be equal, not the widths. What is `tuned` for each row with equal effort may differ between rows, as
    the audit then says.

    Args:
        rows: the baseline first.
        tuned: settings that may differ.
        recorded: all runs on record, among which those of the same settings that are not shown are looked for. A run
            of a row that is among them, which may show its losses at another point, is audited as it was recorded.
    """
    rows = as_recorded(rows, recorded)
    runs = [run for row in rows for run in row.runs]
    checked: dict[str, None] = {}
    shared: dict[str, str] = {}
    differences: list[UnequalCondition] = []
    unrecorded: list[str] = []
    for condition in _conditions(runs):
        if condition.name in tuned:
            continue
        if not any(condition.read(run) for run in runs):
            if runs and condition.name in SINCE_SEALS:
                unrecorded.append(condition.name)
            continue
        checked.setdefault(condition.aspect)
        values = _values(condition, rows)
        if (one := _difference(condition, values)) is None:
            shared[condition.name] = set[str]().union(*values.values()).pop()
        else:
            differences.append(one)
    for found, missing in (seed_conditions(rows), plugin_conditions(rows), record_conditions(rows)):
        differences += found
        unrecorded += missing
    unshown = unshown_runs(rows, recorded)
    again, notes = trained_again(rows, recorded)
    differences += [*again, *copied_runs(rows)]
    notes += [*notes_on(rows), *unshown_notes(rows, unshown)]
    order = _order()
    differences.sort(key=lambda one: order.index(one.aspect))
    for one in differences:
        checked.setdefault(one.aspect)
    return Audit(
        tuple(sorted(checked, key=order.index)),
        shared,
        tuple(differences),
        _flagged(differences),
        tuple(tuned),
        tuple(unrecorded),
        tuple(notes),
        unshown,
    )


def _values(condition: _Condition, rows: Sequence[Row]) -> dict[str, set[str]]:
    """Return the values of a condition by label of the row.

    That nothing of its training is on record sets an imported run apart once, not once for every condition.
    """
    found = {
        row.label: {value or NOT_RECORDED for run in row.runs if (value := condition.read(run)) or not run.imported}
        for row in rows
    }
    return {label: values for label, values in found.items() if values}


def _difference(condition: _Condition, values: Mapping[str, set[str]]) -> UnequalCondition | None:
    """Return how a condition differs between rows, by label; None where all runs have one value that never changed."""
    distinct = set[str]().union(*values.values())
    if len(distinct) == 1 and not any(THEN in value for value in distinct):
        return None
    first = next(iter(values.values()))
    flagged = tuple(
        label
        for label, found in values.items()
        if len(found) > 1 or found != first or any(THEN in value for value in found)
    )
    shown = {label: ", ".join(sorted(found)) for label, found in values.items()}
    return UnequalCondition(condition.aspect, condition.name, shown, flagged)


def _flagged(differences: Sequence[UnequalCondition]) -> dict[str, tuple[str, ...]]:
    """Return the names of what differs, each once, by label of the row."""
    names: dict[str, dict[str, None]] = {}
    for one in differences:
        for label in one.flagged:
            names.setdefault(label, {})[one.name] = None
    return {label: tuple(found) for label, found in names.items()}


def condition_settings() -> list[str]:
    """Return the flat names of the settings that a fair comparison holds equal."""
    return [
        leaf.name
        for leaf in leaves(TrainConfig).values()
        if leaf.path[0] in ("model", "train", "system") and not leaf.is_attention and not leaf.variants
        # Seeds may differ; how many threads computed a run is told by the name of its device, and what tokens per step
        # came to by the micro-steps.
        if leaf.name not in ("seed", THREADS, BACKEND, "tokens_per_step")
    ]


def _conditions(runs: Sequence[RunInfo]) -> list[_Condition]:
    """Return what to look at: tags, tokens, then settings, leaving out a setting whose outcome a tag already tells."""
    tags = {name: tag for name, (_, tag) in TAGGED.items() if any(run.tags.get(tag) for run in runs)}
    names = dict.fromkeys([*tags, *SINCE_SEALS])
    imported = _Condition("start", "imported", lambda run: run.imported or "trained by vgpt")
    found = [imported] if any(run.imported for run in runs) else []
    found += [_Condition(TAGGED[name][0], name, _tag(TAGGED[name][1])) for name in names]
    if any(run.tags.get(Tag.ATTENTION_BACKEND) for run in runs):
        found.append(_Condition("device", BACKEND, lambda run: run.attention_backend))
    found.append(_Condition("budget", "tokens", _tokens))
    found.append(_Condition("batch", "sequences_per_step", _sequences))
    found.append(_Condition("positions", "effective_positions", effective_positions))
    rule = width_rule(runs)
    found.append(_Condition("trunk", "match", lambda run: matching_condition(run, rule)))
    aspects = {name: aspect for aspect, names in ASPECTS.items() for name in names}
    for name in condition_settings():
        # The path of the data, or of first weights, may differ where its digest does not.
        if name in names or name in UNMATCHED or _DIGESTS.get(name) in tags:
            continue
        found.append(_Condition(aspects.get(name, "other"), name, _param(name)))
    order = _order()
    return sorted(found, key=lambda condition: order.index(condition.aspect))


def _order() -> list[str]:
    """Return the aspects in the order of reports."""
    return [
        "data",
        "budget",
        *(aspect for aspect in ASPECTS if aspect != "data"),
        "other",
        "software",
        "seeds",
        "record",
    ]


def _tag(tag: str) -> Callable[[RunInfo], str]:
    return lambda run: run.tags.get(tag, "")


def _param(name: str) -> Callable[[RunInfo], str]:
    def read(run: RunInfo) -> str:
        # Spelled out or left out, a default is the same condition.
        return "none" if spells_default(name, run.params) else run.params.get(name, "")

    return read


def _sequences(run: RunInfo) -> str:
    """Sequences of one step: how processes and micro-steps divide them changes nothing that is learned."""
    parts = [run.params.get(name, "") for name in ASPECTS["batch"]]
    parts += [run.params.get(name, "1") for name in ("nproc", "nnodes")]
    return str(math.prod(map(int, parts))) if all(part.isdecimal() for part in parts) else ""


def _tokens(run: RunInfo) -> str:
    tokens = run.metrics.get(Metric.TRAIN_TOKENS, math.nan)
    return f"{tokens:.0f}" if math.isfinite(tokens) else ""
