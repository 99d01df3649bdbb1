"""A ladder as plain data and as CSV."""

import csv
import io
import math
import time
from typing import Any

from vgpt.compare.ladder import Ladder, Prediction, RungDifference, VariantLadder
from vgpt.compare.statistics.trend import Trend
from vgpt.report.ladder import trend_sentence


def ladder_json(ladder: Ladder | None) -> dict[str, Any] | None:
    """Return a ladder as plain data; None without one."""
    if ladder is None:
        return None
    return {
        "name": ladder.name,
        "baseline": ladder.baseline,
        "lr_rule": ladder.rate,
        "compute": "6 * parameters * tokens; parameters are the non-embedding ones with multi-head attention",
        "rungs": [
            {
                "name": one.name,
                "parameters": one.parameters,
                "tokens": one.tokens,
                "compute": one.compute,
                "settings": dict(one.settings),
                "variants": list(one.variants),
            }
            for one in ladder.rungs
        ],
        "variants": [_variant_json(one) for one in ladder.variants],
        "rank_agreement": ladder.agreement
        and {
            "measure": "Kendall's tau-b",
            "interval": "bootstrap over seeds, n - 1 of n",
            "variants": ladder.agreement.variants,
            "neighbors": [{"rungs": [before, after], **vars(tau)} for before, after, tau in ladder.agreement.neighbors],
            "all_pairs_mean": vars(ladder.agreement.overall),
        },
    }


def _variant_json(one: VariantLadder) -> dict[str, Any]:
    trend = one.trend
    return {
        "variant": one.variant,
        "rungs": [
            {
                "rung": at.rung.name,
                "delta": at.delta,
                "ci95": None if at.delta is None or at.half_width is None else _around(at.delta, at.half_width),
                "seeds": at.seeds,
                "verdict": at.verdict or None,
            }
            for at in one.rungs
        ],
        "sign_flips": [
            {"between": [flip.before.rung.name, flip.after.rung.name], "shown": flip.shown} for flip in one.flips
        ],
        "trend": trend
        and {
            "slope_per_decade": trend.slope,
            "ci95": _around(trend.slope, trend.slope_half_width),
            "df": trend.df,
            "sd_between_rungs": math.sqrt(trend.between) if trend.df else None,
            "straight_line_assumed": trend.df == 0,
            "meaning": trend_sentence(trend),
        },
        "next": _prediction_json(one.next) if one.next else None,
        "scored": [_prediction_json(made) for made in one.predictions],
    }


def _around(value: float, half: float) -> list[float]:
    return [value - half, value + half]


def _prediction_json(one: Prediction) -> dict[str, Any]:
    made = one.made
    return {
        "rung": one.rung,
        "compute": 10**one.x,
        "value": one.value,
        "interval95": [one.low, one.high],
        "width": one.width,
        "rests_on": list(one.rests_on),
        "df": one.df,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made)) if made is not None else None,
        "left_out": one.left_out,
        "observed": one.observed,
        "inside": one.inside,
    }


def ladder_as_csv(ladder: Ladder) -> str:
    """Return a ladder as CSV: a line per rung and variant, numbers raw; the last prediction of a rung beside it."""
    text = io.StringIO()
    writer = csv.writer(text)
    head = ["rung", "parameters", "tokens", "compute", "lr", "attention", "delta", "ci_low", "ci_high", "seeds"]
    head += ["verdict", "slope_per_decade", "slope_low", "slope_high", "predicted", "predicted_low", "predicted_high"]
    writer.writerow([*head, "inside", "made", "left_out"])
    for number, rung in enumerate(ladder.rungs):
        for one in ladder.variants:
            at = one.rungs[number]
            made = next((found for found in one.predictions if found.rung == rung.name), None)
            size = [rung.name, rung.parameters, rung.tokens, rung.compute, rung.settings.get("lr", ""), one.variant]
            writer.writerow([*size, *_difference_fields(at), *_trend_fields(one.trend), *_prediction_fields(made)])
    for one in ladder.variants:
        if one.next is not None:
            ahead = ladder.ahead
            size = [ahead.name, ahead.parameters, ahead.tokens, ahead.compute, ahead.settings.get("lr", "")]
            fields = [*_difference_fields(None), *_trend_fields(one.trend), *_prediction_fields(one.next)]
            writer.writerow([*size, one.variant, *fields])
    return text.getvalue()


def _difference_fields(at: RungDifference | None) -> list[Any]:
    if at is None or at.delta is None:
        return [""] * 5
    ends = _around(at.delta, at.half_width) if at.half_width is not None else ["", ""]
    return [at.delta, *ends, at.seeds, at.verdict]


def _trend_fields(trend: Trend | None) -> list[Any]:
    return [""] * 3 if trend is None else [trend.slope, *_around(trend.slope, trend.slope_half_width)]


def _prediction_fields(one: Prediction | None) -> list[Any]:
    if one is None:
        return [""] * 6
    found = _prediction_json(one)
    inside = "" if one.inside is None else one.inside
    return [one.value, one.low, one.high, inside, found["made"] or "", one.left_out]
