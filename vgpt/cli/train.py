"""`vgpt train`: train one model, or continue it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vgpt.cli.console import key_values, mention_data, notify, out, print_json, warn, with_noise
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import VgptError
from vgpt.files.paths import RUNS_DIR, near_place, run_argument, typed_name
from vgpt.launchers import launcher_of, lonely_note, refuse_missing_srun, refuse_two_counts
from vgpt.settings.loader import Loaded
from vgpt.settings.train import TrainConfig
from vgpt.tracking.schema import Metric
from vgpt.tracking.speed import recorded_speed

if TYPE_CHECKING:
    from vgpt.training.run import RunResult


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("train")(with_settings(TrainConfig, settle=_settled)(train))


def _settled(loaded: Loaded[TrainConfig]) -> Loaded[TrainConfig]:
    from vgpt.training.hardware.compiling import settle_loaded

    return settle_loaded(loaded)


def train(
    loaded: Loaded[TrainConfig],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what the run would cost, and stop")] = False,
    json: JsonOption = False,
) -> None:
    """Train one model. The same command again continues it where it was left."""
    from vgpt.cli.live import data_bars, training_display  # Rich's live parts are not needed for --help
    from vgpt.training.parallel.distributed import ALONE, as_worker, world_of_environment
    from vgpt.training.records.same_run import under_its_name
    from vgpt.training.run import train_run

    if not dry_run:
        refuse_two_counts(os.environ, _asks_for_processes(loaded))
        refuse_missing_srun(os.environ)
        if note := lonely_note(os.environ):
            warn(note)
    world = None if dry_run else world_of_environment()
    if world is None or world.main:
        mention_data(loaded.settings.train.data, loaded.origins["data"])
    config, remark = under_its_name(loaded.settings)
    if remark and (world is None or world.main):
        notify(remark)
    if dry_run:
        _dry_run(config, loaded.origins["compile"], as_json=json)
        return

    if world is not None:
        config = as_worker(config, world)
    elif config.workers.world_size > 1:
        _launch(config, as_json=json)
    try:
        result = train_run(config, training_display(), data_progress=data_bars(), world=world or ALONE)
    except VgptError as error:
        if world is not None and error.worker_code is not None:
            error.exit_code = error.worker_code
        raise
    if world is not None and not world.main:
        raise typer.Exit(result.exit_code)
    _print(result, as_json=json)
    raise typer.Exit(result.exit_code)


def _asks_for_processes(loaded: Loaded[TrainConfig]) -> str:
    """Return the flag that asks for several processes, or for a number that somebody gave, as it is typed."""
    workers = loaded.settings.workers
    if workers.nproc > 1 or (loaded.origins["nproc"] != "default" and not _counts(workers.nproc)):
        return f"--nproc {workers.nproc}"
    return f"--nnodes {workers.nnodes}" if workers.nnodes > 1 else ""


def _counts(nproc: int) -> bool:
    """Tell whether a launcher has started as many processes."""
    names = launcher_of(os.environ)
    return names is not None and os.environ[names[1]] == str(nproc)


def _launch(config: TrainConfig, *, as_json: bool) -> NoReturn:
    from vgpt.training.parallel.launch import launch
    from vgpt.training.run import finished_result

    code = launch(config, notify)
    result = finished_result(config)
    if code == 0 and result is not None and config.workers.node_rank == 0:
        _print(result, as_json=as_json)
    raise typer.Exit(code)


def _print(result: "RunResult", *, as_json: bool) -> None:
    if as_json:
        print_json({"run": result.name, "directory": result.directory, "status": result.status, **result.summary})
    elif result.summary:
        figures = result.summary
        rows = [
            ("run", result.directory),
            ("validation loss", with_noise(figures[Metric.VAL_LOSS], figures[Metric.VAL_LOSS_SE], "evaluation noise")),
            ("bits per byte", f"{figures['val/bits_per_byte']:.4f}"),
            ("perplexity", f"{figures['val/perplexity']:.2f}"),
            ("tokens/s", f"{recorded_speed(figures)[0]:,.0f} (from logs)"),
            ("next", _next(result.directory)),
        ]
        out().print(key_values("", rows))


def _next(directory: Path) -> str:
    """Return what may be done with a run, as it is typed."""
    runs_dir = near_place(directory.parent)
    where = "" if runs_dir == str(RUNS_DIR) else f" --runs-dir {typed_name(runs_dir)}"
    return f"vgpt sample {run_argument(directory)}   |   vgpt compare{where}"


def _dry_run(config: TrainConfig, origin: str, *, as_json: bool) -> None:
    from vgpt.cli.live import data_bars
    from vgpt.model.config import GPT2Config
    from vgpt.model.costs import cache_bytes, count_parameters, palm_flops_per_token, train_flops_per_token
    from vgpt.training.estimate import estimate_memory, estimate_time
    from vgpt.training.hardware.devices import resolve
    from vgpt.training.run import load_data

    vocab_size = load_data(config.train.data, data_bars()).tokenizer.vocab_size
    model = GPT2Config(**dict(config.model), vocab_size=vocab_size)
    count = count_parameters(model)
    compute = resolve(config.system)
    element = compute.dtype.itemsize
    tokens = config.steps * config.tokens_per_step
    memory = estimate_memory(config, vocab_size, compute.dtype, compute.device)
    duration = estimate_time(config, vocab_size, compute)
    figures = {
        "run": config.name,
        "attention": config.model.attn.model_dump_json(),
        "device": compute.device_name,
        "dtype": f"{compute.dtype_name} ({compute.reason})",
        "compiled": f"{'yes' if config.system.compile else 'no'} ({origin})",
        "parameters": count.total,
        "parameters in attention": count.attention,
        "hidden width of the MLP": config.model.hidden,
        "steps": config.steps,
        "tokens": tokens,
        "training FLOPs per token (exact)": round(train_flops_per_token(model)),
        "training FLOPs per token (PaLM)": round(palm_flops_per_token(model)),
        "training FLOPs": round(train_flops_per_token(model) * tokens),
        "weights in bytes (each process)": memory.weights,
        "gradients in bytes": memory.gradients,
        "AdamW in bytes": memory.optimizer,
        "activations in bytes (estimate)": memory.activations,
        "logits in bytes (estimate)": memory.logits,
        "memory in bytes (estimate)": memory.total,
        "seconds per step (estimate)": round(duration.step, 4),
        "seconds in all (estimate)": round(duration.total, 1),
        "basis of the time": duration.basis,
        "KV cache at the context length in bytes": cache_bytes(model, model.block_size, element),
    }
    if (matched := config.model.budget) is not None:
        percent = {"parameters": matched.params, "FLOPs": matched.flops, "cache": matched.cache}
        shares = {f"{name} against {matched.reference} in %": round(100 * x, 3) for name, x in percent.items()}
        figures |= {"hidden width before matching": matched.raw_width, **shares}
    if as_json:
        print_json(figures)
    else:
        out().print(key_values("", [(k, f"{v:,}" if isinstance(v, int) else v) for k, v in figures.items()]))
