"""Settings of the commands by which models leave, come in, or change their attention."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vgpt.attention.grouped.config import MHAConfig
from vgpt.files.paths import RUNS_DIR
from vgpt.schema import Place, Section
from vgpt.settings.model import AttentionSetting
from vgpt.settings.train import RUN_NAME


class ExportConfig(Section):
    """What a trained model becomes."""

    to: Literal["hf"] = "hf"
    """library that loads it: hf, Hugging Face's transformers"""
    classes: Literal["auto", "stock", "own"] = "auto"
    """stock = classes that transformers brings with it; own = code in the directory; auto = stock where it is exact"""
    runs_dir: Path = RUNS_DIR
    """directory of all runs"""


class ImportConfig(Section):
    """What a model of another library becomes."""

    run_name: Annotated[str | None, Field(pattern=rf"^{RUN_NAME.pattern}$")] = None
    """name of the run to make; none = that of the directory"""
    data: Place | None = None
    """prepared directory to evaluate it on, for comparisons; none = no loss is recorded"""
    eval_windows: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    """fixed validation windows of block_size tokens, as many as the runs have that it is compared with"""
    vocab_dir: Path | None = None
    """folder with GPT-2's vocab.bpe and encoder.json, where no tokenizer lies beside the weights"""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """precision of the evaluation"""
    tracker: Literal["mlflow", "journal"] = "mlflow"
    """mlflow = local journal mirrored to MLflow; journal = local files alone"""
    experiment: Annotated[str, Field(min_length=1, max_length=200)] = "vgpt"
    """MLflow experiment"""
    tracking_uri: Annotated[str | None, Field(repr=False)] = None
    """MLflow store; none = MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this directory"""
    runs_dir: Path = RUNS_DIR
    """directory of all runs"""


class ConvertConfig(Section):
    """What a run's attention becomes, and how its losses are computed."""

    attn: AttentionSetting = MHAConfig()
    """attention to convert to, to be named; also with its settings, gqa:n_kv_head=2, or a pattern, 5xlocal+mha"""
    run_name: Annotated[str | None, Field(pattern=f"^{RUN_NAME.pattern}$")] = None
    """name of the new run; none = made of the variant's and the source's"""
    runs_dir: Path = RUNS_DIR
    """directory of all runs"""
    data: Place | None = None
    """prepared directory; none = the data that the run was trained on"""
    device: Annotated[str | None, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = None
    """where losses are computed: auto, cpu, cuda, cuda:1 or mps; none = as the run was trained"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """precision of losses; none = as the run was trained; weights are converted in float64"""
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads; none = as many as CPU affinity and quota allow"""
