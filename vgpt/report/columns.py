"""The columns that a compact table can be made of: what each holds, raw for programs and shown for people."""

from collections.abc import Callable, Iterable, Sequence

from vgpt.compare.architecture import cache_bytes_at
from vgpt.compare.comparison import Comparison
from vgpt.compare.log_speeds import PALM_FLOPS, RowSpeed, SpeedChange, row_speed, speed_change, utilization
from vgpt.compare.metrics import (
    BITS,
    DECODE,
    FLOPS,
    KV_CONTEXT,
    KV_MEASURED,
    KV_TOKEN,
    LOSS,
    MEMORY,
    PARAMS,
    PERPLEXITY,
    SPEED,
    cache_disagrees,
    relative_change,
    stat,
)
from vgpt.compare.statistics.differences import LossDifference
from vgpt.compare.statistics.family import Judged
from vgpt.compare.statistics.margin import Bounds
from vgpt.compare.statistics.seeds import Interval, TTest
from vgpt.compare.steps import Step
from vgpt.compare.worth import Value as Equivalence
from vgpt.errors import UsageError, did_you_mean
from vgpt.formatting import (
    format_bytes,
    format_change,
    format_count,
    format_milliseconds,
    format_p,
    format_percent,
    format_relative,
)
from vgpt.report.breakdowns.columns import BREAKDOWN_COLUMNS, length_column
from vgpt.report.captions import flags
from vgpt.report.column import Column, RowContext, Value
from vgpt.report.equivalents import value_of
from vgpt.report.staircase import step_to
from vgpt.tracking.schema import Metric

USUAL = (
    *(
        "seeds",
        "loss",
        "loss_sd",
        "delta",
        "loses_at_most",
        "p_adjusted",
        "verdict",
        "params",
        "flops",
        "speed",
        "kv_context",
        "flags",
    ),
)
"""The columns of `--csv`, `--markdown` and `--latex` where none are chosen."""
OF_STEPS = ("step", "step_delta", "step_low", "step_high", "step_p", "step_verdict", "cumulative")
"""Those that a staircase has beside them."""


def check_columns(names: Sequence[str]) -> None:
    """Refuse names that no comparison has, before anything is trained for it; metrics are only known afterwards.

    Raises:
        UsageError: a name is unknown, or stands twice.
    """
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise UsageError(f"--columns names {twice[0]!r} twice", "Name each column once.")
    for name in names:
        if name not in COLUMNS and "/" not in name and length_column(name) is None:
            raise _unknown(name, COLUMNS)


def chosen_columns(comparison: Comparison, names: Sequence[str]) -> list[Column]:
    """Return columns by name; a name with a slash is a recorded metric, whose mean over the seeds is shown.

    Raises:
        UsageError: a name is unknown, or stands twice.
    """
    metrics = {name for row in comparison.rows for run in row.runs for name in run.metrics}
    check_columns(names)
    for name in names:
        if name not in COLUMNS and name not in metrics and length_column(name) is None:
            raise _unknown(name, metrics)
    return [COLUMNS.get(name) or length_column(name) or Column(name, name, _mean(name)) for name in names]


def usual_columns(comparison: Comparison) -> tuple[str, ...]:
    """Return the names of the columns that are shown where none are chosen."""
    return USUAL if comparison.climb is None else (*USUAL, *OF_STEPS)


def row_contexts(comparison: Comparison) -> list[RowContext]:
    """Return the rows, the baseline first."""
    return [
        RowContext(comparison, row, found) for row, found in zip(comparison.rows, comparison.statistics, strict=True)
    ]


def _unknown(name: str, known: Iterable[str]) -> UsageError:
    return UsageError(
        f"--columns: there is no column {name!r}{did_you_mean(name, known)}",
        f"Columns: {', '.join(COLUMNS)}; loss@512 or delta@512 for windows of 512 tokens; or a metric of the "
        "runs, such as train/tokens.",
    )


def _mean(metric: str) -> Callable[[RowContext], Value]:
    return lambda at: found.mean if (found := stat(at.row, metric)) else None


