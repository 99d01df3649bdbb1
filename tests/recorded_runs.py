"""Runs as the trainer records them, without training: settings are real, measurements are made up."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from vgpt.compare.choose import compare
from vgpt.compare.comparison import Comparison
from vgpt.compare.request import Request, make_request
from vgpt.settings.fields import format_value
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.presets import load_preset
from vgpt.settings.train import TrainConfig
from vgpt.tracking.histories import History, Reading
from vgpt.tracking.record import WindowLosses
from vgpt.tracking.run_info import RunInfo

LOSSES = {"mha": 2.31, "gqa": 2.335, "mqa": 2.3525}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make_run() -> Callable[..., RunInfo]:
    """Make a finished run of the demo preset; settings, metrics, tags and the rest may be changed."""
    starts = iter(range(1_000, 1_000_000))

    def make(
        attn: str = "mha",
        *,
        settings: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        status: str = "finished",
        run_name: str | None = None,
    ) -> RunInfo:
        config = load_settings(
            TrainConfig, Sources(load_preset("demo"), command_line={"attn": attn, **(settings or {})})
        ).settings
        kind = config.model.attn.kind
        cache = config.model.attn.cache_cost(config.model.shape)
        layers, context = config.model.n_layer, config.model.block_size
        attention = layers * config.model.attn.params(config.model.shape)
        conditions = hashlib.sha256(json.dumps(config.conditions(), sort_keys=True).encode()).hexdigest()
        numbers = {
            "val/loss": LOSSES.get(kind, 2.4),
            "val/loss_se": 0.0123,
            "val/bits_per_byte": LOSSES.get(kind, 2.4) * 0.72,
            "val/perplexity": 10.07,
            "params/total": 900_000.0 + attention,
            "params/attention": float(attention),
            "flops/train_per_token": 5_000_000.0 + 6 * attention,
            "kv/bytes_per_token": float(layers * cache.per_token * 4),
            "kv/bytes_at_context": float(layers * cache.nbytes(context, 4)),
            "kv/bytes_measured": float(layers * cache.nbytes(context, 4)),
            "perf/tokens_per_second": 25_000.0,  # of the last log interval
            "speed/tokens_per_second": 25_000.0,
            "speed/tokens_per_second_low": 24_500.0,
            "speed/tokens_per_second_high": 25_500.0,
            "speed/intervals": 18.0,
            "flops/peak": 4e11,
            "perf/decode_seconds": 0.0008 + 1e-10 * layers * cache.nbytes(context, 4),
            "flops/train_per_token_palm": 5_500_000.0 + 6 * attention,
            "memory/train_bytes": 412.5 * 2**20,
            "memory/peak_bytes": 912.5 * 2**20,
            "train/tokens": float(config.steps * config.tokens_per_step),
        }
        labels = {
            "vgpt.attn": kind,
            "vgpt.attn_settings": json.dumps(config.model.attn.model_dump(mode="json"), sort_keys=True),
            "vgpt.seed": str(config.train.seed),
            "vgpt.settings_hash": config.settings_hash,
            "vgpt.conditions": conditions,
            "vgpt.data_digest": "d" * 64,
            "vgpt.tokenizer": "e" * 64,
            "vgpt.eval_windows": f"{config.train.eval_windows}x{context}:0123456789ab",
            "vgpt.device": "AMD EPYC",
            "vgpt.dtype": "float32",
            "vgpt.peak_source": "measured",
            "vgpt.torch": "2.13.0",
            "vgpt.version": "0.1.0",
            "vgpt.source": "f" * 16,
            "vgpt.replaced": "nothing",
            "vgpt.numpy": "2.4.6",
            "vgpt.cpu_capability": "AVX2",
            "vgpt.threads": "2",
            "vgpt.allocator": "default",
            "vgpt.kernels": "default",
            "vgpt.plugins": "{}",
            "vgpt.batches": f"batches of {config.train.seed}",
            "vgpt.start": f"weights of {config.train.seed}",
            "vgpt.start_mlp": f"MLPs of {config.train.seed}",
        }
        return RunInfo(
            run_id=f"id{next(starts)}",
            run_name=run_name or config.name,
            experiment="vgpt",
            status=status,
            start_time=next(starts),
            params={name: format_value(value) for name, value in config.flat().items()},
            metrics={**numbers, **(metrics or {})},
            tags={**labels, **(tags or {})},
        )

    return make


@pytest.fixture
def ask() -> Callable[..., Request]:
    """Make the request of `vgpt compare WORDS --preset PRESET` with settings as given on the command line."""

    def make(*words: str, preset: str | None = None, env: Mapping[str, str] | None = None, **typed: object) -> Request:
        sources = Sources(load_preset(preset) if preset else None, environment=env or {}, command_line=typed)
        return make_request(words, sources)

    return make


@pytest.fixture
def three(make_run, ask) -> Comparison:
    """Three variants with three seeds each, of clearly different losses."""
    runs = [
        make_run(attn, settings={"seed": seed}, metrics={"val/loss": loss + 0.001 * seed * number})
        for number, (attn, loss) in enumerate({"mha": 2.3, "gqa": 2.325, "mqa": 2.36}.items(), start=1)
        for seed in (1, 2, 3)
    ]
    return compare(ask("mha", "gqa", "mqa"), runs)


@pytest.fixture
def evaluated() -> Callable[[RunInfo], WindowLosses]:
    """The losses of a made-up run per window and position: the latter fall with the context, to 64 tokens of it."""

    def find(run: RunInfo) -> WindowLosses:
        loss = run.metrics["val/loss"]
        return WindowLosses(400, "2x64:0", (loss, loss), tuple(loss + 1 / (position + 1) for position in range(64)))

    return find


@pytest.fixture
def course() -> Callable[[RunInfo], History]:
    """The course of a made-up run: 10 evaluations, evenly spread, that fall to its loss; faster for a cheaper one."""

    def find(run: RunInfo) -> History:
        last, total = run.metrics["val/loss"], run.metrics["train/tokens"]
        rate = run.metrics["perf/tokens_per_second"]
        readings = []
        for part in range(1, 11):
            tokens = round(total * part / 10)
            loss = last + 3.0 * (math.exp(-0.5 * part) - math.exp(-5.0))
            readings.append(Reading(part * 100, loss, tokens, tokens / rate))
        others = {"val/loss_se": {one.step: 0.01 for one in readings}, "val/bits_per_byte": {}}
        training = tuple(Reading(one.step, one.value + 0.1, one.tokens, one.seconds) for one in readings)
        return History(training, tuple(readings), others)

    return find


@pytest.fixture
def renamed() -> Callable[[Comparison, str, str], Comparison]:
    """Give a run that a comparison shows by its name another one: stores may hold names that no command line takes."""

    def rename(comparison: Comparison, old: str, new: str) -> Comparison:
        def label(text: str) -> str:
            return text.replace(f"{old} (", f"{new} (")

        rows = [
            replace(
                row,
                label=label(row.label),
                runs=tuple(replace(run, run_name=new if run.run_name == old else run.run_name) for run in row.runs),
            )
            for row in comparison.rows
        ]
        statistics = [replace(one, label=label(one.label)) for one in comparison.statistics]
        return replace(comparison, rows=tuple(rows), statistics=tuple(statistics))

    return rename
