"""What a run says about itself before it starts: settings, conditions and provenance, by the schema's names."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vgpt.attention.config import positions_of
from vgpt.attention.grammar import LayerPattern
from vgpt.attention.kernels.backends import Backend
from vgpt.attention.plugin_record import plugin_record
from vgpt.attention.stamps import stamp_for
from vgpt.data.dataset import Dataset
from vgpt.data.split import find_overlap
from vgpt.evaluation.loss import Evaluation, Evaluator
from vgpt.files.digests import json_digest
from vgpt.settings.fields import format_value
from vgpt.settings.train import TrainConfig
from vgpt.tracking.record import WindowLosses
from vgpt.tracking.schema import TAGS, THEN, Tag
from vgpt.tracking.tracker import RunStart, Tracker, open_tracker
from vgpt.training.checkpoints.checkpoint import TrainingState
from vgpt.training.checkpoints.files import write_json
from vgpt.training.hardware.devices import Compute
from vgpt.training.hardware.peak import Peak
from vgpt.training.records.provenance import environment


@dataclass(frozen=True)
class RunSetup:
    """What a run is trained by: its settings, its data, and the hardware of this process."""

    config: TrainConfig
    data: Dataset
    evaluator: Evaluator
    compute: Compute
    peak: Peak
    attention_backend: Backend = "table"


def open_record(
    setup: RunSetup, state: TrainingState, *, resume_step: int | None, notify: Callable[[str], None]
) -> Tracker:
    """Start the run's record, or continue it from `resume_step`.

    The directory gets `environment.json`, the plug-ins of its variants among it, and `conditions.json`; both go to the
    tracker beside `settings.json`.
    """
    config, data, compute = setup.config, setup.data, setup.compute
    about = {**environment(compute), "plugins": plugin_record(config.model.attn, config.model.n_layer)}
    backend = setup.attention_backend
    conditions = fair_conditions(config, data, compute, setup.evaluator, state.init_digest, backend)
    write_json(config.directory / "environment.json", about)
    write_json(config.directory / "conditions.json", conditions)
    layers = [config.model.attn.at(layer) for layer in range(config.model.n_layer)]
    tags = {
        "vgpt.attn": config.model.attn.kind,
        "vgpt.attn_settings": json.dumps(config.model.attn.model_dump(mode="json"), sort_keys=True),
        "vgpt.attn_layers": str(LayerPattern(tuple(layers))),
        "vgpt.mlp_hidden": str(config.model.hidden),
        "vgpt.seed": str(config.train.seed),
        "vgpt.settings_hash": config.settings_hash,
        "vgpt.conditions": json_digest(conditions),
        "vgpt.data_digest": data.manifest.digest,
        "vgpt.tokenizer": data.tokenizer.fingerprint,
        "vgpt.eval_windows": conditions["eval_windows"],
        "vgpt.overlap": str(find_overlap(data.val.tokens, data.train.tokens)),
        "vgpt.positions": positions_of(layers, config.model.shape),
        "vgpt.plugins": json.dumps({one["kind"]: one["sha256"] for one in about["plugins"]}, sort_keys=True),
        "vgpt.dtype": compute.dtype_name,
        Tag.ATTENTION_BACKEND: backend,
        "vgpt.verified": stamp_for(config.run.runs_dir, config.model.attn, config.model.n_layer),
        "vgpt.peak_source": setup.peak.source,
        # What changed between the processes that trained a run stands there in order.
        **{name: THEN.join(values) for name, values in state.facts.items()},
        **{name: value for name, value in state.start.items() if name in TAGS},
    }
    tags |= {name: value for name, value in _where_from(config, state).items() if value}
    start = RunStart(
        run_name=config.name,
        run_dir=config.directory,
        experiment=config.run.experiment,
        params={name: format_value(value) for name, value in config.flat().items() if name != "tracking_uri"},
        tags=tags,
    )
    tracker = open_tracker(
        start,
        kind=config.run.tracker,
        resume_step=resume_step,
        tracking_uri=config.run.tracking_uri,
        notify=notify,
    )
    for name in ("settings.json", "environment.json", "conditions.json"):
        tracker.artifact(config.directory / name)
    return tracker


def _where_from(config: TrainConfig, state: TrainingState) -> dict[str, str]:
    """Return the tags that many runs lack: their study, and weights that were not random. Empty ones are left out."""
    return {
        Tag.GROUP: config.run.group or "",
        Tag.INIT_DIGEST: state.init_digest,
        Tag.CONVERTED: json.dumps(state.converted, sort_keys=True) if state.converted else "",
        Tag.FORKED_FROM: state.forked_from,
    }


def fair_conditions(
    config: TrainConfig,
    data: Dataset,
    compute: Compute,
    evaluator: Evaluator,
    init_digest: str = "",
    attention_backend: Backend = "table",
) -> dict[str, Any]:
    """Return everything that two runs must share for their difference to be the attention's: and nothing else.

    The place of the data and of the first weights does not matter, their content does; so do the device and the
    precision that `auto` came to.
    """
    table = config.conditions()
    for place in ("data", "init_from", "fork"):
        del table["train"][place]
    table["system"] |= {"device": compute.device.type, "device_name": compute.device_name, "dtype": compute.dtype_name}
    # Before it was recorded the table chose, and such conditions stay what they were.
    backend = {} if attention_backend == "table" else {"attention_backend": attention_backend}
    return {
        **table,
        **backend,
        "data": data.manifest.digest,
        "init": init_digest,
        "tokenizer": data.tokenizer.fingerprint,
        "vocab_size": data.tokenizer.vocab_size,
        "eval_windows": evaluator.name,
    }


def record_windows(
    setup: RunSetup, final: Evaluation, step: int, tracker: Tracker, notify: Callable[[str], None]
) -> None:
    """Keep the final loss of each window, its document, and that of each position. A full disk costs only that.

    Comparisons tell evaluation noise from the first two, and what more context is worth from the last.
    """
    each, by_position = tuple(final.window_losses.tolist()), tuple(final.position_losses.tolist())
    documents = tuple(setup.evaluator.documents(setup.data.tokenizer.end_of_text).tolist())
    losses = WindowLosses(step, setup.evaluator.name, each, by_position, documents)
    try:
        tracker.artifact(losses.save(setup.config.directory))
    except OSError as error:
        notify(f"the losses per window are NOT saved: {error.strerror or error}")
