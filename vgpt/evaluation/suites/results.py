"""What came of a suite: figures with standard errors over documents, and what each document gave.

Beside what lm-evaluation-harness reports, every task whose answers are scored by likelihood gets the bits per byte of
the right answer, mean over documents: it decides between small models earlier than accuracy does (Heineman et al. 2025,
arXiv 2508.13144).
"""

import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vgpt.errors import DataError, VgptError
from vgpt.evaluation.suites.harness import load_tasks, part, quiet, require_harness, sandboxed
from vgpt.evaluation.suites.scoring import Scorer
from vgpt.tracking.suites.record import BITS, Figure, TaskResult

_DRAWS = 1000
"""Bootstrap draws for figures whose standard error has no closed form."""
_RATIOS = {"word_perplexity": math.exp, "byte_perplexity": math.exp, BITS: lambda nats: nats / math.log(2)}
"""Figures of nats over words or bytes, each from its quotient."""
_FEWSHOT_SEED, _SEED = 1234, 0
"""The harness's own: everybody's examples are drawn alike."""


def results_of(words: Sequence[str], scorer: Scorer, *, fewshot: int | None, limit: int | None) -> list[TaskResult]:
    """Evaluate a model on suites.

    Args:
        words: names of the harness's tasks and groups, task files, or folders of them.
        scorer: the model.
        fewshot: examples in each prompt; None = as each task says. A task that says 0 keeps to it.
        limit: most documents of a task; None = all.

    Raises:
        VgptError: see `load_tasks`; or a task fails while it asks or judges.
    """
    require_harness()
    with quiet(), sandboxed(), _seeded():
        from vgpt.evaluation.suites.adapter import ScoredModel

        loaded = load_tasks(words)
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            task.set_config(key="num_fewshot", value=(own or 0) if fewshot is None or own == 0 else fewshot)
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)
        try:
            found = part("evaluator").evaluate(
                lm=ScoredModel(scorer), task_dict=loaded, limit=limit, bootstrap_iters=_DRAWS, log_samples=True
            )
        except VgptError:
            raise
        except Exception as error:  # tasks are programs of others, and raise whatever they please
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"suite {', '.join(words)}: lm-eval fails: {type(error).__name__}: {first[:300]}",
                "Look at the task's templates and data; VGPT_DEBUG=1 shows where it fails.",
            ) from error
        results = {name: _result(name, task, found) for name, task in loaded["tasks"].items()}
    groups = [_group(name, group, found, results) for name, group in loaded["groups"].items()]
    return [*results.values(), *(group for group in groups if group.figures)]


class _seeded:  # noqa: N801 - a context like those of the standard library
    """Draw few-shot examples and shuffles from the harness's own seeds, and put back what was there before."""

    def __enter__(self) -> None:
        self._before = random.getstate(), np.random.get_state()
        random.seed(_SEED)
        np.random.seed(_FEWSHOT_SEED)

    def __exit__(self, *_: object) -> None:
        random.setstate(self._before[0])
        np.random.set_state(self._before[1])


def _result(name: str, task: Any, found: Mapping[str, Any]) -> TaskResult:
    samples: list[dict[str, Any]] = found["samples"][name]
    first = [one for one in samples if one["filter"] == samples[0]["filter"]] if samples else []
    kind = str(task.OUTPUT_TYPE)
    figures = _figures(found["results"][name])
    values: dict[str, tuple[float, ...]] = {}
    weights: tuple[int, ...] = ()
    for metric in figures:
        plain, _, filtered = metric.partition(".")
        each: list[Any] = [one.get(plain) for one in samples if one["filter"] == (filtered or "none")]
        if each and all(isinstance(value, int | float | np.number) for value in each):
            values[metric] = tuple(map(float, each))
        elif plain in _RATIOS and all(isinstance(value, tuple | list) and len(value) == 2 for value in each):
            figures[metric] = _ratio(plain, each)
            if metric == BITS:
                weights = tuple(int(size) for _, size in each)
                values[metric] = tuple(-float(nats) / (math.log(2) * size) for nats, size in each)
    if (bits := _bits_of_answers(task, kind, first)) is not None:
        figures[BITS], values[BITS] = _mean(bits), bits
    counts = found["n-samples"][name]
    return TaskResult(
        task=name,
        kind=kind,
        version=_version(found, name),
        fewshot=int(found["n-shot"].get(name, 0)),
        documents=len(first),
        of=int(counts["original"]),
        digest=_digest(kind, samples),
        figures=figures,
        higher_is_better={
            **_directions(found["higher_is_better"].get(name), figures),
            **({BITS: False} if bits else {}),
        },
        values=values,
        weights=weights,
    )


