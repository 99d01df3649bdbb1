"""`vgpt bench`: speed and memory of variants, side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgpt.cli.console import notify, out, print_json, print_text, warn
from vgpt.cli.options import JsonOption, print_settings, variant_argument, with_settings
from vgpt.errors import TrackingError, UsageError
from vgpt.settings.bench import BenchConfig
from vgpt.settings.loader import Sources

if TYPE_CHECKING:
    from vgpt.bench.result import Bench
    from vgpt.model.config import GPT2Config

_GPT2_VOCABULARY = 50_257


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("bench")(with_settings(BenchConfig, variant="names")(bench))


def bench(
    sources: Sources,
    show_settings: bool,
    names: Annotated[
        list[str],
        variant_argument("what --attn takes (gqa, gqa:n_kv_head=4); the first is what the others are compared with"),
    ],
    plan: Annotated[bool, typer.Option("--plan", help="say what would be measured and how long it takes")] = False,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="print one table as CSV, numbers raw")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="write the tables as a page for a browser")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="log the results to MLflow, as a run of their own")] = False,
) -> None:
    """Measure speed and memory of variants side by side, in turn within one process.

    A round that others disturbed is made again; where quiet never comes, the table says so in place of a claim.
    """
    if json and csv:
        raise UsageError("--json and --csv exclude each other: stdout carries one result", "Choose one of them.")
    from vgpt.compare.selectors import settings_of_each

    loaded = settings_of_each(BenchConfig, names, sources)
    first = next(iter(loaded.values()))
    if show_settings:
        print_settings(first, as_json=json)
    config = first.settings
    models = {label: _model(one.settings, _vocabulary(config)) for label, one in loaded.items()}
    if plan:
        _measure(config, models, only_plan=True)
        return
    found = _measure(config, models)
    assert found is not None
    _show(found, as_json=json, as_csv=csv)
    if html is not None or log:
        _keep(found, config, html, log=log)


def _model(config: BenchConfig, vocab_size: int) -> "GPT2Config":
    from vgpt.model.config import GPT2Config

    return GPT2Config(**config.model.concrete(), vocab_size=vocab_size)


def _vocabulary(config: BenchConfig) -> int:
    """Return the size of the vocabulary: as asked for, otherwise that of the data that runs would be trained on."""
    from vgpt.data.manifest import MANIFEST_NAME, Manifest
    from vgpt.files.paths import DEMO
    from vgpt.text.corpus import DEMO_VOCAB_SIZE

    if config.bench.vocab_size is not None:
        return config.bench.vocab_size
    if config.train.data == DEMO:
        return DEMO_VOCAB_SIZE
    if (Path(config.train.data) / MANIFEST_NAME).exists():
        return Manifest.load(Path(config.train.data)).vocab_size
    warn(f"{config.train.data} is not prepared: the vocabulary is taken to be GPT-2's, {_GPT2_VOCABULARY:,}")
    return _GPT2_VOCABULARY


def _measure(config: BenchConfig, models: "Mapping[str, GPT2Config]", *, only_plan: bool = False) -> "Bench | None":
    import torch

    from vgpt.attention.kernels.backends import use_backend
    from vgpt.bench.machine import machine
    from vgpt.bench.run import Plan, run_bench
    from vgpt.bench.work import Point
    from vgpt.cli.live import data_bars
    from vgpt.formatting import format_duration
    from vgpt.training.hardware.attention_backend import choose
    from vgpt.training.hardware.compiling import by_default
    from vgpt.training.hardware.devices import resolve

    compute, system = resolve(config.system), config.system
    if system.compile is None:  # as in the runs that these speeds are for
        system = system.model_copy(update={"compile": by_default(config.model, system)[0]})
    asked, train = config.bench, config.train
    points: list[Point] = []
    for phase in asked.phases:
        if phase == "train":
            points.append(Point(phase, train.batch_size, config.model.block_size, train.grad_accum))
        else:
            points += [Point(phase, batch, context) for batch in asked.batch for context in config.contexts]
    planned = Plan(models, points, asked.rounds, asked.seconds, asked.patience)
    where = machine(compute)
    expected = planned.expected(where, compute.device.type)
    size = f"{len(models)} variants, {len(points)} cases, {asked.rounds} rounds"
    notify(f"plan: {size}: about {format_duration(expected)} on a quiet machine")
    if only_plan:
        return None
    with use_backend(choose(config.model, system, compute, notify)):
        return run_bench(planned, compute, system, where, data_bars(), threads=torch.get_num_threads())


def _show(found: "Bench", *, as_json: bool, as_csv: bool) -> None:
    from vgpt.bench.tables import bench_csv, bench_tables

    if as_json:
        print_json(found.as_json())
    elif as_csv:
        print_text(bench_csv(found))
    else:
        for part in bench_tables(found):
            out().print(part, soft_wrap=False)


def _keep(found: "Bench", config: BenchConfig, html: Path | None, *, log: bool) -> None:
    """Write the page, and log everything to MLflow; what MLflow refuses is a note, and no failure."""
    import json

    from vgpt.bench.tables import bench_csv, bench_tables
    from vgpt.report.html.page import save_html, simple_page
    from vgpt.tracking.report_runs import log_comparison
    from vgpt.tracking.schema import KIND_BENCH

    title = f"vgpt bench: {', '.join(found.variants)}"
    page = simple_page(title, bench_tables(found), made=found.machine.made)
    if html is not None:
        save_html(page, html)
        notify(f"wrote {html}")
    if not log:
        return
    files = {"bench.json": json.dumps(found.as_json(), indent=1).encode(), "bench.csv": bench_csv(found).encode()}
    try:
        run_id = log_comparison(
            name=title.replace("vgpt ", "").replace(":", "")[:200],
            experiment=config.run.experiment,
            run_ids=[],
            files={**files, "bench.html": page.encode()},
            tracking_uri=config.run.tracking_uri,
            kind=KIND_BENCH,
        )
    except TrackingError as error:
        warn(f"the results were not logged: {error.message}")
    else:
        notify(f"logged as run {run_id} of experiment {config.run.experiment!r}")