def _measured_or(from_logs: Callable[[RowContext], Value], name: str) -> Callable[[RowContext], Value]:
    """Return what was measured side by side where that was done, otherwise what training logs tell."""

    def read(at: RowContext) -> Value:
        speeds = at.comparison.speeds
        return from_logs(at) if speeds is None else speeds.column(name, at.row, at.baseline)

    return read


def _utilization(flops: str = FLOPS) -> Callable[[RowContext], Value]:
    return lambda at: utilization(at.row, at.comparison.rows, flops)


def _sd(metric: str) -> Callable[[RowContext], Value]:
    return lambda at: found.sd if (found := stat(at.row, metric)) else None


def _relative(metric: str) -> Callable[[RowContext], Value]:
    return lambda at: None if at.row is at.baseline else relative_change(at.row, at.baseline, metric)


def _interval(read: Callable[[Interval], float]) -> Callable[[RowContext], Value]:
    return lambda at: None if at.found.interval is None else read(at.found.interval)


def _difference(read: Callable[[LossDifference], Value]) -> Callable[[RowContext], Value]:
    return lambda at: None if at.found.difference is None else read(at.found.difference)


def _test(read: Callable[[TTest], Value]) -> Callable[[RowContext], Value]:
    return _difference(lambda one: None if one.test is None else read(one.test))


def _speed(read: Callable[[RowSpeed], Value]) -> Callable[[RowContext], Value]:
    return lambda at: None if (found := row_speed(at.row)) is None else read(found)


def _speed_change(read: Callable[[SpeedChange], Value]) -> Callable[[RowContext], Value]:
    return lambda at: None if at.row is at.baseline else read(speed_change(at.row, at.baseline))


def _judged(read: Callable[[Judged], Value]) -> Callable[[RowContext], Value]:
    return _difference(lambda one: None if one.judged is None else read(one.judged))


def _bounds(read: Callable[[Bounds], float]) -> Callable[[RowContext], Value]:
    return _difference(lambda one: None if (bounds := one.bounds) is None else read(bounds))


def _facts(one: LossDifference) -> Value:
    return "; ".join(said.facts) or None if (said := one.answer) is not None else None


def _worth(read: Callable[[Equivalence], Value]) -> Callable[[RowContext], Value]:
    """Return what a row is worth in the unit that `--equivalent` asked for."""

    def value(at: RowContext) -> Value:
        asked = at.comparison.equivalents
        one = value_of(at.comparison, at.row, asked.axis) if asked else None
        return None if one is None else read(one)

    return value


def _step(read: Callable[[Step], Value]) -> Callable[[RowContext], Value]:
    return lambda at: None if (found := step_to(at.comparison, at.row)) is None else read(found[1])


def _step_end(sign: int) -> Callable[[RowContext], Value]:
    return _step(lambda one: None if one.delta is None or one.half_width is None else one.delta + sign * one.half_width)


def _changes(at: RowContext) -> Value:
    found = step_to(at.comparison, at.row)
    return None if found is None else found[0].what


def _cumulative(at: RowContext) -> Value:
    climb = at.comparison.climb
    return None if climb is None or at.row not in climb.rows else climb.cumulative(climb.rows.index(at.row))


def _kv_at(at: RowContext) -> Value:
    return cache_bytes_at(at.row.runs[0], at.comparison.kv_at)


def _measured(at: RowContext) -> Value:
    if stat(at.row, KV_MEASURED) is None:
        return None
    return "differs" if cache_disagrees(at.row) else "as analytic"


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


