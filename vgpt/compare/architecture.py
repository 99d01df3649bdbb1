"""The architecture of a recorded run, rebuilt from its record: what its costs and confounds are asked of."""

from pydantic import ValidationError

from vgpt.attention.config import positions_of
from vgpt.attention.options import OPTIONS
from vgpt.errors import SettingsError
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import Metric, Tag

KV_CONTEXT = Metric.KV_BYTES_AT_CONTEXT
# Width in bytes of a cached number, the likeliest first.
_WIDTHS = (2, 4, 1, 8)


def architecture_of(run: RunInfo) -> GPT2Config | None:
    """Return a run's model settings, or None where the record is incomplete or its variant is not known here.

    The vocabulary, which costs of the cache do not depend on, is not that of the run.
    """
    names = [name for name in GPT2Config.model_fields if name in run.params and name != "attn"]
    kind, settings = run.attention
    # "none" is a value of these, and no value of all others.
    words = ("match", "pos", *(option.name for option in OPTIONS if option.words))
    given = {name: None if run.params[name] == "none" and name not in words else run.params[name] for name in names}
    try:
        return GPT2Config.model_validate({**given, "attn": {"kind": kind, **settings}, "vocab_size": 1})
    except (ValidationError, SettingsError):
        return None


def cache_bytes_at(run: RunInfo, tokens: int) -> int | None:
    """Return the analytic cache size of a run's model after `tokens` tokens, in bytes for one sequence.

    The width of a cached number is the one that reproduces the recorded size at the context length; None where none
    does, or where the variant is not known here.
    """
    config = architecture_of(run)
    if config is None:
        return None
    for width in _WIDTHS:
        if cache_bytes(config, config.block_size, width) == run.metrics.get(KV_CONTEXT):
            return cache_bytes(config, tokens, width)
    return None


def effective_positions(run: RunInfo) -> str:
    """Return what tells the attention layers of a run where tokens are: as its settings say, and as it recorded.

    Both stand there where they differ, as after an edit of the record or of a plug-in; empty where neither is known.
    """
    config, recorded = architecture_of(run), run.tags.get(Tag.POSITIONS, "")
    if config is None:
        return recorded
    known = positions_of([config.attn.at(layer) for layer in range(config.n_layer)], config.shape)
    return known if recorded in ("", known) else f"{known} by its settings, {recorded} on record"
