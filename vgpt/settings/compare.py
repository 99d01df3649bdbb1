"""Settings of `vgpt compare`: what to lay side by side, on top of all settings of the runs themselves."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from vgpt.schema import Section
from vgpt.settings.margin import parse_margin
from vgpt.settings.train import TrainConfig

SortKey = Literal["given", "loss", "params", "flops", "speed", "memory", "kv"]
Worth = Literal["tokens", "flops", "seconds"]


class ComparisonSettings(Section):
    """Which runs are wanted and how they are shown."""

    seeds: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = 1
    """runs per variant, with the seeds --seed, --seed + 1, ...; auto = from 3 on one more at a time, until each variant
    is decided against --margin, or without one is better or worse, by intervals that hold at all looks"""
    max_seeds: Annotated[int | None, Field(ge=3, le=50)] = None
    """where --seeds auto ends, decided or not; none = 12"""
    run_missing: bool = False
    """first train the runs that are missing, one after another"""
    bench: bool = True
    """after --run-missing measure speed and memory of the variants side by side, which takes seconds"""
    plan: bool = False
    """show how many runs exist, how many are missing and the time they would take, and stop"""
    study: Path | None = None
    """TOML file of variants, seeds, learning rates and budgets to compare"""
    seal: bool = False
    """fix the study of --study before looking: file, settings, seeds, margin, code and data go into RUNS/plans"""
    exploratory: bool = False
    """go on with a study that was changed after it was sealed; every output says so"""
    ladder: Path | None = None
    """TOML file of rungs, models from small to large: the comparison at each, and the trend of its differences"""
    rungs: Annotated[int | None, Field(ge=1, le=100)] = None
    """climb the first so many rungs of --ladder alone and predict the next; none = all"""
    from_: str | None = None
    """first variant of a staircase: compare it with that of --to, and all on a path between that changes one thing at a
    time"""
    to: str | None = None
    """last variant of the staircase that begins at --from"""
    via: tuple[str, ...] = ()
    """order in which the settings change on that path: kv_lora_rank,qk_rope_head_dim; what is not named comes last"""
    sweep_lr: Annotated[int | None, Field(ge=3, le=9)] = None
    """tune the learning rate of each variant over this many, an odd number: half, once and twice --lr for 3; then
    train each at its own on other seeds"""
    sweep_seeds: Annotated[int | None, Field(ge=1, le=1000)] = None
    """seeds per variant and rate that choose the rate, from --seed + 1000 on: never those that are reported; none = as
    many as those"""
    sort: SortKey = "given"
    """order of the rows after the baseline, which stays first"""
    margin: str | None = None
    """largest loss you would not mind: nats per token (0.01), or a share of the baseline's loss (0.5%); verdicts are
    then better, equal within it, no worse than it, worse or not decided"""
    power: Annotated[float | None, Field(gt=0)] = None
    """say how many seeds a new study takes to show a difference of so many nats, with these runs as its pilot"""
    equivalent: Worth | None = None
    """say how much more training the baseline needs to reach each variant's loss; its runs at other budgets, which this
    takes, are planned and trained with the others"""
    equivalent_to: Annotated[tuple[Annotated[float, Field(ge=0.01, le=100)], ...], Field(max_length=2)] = ()
    """for --equivalent, further budgets of the baseline: as far as so many times that of the runs; 0.5 or 2 or 0.5,2"""
    force: bool = False
    """give verdicts across unequal conditions too; the tables say so"""
    kv_at: Annotated[int, Field(ge=1, le=1_000_000_000)] = 8192
    """tokens of context for the second column of cache sizes"""
    at_tokens: Annotated[int | None, Field(ge=1)] = None
    """compare at so many training tokens, read between the evaluations around them; none = at the end of each run"""
    at_flops: Annotated[float | None, Field(gt=0)] = None
    """likewise by so many training FLOPs, of each variant's own count"""
    at_seconds: Annotated[float | None, Field(gt=0)] = None
    """likewise by so many seconds of training, evaluations and checkpoints not counted"""
    columns: tuple[str, ...] = ()
    """one table of these columns: delta,p_adjusted,detectable,kv_context,... or names of metrics; none = all tables"""

    @model_validator(mode="after")
    def _one_point(self) -> Self:
        asked = {"--at-tokens": self.at_tokens, "--at-flops": self.at_flops, "--at-seconds": self.at_seconds}
        given = [flag for flag, amount in asked.items() if amount is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} name different points: choose one of them")
        return self

    @model_validator(mode="after")
    def _auto_alone(self) -> Self:
        if self.max_seeds is not None and self.seeds != "auto":
            raise ValueError("--max-seeds limits --seeds auto: add that, or leave it out")
        if self.seeds == "auto" and self.sweep_lr is not None:
            raise ValueError("--seeds auto and --sweep-lr exclude each other: a rate is chosen over seeds fixed before")
        return self

    @field_validator("margin")
    @classmethod
    def _a_margin(cls, text: str | None) -> str | None:
        if text is not None:
            parse_margin(text)
        return text

    @model_validator(mode="after")
    def _equivalent_at_the_end(self) -> Self:
        if self.equivalent_to and self.equivalent is None:
            raise ValueError("--equivalent-to adds budgets to --equivalent: add --equivalent tokens")
        others = {
            "--at-tokens": self.at_tokens,
            "--at-flops": self.at_flops,
            "--at-seconds": self.at_seconds,
            "--sweep-lr": self.sweep_lr,
        }
        given = [flag for flag, amount in others.items() if amount is not None]
        if self.equivalent is not None and given:
            raise ValueError(f"--equivalent and {given[0]} exclude each other: leave one of them out")
        return self

    @field_validator("sweep_lr")
    @classmethod
    def _with_a_middle(cls, number: int | None) -> int | None:
        if number is not None and number % 2 == 0:
            raise ValueError("must be odd, so that --lr is in the middle: 3 or 5")
        return number


class CompareConfig(TrainConfig):
    """The settings of the compared runs, and of the comparison."""

    compare: ComparisonSettings = ComparisonSettings()

    @model_validator(mode="after")
    def _profiles_nothing(self) -> Self:
        if self.run.profile:
            raise ValueError("--profile traces one run: give it to vgpt train")
        return self
