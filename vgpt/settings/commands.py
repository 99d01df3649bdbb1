"""Settings of the commands that take few, and the variables that none of all the commands reads."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vgpt.attention.options import SETTINGS
from vgpt.attention.plugins import VARIABLE
from vgpt.errors import UsageError, did_you_mean
from vgpt.files.paths import RUNS_DIR
from vgpt.formatting import flag_of
from vgpt.schema import Place, Section
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import leaves
from vgpt.settings.interchange import ConvertConfig, ExportConfig, ImportConfig
from vgpt.settings.loader import Sources
from vgpt.settings.model import ModelSettings
from vgpt.settings.train import TrainConfig
from vgpt.text.clean import parse_steps

DEFAULT_VOCAB_SIZE = 4096
DEFAULT_PATTERN = "gpt4"


class PrepareConfig(Section):
    """How text becomes a tokenizer and token files."""

    out: Path = Path("data/corpus")
    """folder to write"""
    tokenizer: Place = "bpe"
    """bpe: train one on the text; gpt2; or a tokenizer's folder, tokenizer.json or .model file"""
    vocab_size: Annotated[int | None, Field(ge=257, le=1_000_000)] = None
    """tokens of a trained vocabulary, end of text included; none = 4096"""
    pattern: str | None = None
    """split pattern of a trained tokenizer: gpt2, gpt4, o200k, bytes, or a regular expression; none = gpt4"""
    vocab_dir: Path | None = None
    """folder with GPT-2's vocab.bpe and encoder.json, for --tokenizer gpt2"""
    clean: str = "none"
    """steps separated by commas: control, nfc, whitespace, dedup; or all, or none"""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the text kept for validation"""
    split: Literal["auto", "documents", "tail"] = "auto"
    """documents by their hash, or the tail of every document; auto = documents where there are enough of them"""
    text_key: str = "text"
    """key (.jsonl) or column (.parquet) that holds the text"""
    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"
    """processes that encode; the result is the same for any number"""
    overwrite: bool = False
    """replace a data set that was prepared from something else"""

    @field_validator("clean")
    @classmethod
    def _known_steps(cls, value: str) -> str:
        try:
            return ",".join(parse_steps(value)) or "none"
        except UsageError as error:
            raise ValueError(f"{error.message} ({error.hint})") from error

    @model_validator(mode="after")
    def _no_idle_settings(self) -> "PrepareConfig":
        if self.tokenizer != "bpe":
            for name in ("vocab_size", "pattern"):
                if getattr(self, name) is not None:
                    flag = flag_of(name)
                    raise ValueError(f"{flag} is for a trained tokenizer; {self.tokenizer!r} has its own, leave it out")
        if self.vocab_dir is not None and self.tokenizer != "gpt2":
            raise ValueError(f"--vocab-dir goes with --tokenizer gpt2 only, not with {self.tokenizer!r}")
        return self

    @property
    def steps(self) -> tuple[str, ...]:
        """The cleaning steps in the order they run."""
        return parse_steps(self.clean)


class TokenizerTrainConfig(Section):
    """How a tokenizer is trained."""

    out: Path = Path("tokenizer")
    """folder to write"""
    vocab_size: Annotated[int, Field(ge=257, le=1_000_000)] = 4096
    """bytes, merges and special tokens together"""
    pattern: str = "gpt4"
    """split pattern: gpt2, gpt4, o200k, bytes, or a regular expression"""
    special_tokens: tuple[str, ...] = ()
    """special tokens beside <|endoftext|>, separated by commas"""
    text_key: str = "text"
    """key (.jsonl) or column (.parquet) that holds the text"""


class TokenizerConfig(Section):
    """Which tokenizer is used."""

    tokenizer: Place = "tokenizer"
    """gpt2, a folder with a tokenizer, a tokenizer.json or a .model file"""
    vocab_dir: Path | None = None
    """folder with GPT-2's vocab.bpe and encoder.json, for --tokenizer gpt2"""
    allow_special: bool = False
    """read spellings of special tokens in the text as the tokens themselves"""


_OF_SUITES = {"suite", "fewshot", "limit", "record", "device", "dtype", "threads", "flash", "runs_dir"}
"""Settings of `vgpt eval` that mean something beside `--suite`."""


class EvalConfig(Section):
    """What is evaluated, and how exactly."""

    data: Place | None = None
    """prepared directory; none = the data that the run was trained on"""
    split: Literal["val", "train"] = "val"
    """which part of the data"""
    windows: Annotated[int | None, Field(ge=1)] = None
    """fixed windows of block_size tokens; none = all that the split holds"""
    by_position: bool = False
    """also tell the loss by the tokens of context before a token"""
    recall: bool = False
    """also tell the loss on tokens that end a bigram which stood in the window before"""
    lengths: tuple[Annotated[int, Field(ge=1, le=1_000_000_000)], ...] = ()
    """also evaluate in windows of these many tokens, separated by commas: 128,512,2048"""
    text: Path | None = None
    """score this file in place of the data; it is read as text, and never executed"""
    suite: tuple[Place, ...] = ()
    """in place of the loss, tasks of lm-evaluation-harness, separated by commas: names, task files, folders of them"""
    fewshot: Annotated[int | None, Field(ge=0, le=1000)] = None
    """examples in each prompt of --suite; none = as each task says"""
    limit: Annotated[int | None, Field(ge=1)] = None
    """most documents of each task of --suite; none = all"""
    record: bool = True
    """keep what these tell with the run and in MLflow, for vgpt compare"""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of matrix products"""
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads; none = as many as CPU affinity and quota allow"""
    flash: bool = True
    """fused attention kernels; --no-flash computes the naive formula"""
    runs_dir: Path = RUNS_DIR
    """directory of all runs"""

    @model_validator(mode="after")
    def _text_alone(self) -> "EvalConfig":
        if self.text is not None:
            of_data = ("data", "windows", "by_position", "recall", "lengths")
            idle = [name for name in of_data if getattr(self, name)] + (["split"] if self.split != "val" else [])
            if idle:
                raise ValueError(f"--text scores one whole file; {flag_of(idle[0])} is of the data, leave it out")
        if len(set(self.lengths)) < len(self.lengths):
            raise ValueError("--lengths names a length twice; name each once")
        return self

    @model_validator(mode="after")
    def _suite_alone(self) -> "EvalConfig":
        set_by_hand = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        idle = sorted(set_by_hand & {"fewshot", "limit"} if not self.suite else set_by_hand - _OF_SUITES)
        if idle:
            why = "--suite has texts of its own" if self.suite else "it is for tasks of --suite"
            raise ValueError(f"{flag_of(idle[0])} says nothing here: {why}; leave it out")
        return self