def _group(name: str, group: Any, found: Mapping[str, Any], results: Mapping[str, TaskResult]) -> TaskResult:
    members = [results[task.task_name] for task in group.get_all_tasks()]
    figures = _figures(found.get("groups", {}).get(name, {}))
    return TaskResult(
        task=name,
        kind="group",
        version=_version(found, name),
        fewshot=max((one.fewshot for one in members), default=0),
        documents=sum(one.documents for one in members),
        of=sum(one.of for one in members),
        digest=hashlib.sha256(" ".join(one.digest for one in members).encode()).hexdigest(),
        figures=figures,
        higher_is_better=_directions(found["higher_is_better"].get(name), figures),
    )


def _version(found: Mapping[str, Any], name: str) -> str:
    said = str(found["versions"].get(name, ""))
    return "" if said.lower() in ("yaml", "n/a", "none") else said


def _figures(table: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the numbers of the harness's table, whose keys are `acc,none` and `acc_stderr,none`."""
    found: dict[str, Figure] = {}
    for key, value in table.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or (known := _number(value)) is None:
            continue
        shown = metric if filtered == "none" else f"{metric}.{filtered}"
        error = _number(table.get(f"{metric}_stderr,{filtered}"))
        found[shown] = Figure(known, math.nan if error is None else error)
    return found


def _number(value: Any) -> float | None:
    """Return a number as one; None for what the harness says where it has none."""
    return float(value) if isinstance(value, int | float | np.number) else None


def _directions(table: Any, figures: Iterable[str]) -> dict[str, bool]:
    known = table if isinstance(table, dict) else {}
    return {name: bool(up) for name in figures if (up := known.get(name.partition(".")[0])) is not None}


def _mean(values: Sequence[float]) -> Figure:
    count = len(values)
    return Figure(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(count)) if count > 1 else math.nan)


def _ratio(metric: str, pairs: Sequence[Sequence[float]]) -> Figure:
    """Return a figure of sums of log-likelihoods over sums of words or bytes.

    Its standard error is that of a quotient of means, linearized (Cochran 1977, Sampling Techniques, section 2.11),
    carried through `exp` where the figure is a perplexity.
    """
    nats, weights = np.array(pairs, dtype=np.float64).T
    count, quotient = len(nats), -float(nats.sum() / weights.sum())
    if count < 2:
        return Figure(_RATIOS[metric](quotient), math.nan)
    spread = float(np.sum((-nats - quotient * weights) ** 2))
    error = math.sqrt(count / (count - 1) * spread) / float(weights.sum())
    value = _RATIOS[metric](quotient)
    return Figure(value, error * (1 / math.log(2) if metric == BITS else value))


def _bits_of_answers(task: Any, kind: str, samples: Sequence[Mapping[str, Any]]) -> tuple[float, ...] | None:
    """Return the bits per byte of each document's right answer; of several the likeliest one.

    None where answers are not scored by likelihood, or a document has no right one.
    """
    if kind not in ("multiple_choice", "loglikelihood"):
        return None
    found: list[float] = []
    for one in samples:
        each = [
            -float(score[0]) / (math.log(2) * size)
            for number, (asked, score) in enumerate(zip(one["arguments"], one["filtered_resps"], strict=True))
            if (kind == "loglikelihood" or number in _right(task, one)) and (size := len(asked[1].encode()))
        ]
        if not each:
            return None
        found.append(min(each))
    return tuple(found)


def _right(task: Any, sample: Mapping[str, Any]) -> list[int]:
    """Return the numbers of a document's right choices."""
    gold = task.doc_to_text(sample["doc"]) if getattr(task, "multiple_input", 0) else sample["target"]
    choices = task.doc_to_choice(sample["doc"]) if isinstance(gold, str) else []
    if isinstance(gold, str):
        return [choices.index(gold)] if gold in choices else []
    return [int(one) for one in (gold if isinstance(gold, list) else [gold]) if isinstance(one, int | np.integer)]


def _digest(kind: str, samples: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of all prompts, choices and right answers, in their order."""
    content = hashlib.sha256(kind.encode())
    for one in samples:
        asked = [one["filter"], one["arguments"], one["target"]]
        content.update(json.dumps(asked, sort_keys=True, default=str).encode())
    return content.hexdigest()
