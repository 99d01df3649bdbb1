"""The form of `vgpt compare --json`, version by version: what a program may rely on.

A new key keeps the version, and readers pass over keys that they do not know. What is renamed, removed or means
something else makes another version. The models describe what `vgpt.report.as_json` writes; a test holds the two
together, and `docs/compare.schema.json` is made of them.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

SCHEMA = "vgpt.compare/1"
"""Name and version of the form."""


class _Table(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, populate_by_name=True)


class MarginTable(_Table):
    """The margin that was asked for."""

    text: str
    """as given: `0.01`, or `0.5%` of the baseline's mean loss"""
    nats: float | None
    """in nats per token; null where the baseline has no loss on record"""


class Shows(_Table):
    """What the bounds of a difference show; the last three are null without a margin."""

    better: bool
    """the difference is below zero: `ci95` lies below it"""
    worse: bool
    """it is above zero: `ci95` lies above it"""
    no_worse: bool | None
    """it is below the margin: `loses_at_most` does"""
    equal_within: bool | None
    """it is within the margin, both ways"""
    worse_by_more: bool | None
    """it is above the margin: `ci95` lies above it"""


class Difference(_Table):
    """The validation loss of a row minus that of the baseline, nats per token; lower is better."""

    delta: float
    """mean over the pairs of runs with the same seed; unpaired, the difference of means"""
    ci95: tuple[float, float] | None
    """two-sided 95% interval: joint over the family where `ci95_is_joint`, of this row alone where not"""
    ci95_is_joint: bool
    """whether the row is in the family of rows that get a verdict"""
    loses_at_most: float | None
    """upper one-sided 95% bound, joint over the same family"""
    loses_at_least: float | None
    """lower one-sided 95% bound, likewise"""
    method: Literal["paired", "unpaired", "single"]
    """paired by seed, unpaired where seeds are not shared, single where one run stands alone"""
    n: int
    """pairs of runs; unpaired, runs of the side that has fewer"""
    df: float | None
    """degrees of freedom of the noise of seeds"""
    p_t: float | None
    """p of the t-test of this row's seeds alone"""
    p_permutation: float | None
    """p of sign flips of this row alone"""
    p_adjusted: float | None
    """p adjusted for the family"""
    family_rows: int | None
    """rows of the family"""
    seed_se: float | None
    """standard error by the noise of seeds"""
    detectable: float | None
    """minimum detectable effect with 80% power"""
    margin: MarginTable | None
    """the margin that the verdict is against"""
    verdict: str
    """`better`, `worse`, `no difference shown`; with a margin `better`, `equal within M`, `no worse than M`, `worse`,
    `not decided`; or why there is none, ending in `no verdict`"""
    shows: Shows | None
    """all that is shown; null where there is no verdict"""
    decided: bool | None
    """whether it is shown on which side of the margin the difference is; without one, whether it has a sign"""
    evaluation_noise: dict[str, Any] | None
    """noise of the difference over the evaluation windows, where losses per window are on record"""


class Statistics(_Table):
    """Statistics of the validation loss of a row."""

    ci95: tuple[float, float] | None
    """interval of the mean over seeds"""
    loss_se: float | None
    """standard error of one run's loss over text"""
    loss_se_clusters: str | None
    """what it is clustered by"""
    difference: Difference | None
    """to the baseline; null for the baseline itself"""


class MetricTable(_Table):
    """A metric over the seeds of a row."""

    mean: float | None
    """mean over the runs that recorded it"""
    sd: float | None
    """standard deviation over them"""
    n: int
    """how many they are"""
    delta: float | None
    """difference to the baseline over shared seeds"""


class LostRun(_Table):
    """A run that was tried and gave no loss."""

    run_name: str
    run_id: str
    seed: str
    status: str


class Run(_Table):
    """A run as it is on record."""

    run_name: str
    run_id: str
    seed: str
    start_time: int
    """milliseconds since 1970"""
    metrics: dict[str, float | None]
    params: dict[str, str]
    tags: dict[str, str]


class RowTable(_Table):
    """A variant with its runs."""

    label: str
    """the variant with its settings"""
    attention: str
    """the variant"""
    settings: dict[str, Any]
    """its own settings"""
    n: int
    """runs that count"""
    wanted: int
    """runs that were asked for"""
    failed: list[LostRun]
    """seeds that were tried and gave no loss: with any, there is no verdict"""
    reasons: list[str]
    """why the row gets no verdict, or what its reader must know; empty where nothing stands against it"""
    unequal_conditions: list[str]
    """conditions that are not those of the baseline"""
    confounds: list[str]
    """what the variant brings along besides its way of attending"""
    kv_bytes_at_kv_at: int | None
    kv_measured_equals_analytic: bool
    metrics: dict[str, MetricTable]
    statistics: Statistics
    speed: dict[str, Any] | None
    budget: dict[str, Any] | None
    unequal_point: str | None
    take_snapshots: list[dict[str, Any]] | None
    runs: list[Run]


