"""A model of vgpt as lm-evaluation-harness sees it."""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

from vgpt.errors import DataError
from vgpt.evaluation.suites.scoring import Scorer

_MOST_NEW_TOKENS = 256
"""The harness's own default."""


class ScoredModel(LM):
    """Passes the harness's requests on to a `Scorer`."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self._scorer = scorer
        self._device = scorer.device

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return log-likelihoods of answers in nats, and whether each is what greedy decoding gives."""
        return self._scorer.answers([request.args for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return log-likelihoods of whole texts in nats."""
        return self._scorer.texts([request.args[0] for request in requests])

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return greedy continuations.

        Raises:
            DataError: a task wants random ones.
        """
        return self._scorer.continuations([(request.args[0], *_asked(dict(request.args[1]))) for request in requests])


def _asked(kwargs: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the most new tokens and what ends a continuation."""
    if kwargs.get("do_sample") or kwargs.get("num_beams", 1) != 1:
        raise DataError(
            "the suite wants random continuations or beams; vgpt gives the greedy ones",
            "In a task file of your own: generation_kwargs: {do_sample: false}",
        )
    until = kwargs.get("until") or []
    most = kwargs.get("max_gen_toks", kwargs.get("max_new_tokens", _MOST_NEW_TOKENS))
    return int(most), [until] if isinstance(until, str) else [str(end) for end in until]