class SampleConfig(Section):
    """What is generated, and how tokens are chosen."""

    prompt: str | None = None
    """text to continue; none = begin a new text"""
    prompt_file: Path | None = None
    """file that holds the prompt, taken as it is; - = stdin"""
    allow_special: bool = False
    """read spellings of special tokens in the prompt, as <|endoftext|>, as the tokens themselves"""
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """most new tokens per sample; a sample ends earlier at end-of-text"""
    num_samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    """texts to generate, each with its own random numbers"""
    temperature: Annotated[float, Field(ge=0, le=1000)] = 0.8
    """divides the logits: lower is more deterministic; 0 = always the likeliest token"""
    top_k: Annotated[int | None, Field(ge=1)] = None
    """draw among the k likeliest tokens only; none = all"""
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    """draw among the fewest tokens whose probabilities reach p; none = all"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """of the draws; the same seed gives the same texts"""
    context: Annotated[int | None, Field(ge=1)] = None
    """most tokens that the model looks back on; none = --block-size of its training"""
    cache: bool = True
    """keep what attention remembers between tokens; --no-cache computes it anew for each, to compare"""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of weights and cache; auto = bfloat16 where native, else float16 on GPUs that have it, else float32"""
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads; none = as many as CPU affinity and quota allow"""
    flash: bool = True
    """fused attention kernels; --no-flash computes the naive formula"""
    runs_dir: Path = RUNS_DIR
    """directory of all runs"""

    @model_validator(mode="after")
    def _one_prompt(self) -> "SampleConfig":
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("--prompt and --prompt-file are two prompts; give one of them")
        return self


class RunsConfig(Section):
    """Where the runs are."""

    runs_dir: Path = RUNS_DIR
    """directory of all runs"""


class SyncConfig(RunsConfig):
    """Where the runs are, and where their records go."""

    tracking_uri: str | None = None
    """MLflow store; none = MLFLOW_TRACKING_URI, else the store that the run was started with"""


ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class VariantsConfig(Section):
    """The model that the costs are those of."""

    model: ModelSettings = ModelSettings()
    kv_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """type of the numbers in the cache"""
    kv_at: Annotated[int, Field(ge=1, le=1_000_000_000)] = 8192
    """tokens of context for the second column of cache sizes"""

    @property
    def element_bytes(self) -> int:
        """Bytes of one number in the cache."""
        return ELEMENT_BYTES[self.kv_dtype]


class ExplainConfig(Section):
    """The model that one variant is explained in."""

    model: ModelSettings = ModelSettings()
    kv_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """type of the numbers in the cache"""
    mask_tokens: Annotated[int | None, Field(ge=1, le=16_384)] = None
    """tokens in the picture of the mask; none = block_size, at most 2048"""

    @property
    def element_bytes(self) -> int:
        """Bytes of one number in the cache."""
        return ELEMENT_BYTES[self.kv_dtype]

    @property
    def pictured(self) -> int:
        """Tokens in the picture of the mask."""
        return self.mask_tokens or min(self.model.block_size, 2048)


BACKBONE = ("n_embd", "n_head", "block_size", "bias", *SETTINGS, "flash")
"""Settings of the model that an attention layer is built for; where one is given, checks run on that backbone."""


class VerifyConfig(Section):
    """What is checked, and where."""

    checks: tuple[str, ...] = ()
    """names of checks to run, separated by commas; none = all"""
    oracle: str | None = None
    """variant that outputs and gradients are compared with, given equal weights; none = no reference"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1337
    """of the weights, the inputs and the places looked at"""
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")] = "cpu"
    """cpu, cuda, cuda:1 or mps"""
    runs_dir: Path = RUNS_DIR
    """directory of all runs; verified.json in it records what has passed"""
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads; none = as many as CPU affinity and quota allow"""
    model: ModelSettings = ModelSettings()


_PREFIX = "VGPT_"
_COMMANDS = (
    *(TrainConfig, CompareConfig, EvalConfig, SampleConfig, PrepareConfig, ExportConfig, ImportConfig, ConvertConfig),
    *(ExplainConfig, VariantsConfig, SyncConfig, TokenizerConfig, TokenizerTrainConfig, VerifyConfig),
)
_OTHERS = {VARIABLE, "VGPT_DEBUG"}


def unknown_variables(sources: Sources) -> list[str]:
    """Return a remark for every variable with vgpt's prefix that no command reads, with the nearest that one does."""
    known = {leaf.env for model in _COMMANDS for leaf in leaves(model).values()} | _OTHERS
    places: Iterable[tuple[str, Mapping[str, str]]] = (("environment", sources.environment), (".env", sources.dotenv))
    return [
        f"{name} ({origin}) is no setting and is left out{did_you_mean(name, known)}"
        for origin, values in places
        for name in sorted(values)
        if name.startswith(_PREFIX) and name not in known
    ]