class UnequalTable(_Table):
    """A condition that is not equal in all rows."""

    aspect: str
    name: str
    values: dict[str, str]
    """value by row"""


class Conditions(_Table):
    """The audit: what is equal in all rows, and what is not."""

    equal: bool
    seeds_equal: bool
    checked: list[str]
    shared: dict[str, str]
    tuned: list[str]
    not_recorded: list[str]
    notes: list[str]
    differences: list[UnequalTable]


class Wanted(_Table):
    """A run that was asked for and is not on record."""

    attention: str
    seed: int
    command: str
    """what trains it"""


class RequirementTable(_Table):
    """What `--require` asked for, and what became of it in one part of the study."""

    text: str
    """as given"""
    part: str
    """the part of the study; empty for the only one"""
    row: str | None
    """label of the row; null where it has none"""
    relation: Literal["better-than", "no-worse-than", "equal-within"]
    nats: float | None
    """the margin in nats per token"""
    outcome: Literal["shown", "refuted", "undecided"]
    reason: str
    """in words"""


class PlanTable(_Table):
    """How the comparison stands to a plan that was sealed before looking."""

    status: Literal["sealed", "changed after sealing", "exploratory"]
    hash: str | None
    time: int | None
    """when it was sealed, milliseconds since 1970"""
    seeds: list[int] | None
    stopping_rule: str | None
    margin: str | None
    sealed_after_runs: int | None
    """runs of the plan that were on record when it was sealed"""
    changes: list[str]
    remarks: list[str]
    looks: int | None
    """how often the metric was looked at"""


class NotShown(_Table):
    """A run of the same conditions that stands in no row, or diverged."""

    attention: str
    seed: str
    run_name: str
    run_id: str
    status: str
    loss: float | None


class SequentialTable(_Table):
    """The plan that added seeds until all was decided: intervals, bounds and verdicts hold at all its looks."""

    look: int
    """the look at hand, the first being 1; 0 before it"""
    looks: int
    """how many there are at most"""
    seeds: int
    """pairs of the row that has the most"""
    max_seeds: int
    """seeds per row at the last look"""
    family_rows: int
    """rows that were planned; the level is shared out among no fewer"""
    margin: str | None
    """what the plan was to decide against; null for zero"""
    seeds_before: int
    """seeds of all rows that were on record when the plan was made"""


class ComparisonTable(_Table):
    """One comparison: its rows against the first of them."""

    baseline: str | None
    """label of the first row; null where there is none"""
    level: float
    """of intervals and bounds: 0.95"""
    margin: MarginTable | None
    """null where none was given"""
    kv_at: int
    conditions: Conditions
    sequential: SequentialTable | None = None
    """null where the number of seeds was fixed"""
    forced: bool
    """whether verdicts across unequal conditions were asked for"""
    match: dict[str, Any] | None
    milestone: dict[str, Any] | None
    sweep: dict[str, Any] | None
    power: dict[str, Any] | None
    speeds: dict[str, Any] | None
    equivalents: dict[str, Any] | None = None
    """training of the baseline that a loss is worth; null where nobody asked"""
    staircase: dict[str, Any] | None = None
    """steps between the variants of --from and --to; null without them"""
    breakdowns: dict[str, Any] | None = None
    """losses by kinds of tokens, as `vgpt eval` left them with the runs; null where it left none"""
    suites: dict[str, Any] | None = None
    """standard suites by task, as `vgpt eval --suite` left them with the runs; null where it left none"""
    rows: list[RowTable]
    """the baseline first"""
    missing: list[Wanted]
    remarks: list[str]
    plan: PlanTable | None
    """null where nothing was asked of a plan"""
    not_shown: list[NotShown]
    """runs of the same conditions that are on record and in no row"""


class ComparisonDocument(ComparisonTable):
    """What `vgpt compare --json` prints."""

    schema_: Literal["vgpt.compare/1"] = Field(alias="schema")
    requirements: list[RequirementTable]


class PartTable(ComparisonTable):
    """A comparison of a study, with the values that tell it from the others."""

    values: dict[str, str]


class StudyDocument(_Table):
    """What it prints for a study file, or along lists of values."""

    schema_: Literal["vgpt.compare/1"] = Field(alias="schema")
    study: str | None
    """name of the study"""
    parts: list[PartTable]
    signs: list[dict[str, Any]]
    """in how many parts each variant is better or worse"""
    ladder: dict[str, Any] | None = None
    """trend over the rungs, and predictions of the next one; where the parts are rungs of a ladder"""
    requirements: list[RequirementTable]


class Document(RootModel[ComparisonDocument | StudyDocument]):
    """Either form: a study has `parts`, a single comparison has `rows`."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of `vgpt compare --json`."""
    found = Document.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, **found, "title": SCHEMA}
