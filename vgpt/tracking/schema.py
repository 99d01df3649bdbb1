"""The one schema of what vgpt records: the names of params, metrics, tags and artifacts, and what each means.

Params are the flattened settings as text, each under the word of its flag and TOML key (`attn`, `n_kv_head`, `lr`).
Metrics, tags and artifacts are listed below. MLflow and the local journal use the same names. What is written under one
`SCHEMA_VERSION` keeps its meaning; a change of meaning raises the number.
"""

from collections.abc import Mapping
from enum import StrEnum

SCHEMA_VERSION = "2"
SEALED_SINCE = 2
"""From this version on every finished run carries a seal."""

EVERY_STEP, AT_THE_END, WHEN_ASKED = "every step", "at the end", "by vgpt eval"
"""When a metric is written: with one value per logged step, with one per run, or where a finished run is evaluated."""


class Metric(StrEnum):
    """A recorded number, with when it is written and what it means."""

    when: str
    meaning: str

    def __new__(cls, name: str, when: str, meaning: str) -> "Metric":
        """Make a metric that is its name."""
        one = str.__new__(cls, name)
        one._value_, one.when, one.meaning = name, when, meaning
        return one

    TRAIN_LOSS = ("train/loss", EVERY_STEP, "mean cross-entropy of the step's batch, nats per token")
    TRAIN_GRAD_NORM = ("train/grad_norm", EVERY_STEP, "global gradient norm before clipping")
    TRAIN_LR = ("train/lr", EVERY_STEP, "learning rate of the step")
    VAL_LOSS = ("val/loss", EVERY_STEP, "mean cross-entropy on the fixed evaluation windows, nats per token")
    VAL_LOSS_SE = ("val/loss_se", EVERY_STEP, "standard error of val/loss over the windows")
    VAL_BITS_PER_BYTE = (
        "val/bits_per_byte",
        EVERY_STEP,
        "val/loss in bits per byte of text: comparable between tokenizers",
    )
    VAL_PERPLEXITY = ("val/perplexity", EVERY_STEP, "exp of val/loss")
    PERF_TOKENS_PER_SECOND = (
        "perf/tokens_per_second",
        EVERY_STEP,
        "training tokens per second since the last logged step",
    )
    PERF_MFU = ("perf/mfu", EVERY_STEP, "model FLOPs utilization by the variant's own FLOPs, 0 to 1")
    PERF_MFU_PALM = ("perf/mfu_palm", EVERY_STEP, "model FLOPs utilization by the PaLM convention, 0 to 1")
    SYSTEM_CPU_PERCENT = (
        "system/cpu_percent",
        EVERY_STEP,
        "use of all processors of the main process's machine since the last logged step, 0 to 100",
    )
    SYSTEM_PROCESS_CPU_PERCENT = (
        "system/process_cpu_percent",
        EVERY_STEP,
        "processor time of the main process since the last logged step, 100 per processor",
    )
    SYSTEM_RESIDENT_BYTES = ("system/resident_bytes", EVERY_STEP, "resident memory of the main process, bytes")
    SYSTEM_MEMORY_PERCENT = (
        "system/memory_percent",
        EVERY_STEP,
        "memory in use on the main process's machine, 0 to 100",
    )
    SYSTEM_GPU_ALLOCATED_BYTES = (
        "system/gpu_allocated_bytes",
        EVERY_STEP,
        "memory that tensors of the main process take on its GPU, bytes",
    )
    SYSTEM_GPU_RESERVED_BYTES = (
        "system/gpu_reserved_bytes",
        EVERY_STEP,
        "memory that the main process has reserved on its GPU, bytes",
    )
    SYSTEM_GPU_MEMORY_PERCENT = (
        "system/gpu_memory_percent",
        EVERY_STEP,
        "memory in use on the main process's GPU by all processes, 0 to 100",
    )
    # Written once: none is of the history, since MLflow keeps one value of a step.
    VAL_BEST_LOSS = ("val/best_loss", AT_THE_END, "lowest val/loss of the run, nats per token")
    PARAMS_TOTAL = ("params/total", AT_THE_END, "parameters of the model, tied weights counted once")
    PARAMS_NON_EMBEDDING = ("params/non_embedding", AT_THE_END, "parameters without token and position embeddings")
    PARAMS_ATTENTION = ("params/attention", AT_THE_END, "parameters of all attention layers")
    FLOPS_TRAIN_PER_TOKEN = (
        "flops/train_per_token",
        AT_THE_END,
        "training FLOPs per token from the variant's visible pairs",
    )
    FLOPS_TRAIN_PER_TOKEN_PALM = (
        "flops/train_per_token_palm",
        AT_THE_END,
        "training FLOPs per token by the PaLM convention",
    )
    FLOPS_PEAK = (
        "flops/peak",
        AT_THE_END,
        "peak FLOP/s that MFU is measured against; the tag vgpt.peak_source says where it is from",
    )
    KV_BYTES_PER_TOKEN = (
        "kv/bytes_per_token",
        AT_THE_END,
        "analytic cache size at block_size tokens, one sequence, over block_size, bytes",
    )
    KV_BYTES_AT_CONTEXT = (
        "kv/bytes_at_context",
        AT_THE_END,
        "analytic cache size at block_size tokens, one sequence, bytes",
    )
    KV_BYTES_READ = (
        "kv/bytes_read",
        AT_THE_END,
        "analytic bytes of the cache that a decoding step at block_size tokens reads",
    )
    KV_BYTES_MEASURED = (
        "kv/bytes_measured",
        AT_THE_END,
        "cache size at block_size tokens as measured from its tensors, bytes",
    )
    PERF_DECODE_SECONDS = (
        "perf/decode_seconds",
        AT_THE_END,
        "seconds of a cached decoding step up to block_size tokens, one sequence; median",
    )
    START_ATTENTION_RMS = (
        "start/attention_rms",
        AT_THE_END,
        "root mean square of what attention layers add to the residual stream before training",
    )
    SPEED_TOKENS_PER_SECOND = (
        "speed/tokens_per_second",
        AT_THE_END,
        "training tokens per second: median over log intervals without the warm-up",
    )
    SPEED_TOKENS_PER_SECOND_LOW = (
        "speed/tokens_per_second_low",
        AT_THE_END,
        "5th percentile of the same; absent with fewer than 5 intervals",
    )
    SPEED_TOKENS_PER_SECOND_HIGH = (
        "speed/tokens_per_second_high",
        AT_THE_END,
        "95th percentile of the same; absent with fewer than 5 intervals",
    )
    SPEED_INTERVALS = ("speed/intervals", AT_THE_END, "log intervals that speed/tokens_per_second is the median of")
    SPEED_MFU = (
        "speed/mfu",
        AT_THE_END,
        "model FLOPs utilization at that median by the variant's own FLOPs and flops/peak, 0 to 1",
    )
    SPEED_MFU_PALM = ("speed/mfu_palm", AT_THE_END, "the same by the PaLM convention, 0 to 1")
    MEMORY_TRAIN_BYTES = (
        "memory/train_bytes",
        AT_THE_END,
        "peak memory of the first training steps, bytes; on CUDA that of tensors; on a CPU the rise of the process's"
        " resident memory while it took them, with the weights and optimizer state from before",
    )
    MEMORY_PEAK_BYTES = (
        "memory/peak_bytes",
        AT_THE_END,
        "peak memory of the whole process, imports and evaluations included, bytes; on CUDA that of tensors from the"
        " first step on",
    )
    TRAIN_STEPS = ("train/steps", AT_THE_END, "optimizer steps taken")
    TRAIN_SKIPPED_STEPS = ("train/skipped_steps", AT_THE_END, "updates left out because the gradient was not finite")
    TRAIN_TOKENS = ("train/tokens", AT_THE_END, "tokens trained on")
    TRAIN_SECONDS = ("train/seconds", AT_THE_END, "time spent in training steps, seconds")
    PROBE_VALIDATION = ("probe/validation", EVERY_STEP, "accuracy of a probe on its validation instances, 0 to 1")
    PROBE_TEST = (
        "probe/test",
        AT_THE_END,
        "accuracy on the test instances, 0 to 1; as its step the number of the point: 0 for the training settings",
    )
    EVAL_POSITION_LOSS = (
        "eval/position_loss",
        WHEN_ASKED,
        "loss of tokens by their context in the window, nats; step: most tokens of context of the span",
    )
    EVAL_LENGTH_LOSS = ("eval/length_loss", WHEN_ASKED, "loss in windows of other lengths, nats; step: the length")
    EVAL_LENGTH_LOSS_SE = ("eval/length_loss_se", WHEN_ASKED, "standard error of eval/length_loss over the text")
    EVAL_BEYOND_LOSS = ("eval/beyond_loss", WHEN_ASKED, "loss of tokens with more context than in training, nats")
    EVAL_BEYOND_LOSS_SE = ("eval/beyond_loss_se", WHEN_ASKED, "standard error of eval/beyond_loss over windows")
    EVAL_REPEATED_LOSS = (
        "eval/repeated_loss",
        WHEN_ASKED,
        "loss of tokens that end a bigram which stood in the window before, nats",
    )
    EVAL_REPEATED_LOSS_SE = ("eval/repeated_loss_se", WHEN_ASKED, "standard error of eval/repeated_loss over windows")
    EVAL_OTHER_LOSS = ("eval/other_loss", WHEN_ASKED, "loss of all other tokens, nats")
    EVAL_OTHER_LOSS_SE = ("eval/other_loss_se", WHEN_ASKED, "standard error of eval/other_loss over windows")
    EVAL_REPEATED_SHARE = ("eval/repeated_share", WHEN_ASKED, "share of the former in all tokens, 0 to 1")
    EVAL_TEXT_LOSS = ("eval/text_loss", WHEN_ASKED, "loss on the text of --text that was scored last, nats per token")
    EVAL_TEXT_LOSS_SE = ("eval/text_loss_se", WHEN_ASKED, "standard error of eval/text_loss over windows")
    EVAL_TEXT_BITS_PER_BYTE = ("eval/text_bits_per_byte", WHEN_ASKED, "the same in bits per byte of that text")


