"""A run as an object: trained, or found where it lies, and asked for its figures, its losses, its text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgpt.api.display import DataLine, TrainingLine, facts_html, with_error
from vgpt.api.evaluating import Evaluation, evaluate_run
from vgpt.api.found import chosen_run
from vgpt.api.sampling import Samples, sample_run
from vgpt.api.settings import for_users, settings_of, warn
from vgpt.api.suites import SuiteResults, run_suites
from vgpt.errors import UsageError
from vgpt.formatting import DASH, format_count
from vgpt.settings.commands import EvalConfig, SampleConfig
from vgpt.settings.train import TrainConfig

if TYPE_CHECKING:
    import pandas as pd

    from vgpt.model.gpt2 import GPT2Model
    from vgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Run:
    """A run that was trained.

    Attributes:
        name: what every command finds it by.
        directory: where it lies; holds the journal, checkpoints and settings.
        status: "finished", "early" (patience ran out), "already" (there was nothing left to train), or "unfinished".
        settings: all settings that it was trained with.
        summary: its figures at the end, by their names in the journal; empty where it has not ended.
        place: the run, or the one of its checkpoints, that `evaluate` and `sample` use.
        notes: what a command would have said while it trained.
    """

    name: str
    directory: Path
    status: str
    settings: TrainConfig = field(repr=False)
    summary: Mapping[str, float] = field(repr=False)
    place: str = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def attention(self) -> str:
        """Its variant with what sets it apart, as `--attn` takes it."""
        from vgpt.attention.grammar import display_label

        return display_label(self.settings.model.attn)

    @property
    def loss(self) -> float:
        """Validation loss at its end, nats per token; NaN where it has not ended."""
        return self.summary.get("val/loss", nan)

    def to_pandas(self) -> "pd.DataFrame":
        """Return what was logged along the way: one row per step, one column per metric, NaN where none was logged."""
        import pandas as pd

        from vgpt.tracking.journal import read_metrics

        rows: dict[int, dict[str, float]] = {}
        for point in read_metrics(self.directory):
            if not point.summary:
                rows.setdefault(point.step, {}).update(point.metrics)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step").sort_index()

    def evaluate(self, **settings: Any) -> Evaluation:
        """Evaluate it; see `vgpt.evaluate`."""
        return evaluate(self, **settings)

    def sample(self, prompt: str = "", **settings: Any) -> Samples:
        """Generate text with it; see `vgpt.sample`."""
        return sample(self, prompt, **settings)

    def model(self, device: str = "cpu") -> "GPT2Model":
        """Load its model with the trained weights, in float32."""
        return self._checkpoint().load_model(device)

    def tokenizer(self) -> "Tokenizer":
        """Load the tokenizer that it was trained with."""
        return self._checkpoint().tokenizer()

    def _checkpoint(self) -> Any:
        from vgpt.training.checkpoints.checkpoint import find_checkpoint

        return find_checkpoint(self.place)

    def _repr_html_(self) -> str:
        def figure(name: str, form: str) -> str:
            return format(self.summary[name], form) if name in self.summary else DASH

        facts = [
            ("attention", self.attention),
            ("status", self.status),
            ("validation loss", with_error(self.loss, self.summary.get("val/loss_se", nan)) if self.summary else DASH),
            ("bits per byte", figure("val/bits_per_byte", ".4f")),
            ("perplexity", figure("val/perplexity", ".2f")),
            ("parameters", format_count(self.summary["params/total"]) if "params/total" in self.summary else DASH),
            ("directory", self.directory),
        ]
        return facts_html(f"Run {self.name}", facts)


@for_users
def train(*, preset: str | Path | None = None, quiet: bool = False, **settings: Any) -> Run:
    """Train one model, or continue it where it was left: `vgpt train`.

    The same call again continues a run that was interrupted, and returns one that has ended as it is.

    Args:
        preset: settings from a preset: a packaged one by name, or a TOML file by path.
        quiet: show no progress.
        settings: what the flags of `vgpt train` are called, with `_` for `-`: `attn="mla"`, `n_layer=4`.

    Raises:
        SettingsError: unknown or wrong settings, each with its value.
        UsageError: the name belongs to a run with other settings, or several processes are asked for.
        DataError, CheckpointError, TrackingError, DivergedError: see there.
        KeyboardInterrupt: it was interrupted; what was trained is saved.
    """
    loaded = settings_of(TrainConfig, settings, preset=preset)
    if loaded.settings.workers.world_size > 1:
        count = loaded.settings.workers.nproc
        raise UsageError(
            f"nproc = {count}, nnodes = {loaded.settings.workers.nnodes}: several processes are for the command",
            f"vgpt train --nproc {count} ..., then vgpt.load(...) here.",
        )
    from vgpt.training.hardware.compiling import settle
    from vgpt.training.records.same_run import under_its_name
    from vgpt.training.run import train_run

    config, remark = under_its_name(settle(loaded.settings)[0])
    line = TrainingLine(quiet=quiet)
    if remark:
        line.notify(remark)
    result = train_run(config, line, data_progress=DataLine(quiet=quiet))
    if result.status == "stopped":
        raise KeyboardInterrupt(f"{result.name} is saved; the same call continues it")
    return Run(
        result.name, result.directory, result.status, config, result.summary, str(result.directory), tuple(line.notes)
    )


@for_users
def load(run: str | Path, *, runs_dir: str | Path = "runs") -> Run:
    """Find a run that was trained before.

    Args:
        run: its name, its directory, or one of its checkpoints.
        runs_dir: where names are looked up.

    Raises:
        CheckpointError: no such run, one without a checkpoint, or a damaged one.
    """
    from vgpt.api.settings import known_plugins
    from vgpt.training.checkpoints.checkpoint import STEP, find_checkpoint
    from vgpt.training.summary import read_summary

    known_plugins()
    found = find_checkpoint(run, runs_dir=Path(runs_dir))
    directory = found.directory.parent.parent
    named = STEP.fullmatch(Path(run).name) or Path(run).name in ("best", "last")
    place = found.directory if named else directory
    summary = read_summary(directory) or {}
    status = "finished" if summary else "unfinished"
    return Run(directory.absolute().name, directory, status, found.settings, summary, str(place))


@for_users
def evaluate(run: Run | str | Path | None = None, *, quiet: bool = False, **settings: Any) -> Evaluation:
    """Evaluate a trained model on fixed windows of text that is held out: `vgpt eval`.

    Args:
        run: the run: what `train` or `load` returned, a name, a directory; None = the one that finished last.
        quiet: show no progress.
        settings: what the flags of `vgpt eval` are called: `split="train"`, `windows=64`, `recall=True`,
            `lengths=[128, 512]`, `text="letter.txt"`.

    Raises:
        SettingsError: unknown or wrong settings.
        CheckpointError: no such run, or a damaged one.
        DataError: its data is gone, or was made with another tokenizer.
    """
    config = settings_of(EvalConfig, settings).settings
    if config.suite:
        raise UsageError("suites have a function of their own", 'vgpt.evaluate_suites(run, "arc_easy", "my_task.yaml")')
    return evaluate_run(place_of(run, config.runs_dir), config, DataLine(quiet=quiet))


@for_users
def evaluate_suites(
    run: Run | str | Path | None = None, *suites: str | Path, quiet: bool = False, **settings: Any
) -> SuiteResults:
    """Evaluate a trained model on standard suites through lm-evaluation-harness: `vgpt eval --suite`.

    Args:
        run: the run: what `train` or `load` returned, a name, a directory; None = the one that finished last.
        suites: names of the harness's tasks and groups, task files, or folders of them.
        quiet: show no progress.
        settings: what the flags of `vgpt eval` are called: `fewshot=5`, `limit=100`.

    Raises:
        SettingsError: unknown or wrong settings.
        CheckpointError: no such run, or a damaged one.
        VgptError: the harness is not installed, or a suite that it does not have, cannot load or refuses.
    """
    if not suites:
        raise UsageError("no suite is named", 'vgpt.evaluate_suites(run, "arc_easy", "my_task.yaml")')
    config = settings_of(EvalConfig, {**settings, "suite": ",".join(map(str, suites))}).settings
    return run_suites(place_of(run, config.runs_dir), config, DataLine(quiet=quiet))


@for_users
def sample(run: Run | str | Path | None = None, prompt: str = "", **settings: Any) -> Samples:
    """Generate text with a trained model: `vgpt sample`.

    Args:
        run: the run: what `train` or `load` returned, a name, a directory; None = the one that finished last.
        prompt: text to continue; empty begins a new one.
        settings: what the flags of `vgpt sample` are called: `max_tokens=100`, `temperature=0.7`, `num_samples=4`.

    Raises:
        SettingsError: unknown or wrong settings.
        CheckpointError: no such run, or a damaged one.
    """
    if "prompt_file" in settings:
        raise UsageError("prompt_file is for the command", "Read the file: prompt=Path(...).read_text()")
    config = settings_of(SampleConfig, settings).settings
    return sample_run(place_of(run, config.runs_dir), config, prompt)


def place_of(run: Run | str | Path | None, runs_dir: Path) -> str:
    """Return the run that is meant as the rooms take it: a name, a directory, or that of a checkpoint."""
    if isinstance(run, Run):
        return run.place
    return chosen_run(None if run is None else str(run), runs_dir, warn)
