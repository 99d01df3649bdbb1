"""The plan that a study was sealed with, and what a report says of it: sealed, changed afterwards, or exploratory."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vgpt.formatting import counted
from vgpt.tracking.run_info import RunInfo

SHOWN_DIGITS = 12
"""Digits of a plan's hash that people are shown."""


@dataclass(frozen=True)
class SealedPlan:
    """What was fixed before looking.

    Attributes:
        hash: digest over all the rest; whoever publishes it can be held to the plan.
        study: name of the study.
        made: when it was sealed, milliseconds since 1970.
        fixed: what must stay as it is, flat: `seeds`, `compare.margin`, `data`, `mha / train.lr`, ... -> value as text.
        seeds: the seeds that may be shown; with a stopping rule, all up to its limit.
        rule: the stopping rule; empty where the number of seeds is fixed.
        runs: hash of its settings -> (variant, seed), of every run that the plan has.
        existed: ids of its runs that had finished or diverged when it was sealed.
        begun: ids of its runs that had begun by then, without a result.
        looked: how often the metric had been looked at by then.
        windows: number, length and hash of the evaluation windows, as runs record them.
    """

    hash: str
    study: str
    made: int
    fixed: Mapping[str, str]
    seeds: tuple[int, ...]
    rule: str
    runs: Mapping[str, tuple[str, int]]
    existed: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    looked: int = 0
    windows: tuple[str, ...] = ()

    @property
    def margin(self) -> str:
        """The margin that it names, as typed; empty for none."""
        text = self.fixed.get("compare.margin", "none")
        return "" if text == "none" else text

    @property
    def when(self) -> str:
        """When it was sealed, for people."""
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.made / 1000))

    def allows(self, seeds: Iterable[int | str]) -> bool:
        """Tell whether the plan has all of these seeds."""
        return {str(seed) for seed in seeds} <= set(map(str, self.seeds))

    def has(self, run: RunInfo) -> bool:
        """Tell whether a run is one of the plan's, by the hash of its settings."""
        return run.settings_hash in self.runs


@dataclass(frozen=True)
class Sealing:
    """How a comparison stands to the plan of its study.

    Attributes:
        plan: the sealed plan; None where none was: the comparison is exploratory.
        changes: what is not as it was sealed, one sentence each; given only where the user asked to go on.
        remarks: what a reader should know besides: runs older than the plan, runs that came and went.
        looks: how often the study's metric was looked at so far, this time included; None where nothing counts it.
    """

    plan: SealedPlan | None = None
    changes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    looks: int | None = None

    @property
    def kept(self) -> bool:
        """Whether a plan was sealed and the study is still the one that it seals."""
        return self.plan is not None and not self.changes

    @property
    def sentence(self) -> str:
        """The one line that stands in every report."""
        if self.plan is None:
            return "exploratory: no plan was sealed"
        name = f"sealed plan {self.plan.hash[:SHOWN_DIGITS]} of {self.plan.when}"
        existed = len(self.plan.existed)
        late = f", sealed after {counted(existed, 'run')} existed" if existed else ""
        changed = "; CHANGED AFTER SEALING, which makes it exploratory" if self.changes else ""
        return f"{name}{late}{changed}"

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        plan = self.plan
        return {
            "status": "exploratory" if plan is None else "changed after sealing" if self.changes else "sealed",
            "hash": plan.hash if plan else None,
            "time": plan.made if plan else None,
            "seeds": list(plan.seeds) if plan else None,
            "stopping_rule": (plan.rule or None) if plan else None,
            "margin": (plan.margin or None) if plan else None,
            "sealed_after_runs": len(plan.existed) if plan else None,
            "changes": list(self.changes),
            "remarks": list(self.remarks),
            "looks": self.looks,
        }