_ALL = (
    Column("seeds", "seeds", lambda at: len(at.row.runs), _whole),
    Column("loss", "val loss", _mean(LOSS), _loss),
    Column("loss_sd", "sd of seeds", _sd(LOSS), _loss),
    Column("loss_se", "eval SE", lambda at: at.found.loss_se, _loss),
    Column("loss_low", "95% low", _interval(lambda one: one.low), _loss),
    Column("loss_high", "95% high", _interval(lambda one: one.high), _loss),
    Column("delta", "Δ loss", _difference(lambda one: one.delta), format_change),
    Column("delta_low", "Δ 95% low", _bounds(lambda one: one.low), format_change),
    Column("delta_high", "Δ 95% high", _bounds(lambda one: one.high), format_change),
    Column("loses_at_most", "loses at most", _bounds(lambda one: one.at_most), format_change),
    Column("loses_at_least", "loses at least", _bounds(lambda one: one.at_least), format_change),
    Column("margin", "margin", _difference(lambda one: one.margin and one.margin.nats), _loss),
    Column("p", "p (t)", _test(lambda one: one.p), format_p),
    Column("p_flip", "p (flip)", _difference(lambda one: one.p_permutation), format_p),
    Column("p_adjusted", "p (adjusted)", _judged(lambda one: one.p), format_p),
    Column("detectable", "MDE (80% power)", _judged(lambda one: one.detectable), _loss),
    Column("eval_se", "Δ eval SE", _difference(lambda one: one.noise and one.noise.se), _loss),
    Column("verdict", "verdict", _difference(lambda one: one.verdict)),
    Column("facts", "all that is shown", _difference(_facts)),
    Column("equivalent", "worth", _worth(lambda one: one.ratio), "{:.3f}x".format),
    Column("equivalent_low", "worth 95% low", _worth(lambda one: one.low), "{:.3f}x".format),
    Column("equivalent_high", "worth 95% high", _worth(lambda one: one.high), "{:.3f}x".format),
    Column("step", "changes", _changes),
    Column("step_delta", "Δ step", _step(lambda one: one.delta), format_change),
    Column("step_low", "Δ step 95% low", _step_end(-1), format_change),
    Column("step_high", "Δ step 95% high", _step_end(1), format_change),
    Column("step_p", "p step (adjusted)", _step(lambda one: one.p), format_p),
    Column("step_verdict", "verdict of the step", _step(lambda one: one.verdict)),
    Column("cumulative", "Δ so far", _cumulative, format_change),
    Column("perplexity", "perplexity", _mean(PERPLEXITY), "{:.2f}".format),
    Column("bits", "bits/byte", _mean(BITS), _loss),
    *BREAKDOWN_COLUMNS,
    Column("params", "params", _mean(PARAMS), format_count),
    Column("params_delta", "Δ params", _relative(PARAMS), format_relative),
    Column("flops", "FLOPs/token", _mean(FLOPS), format_count),
    Column("flops_delta", "Δ FLOPs", _relative(FLOPS), format_relative),
    Column("speed", "tokens/s", _measured_or(_mean(SPEED), "speed"), _whole),
    Column("speed_low", "5% of intervals", _speed(lambda one: one.low), _whole),
    Column("speed_high", "95% of intervals", _speed(lambda one: one.high), _whole),
    Column(
        "speed_delta",
        "Δ tokens/s",
        _measured_or(_speed_change(lambda one: one.share), "speed_delta"),
        format_relative,
    ),
    Column("speed_note", "why no Δ tokens/s", _speed_change(lambda one: one.why or None)),
    Column("mfu", "MFU", _measured_or(_utilization(), "mfu"), format_percent),
    Column("mfu_palm", "MFU PaLM", _measured_or(_utilization(PALM_FLOPS), "mfu_palm"), format_percent),
    Column("memory", "memory of training", _measured_or(_mean(MEMORY), "memory"), format_bytes),
    Column("decode", "decode step", _measured_or(_mean(DECODE), "decode"), format_milliseconds),
    Column("decode_delta", "Δ decode", _measured_or(_relative(DECODE), "decode_delta"), format_relative),
    Column("kv_token", "KV/token", _mean(KV_TOKEN), format_bytes),
    Column("kv_context", "KV at context", _mean(KV_CONTEXT), format_bytes),
    Column("kv_delta", "Δ KV", _relative(KV_CONTEXT), format_relative),
    Column("kv_at", "KV at --kv-at", _kv_at, format_bytes),
    Column("kv_measured", "KV measured", _measured),
    Column("tokens", "tokens", _mean(Metric.TRAIN_TOKENS), format_count),
    Column("seconds", "seconds", _mean(Metric.TRAIN_SECONDS), "{:,.4g}".format),
    Column("runs", "runs", lambda at: " ".join(run.run_name for run in at.row.runs)),
    Column("flags", "flags", lambda at: "; ".join(flags(at.comparison, at.row)) or None),
)
COLUMNS = {column.name: column for column in _ALL}