SUITE = "suite/"
"""What metrics of standard suites begin with: `suite/TASK/METRIC`, and `suite/TASK/METRIC_se`, its standard error over
the task's documents; written by `vgpt eval --suite`, at the step of the checkpoint, under lm-eval's own names.
`suite/TASK/bits_per_byte` is that of right answers, mean over documents; of whole texts that of all their bytes."""


class Tag(StrEnum):
    """A recorded fact, with what it means."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> "Tag":
        """Make a tag that is its name."""
        one = str.__new__(cls, name)
        one._value_, one.meaning = name, meaning
        return one

    SCHEMA = ("vgpt.schema", "version of this schema")
    ID = ("vgpt.id", "identity of the run, the same in the journal and in every MLflow store it reaches")
    RUN_NAME = ("vgpt.run_name", "the run's name")
    RUN_DIR = ("vgpt.run_dir", "absolute path of the run's directory on the machine that trained it")
    STATUS = ("vgpt.status", "running, finished, failed, killed or diverged: finer than MLflow's own status")
    KIND = (
        "vgpt.kind",
        "comparison, on a run that holds the report of one; study, on the parent of a study's runs; bench, on a run "
        "that holds speeds measured side by side; plan, on a run that holds the sealed plan of a study; probe, on the "
        "card of a probe and on its small models; absent on runs of language models",
    )
    COMPARED = ("vgpt.compared", "ids of the MLflow runs that a comparison is of")
    PLAN = ("vgpt.plan", "hash of the sealed plan that a run holds")
    LOOKS = ("vgpt.looks", "how often the metric of a sealed study was looked at, and the hash of the last time's line")
    ATTN = ("vgpt.attn", "attention variant")
    ATTN_SETTINGS = ("vgpt.attn_settings", "the variant's own settings as canonical JSON")
    ATTN_LAYERS = ("vgpt.attn_layers", "variant and settings of every layer, in the grammar of --attn")
    MLP_HIDDEN = ("vgpt.mlp_hidden", "hidden width of the MLP, after matching")
    SEED = ("vgpt.seed", "seed of the run")
    SETTINGS_HASH = (
        "vgpt.settings_hash",
        "hash of all settings that make the run, the variant and the seed among them",
    )
    CONDITIONS = ("vgpt.conditions", "hash of everything that must be equal for a fair comparison")
    DATA_DIGEST = ("vgpt.data_digest", "digest of the training and validation tokens")
    TOKENIZER = ("vgpt.tokenizer", "fingerprint of the tokenizer")
    INIT_DIGEST = ("vgpt.init_digest", "SHA-256 of the weights that the run began with, or that were converted for it")
    IMPORTED = (
        "vgpt.imported",
        "directory and SHA-256 of weights that were trained elsewhere, on runs made by vgpt import",
    )
    FORKED_FROM = ("vgpt.forked_from", "checkpoint of another run that the run continues from, with its whole state")
    CONVERTED = (
        "vgpt.converted",
        "source of weights that were converted from another attention, as JSON: run, step, attention, digest, losses",
    )
    EVAL_WINDOWS = ("vgpt.eval_windows", "number, length and hash of the fixed evaluation windows")
    POSITIONS = ("vgpt.positions", "what tells the attention layers where tokens are, as the variant itself says")
    OVERLAP = ("vgpt.overlap", "share of n-grams of the validation text that stand in the training text too")
    PLUGINS = ("vgpt.plugins", "SHA-256 of the plug-in file of each variant that comes from one, as JSON")
    SOURCE = ("vgpt.source", "digest of the source files of vgpt that decide a result")
    REPLACED = ("vgpt.replaced", "functions of vgpt that other code has replaced at run time; nothing")
    START = ("vgpt.start", "digest of the random first weights outside of attention and MLPs")
    START_MLP = ("vgpt.start_mlp", "digest of the random first weights of the MLPs")
    BATCHES = ("vgpt.batches", "chained hash of all training batches")
    NUMPY = ("vgpt.numpy", "version of numpy")
    CPU_CAPABILITY = ("vgpt.cpu_capability", "instruction set of torch's own CPU kernels")
    THREADS = ("vgpt.threads", "threads of torch within one operation")
    ALLOCATOR = ("vgpt.allocator", "environment variables that choose or tune the allocator; default")
    KERNELS = ("vgpt.kernels", "environment variables that choose kernels of matrix products; default")
    SEAL = ("vgpt.seal", "digest of params, tags and final metrics, made when the run finished")
    SEALED_METRICS = ("vgpt.sealed_metrics", "names of the metrics under the seal")
    JOURNAL = ("vgpt.journal", "SHA-256 of metrics.jsonl when the run finished")
    WINDOWS = ("vgpt.windows", "SHA-256 of val_windows.json when the run finished")
    SETTINGS = ("vgpt.settings", "SHA-256 of settings.json when the run finished")
    GIT = ("vgpt.git", "commit of the working tree, with + where it was changed")
    VERSION = ("vgpt.version", "version of vgpt")
    TORCH = ("vgpt.torch", "version of torch")
    DEVICE = ("vgpt.device", "device trained on")
    DTYPE = ("vgpt.dtype", "precision of the forward and backward pass")
    ATTENTION_BACKEND = (
        "vgpt.attention_backend",
        "what computed causal attention on a CPU: table, by type and length; sdpa; or blockwise; absent on older runs, "
        "which the table computed",
    )
    VERIFIED = (
        "vgpt.verified",
        "whether the variants of all layers had passed vgpt verify: verified and the day, changed since verified "
        "where their code is another now, or not verified",
    )
    PEAK_SOURCE = ("vgpt.peak_source", "where flops/peak is from: a table of devices, or a measurement")
    GROUP = ("vgpt.group", "study that the run was trained for, or that it is the parent of")


HISTORY_METRICS: dict[str, str] = {one: one.meaning for one in Metric if one.when == EVERY_STEP}
SUMMARY_METRICS: dict[str, str] = {one: one.meaning for one in Metric if one.when == AT_THE_END}
TAGS: dict[str, str] = {one: one.meaning for one in Tag}

THEN = " then "
"""Stands between the values of a tag that changed while a run was trained by several processes, one after another."""

KIND_COMPARISON, KIND_STUDY, KIND_BENCH, KIND_PLAN = "comparison", "study", "bench", "plan"
KIND_PROBE = "probe"

STATUSES = ("running", "finished", "failed", "killed", "diverged")
END_STATUSES = STATUSES[1:]

MOST_OF_A_TAG, MOST_OF_A_PARAM = 5_000, 6_000
"""Characters that MLflow keeps of a text; the journal keeps all."""


def as_stored(texts: Mapping[str, str], limit: int) -> dict[str, str]:
    """Return texts as MLflow keeps them: cut at a limit, and without bytes of file names that are no UTF-8."""
    return {name: text[:limit].encode(errors="replace").decode() for name, text in texts.items()}
