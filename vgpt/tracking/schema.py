"""The one schema of what vgpt records: the names of params, metrics, tags and artifacts, and what each means.

Params are the flattened settings as text, each under the word of its flag and TOML key (`attn`, `n_kv_head`, `lr`).
Metrics, tags and artifacts are listed below. MLflow and the local journal use the same names. What is written under one
`SCHEMA_VERSION` keeps its meaning; a change of meaning raises the number.
"""

from collections.abc import Mapping

SCHEMA_VERSION = "2"
SEALED_SINCE = 2
"""From this version on every finished run carries a seal."""

HISTORY_METRICS: dict[str, str] = {
    "train/loss": "mean cross-entropy of the step's batch, nats per token",
    "train/grad_norm": "global gradient norm before clipping",
    "train/lr": "learning rate of the step",
    "val/loss": "mean cross-entropy on the fixed evaluation windows, nats per token",
    "val/loss_se": "standard error of val/loss over the windows",
    "val/bits_per_byte": "val/loss in bits per byte of text: comparable between tokenizers",
    "val/perplexity": "exp of val/loss",
    "perf/tokens_per_second": "training tokens per second since the last logged step",
    "perf/mfu": "model FLOPs utilization by the variant's own FLOPs, 0 to 1",
    "perf/mfu_palm": "model FLOPs utilization by the PaLM convention, 0 to 1",
    "system/cpu_percent": "use of all processors of the main process's machine since the last logged step, 0 to 100",
    "system/process_cpu_percent": "processor time of the main process since the last logged step, 100 per processor",
    "system/resident_bytes": "resident memory of the main process, bytes",
    "system/memory_percent": "memory in use on the main process's machine, 0 to 100",
    "system/gpu_allocated_bytes": "memory that tensors of the main process take on its GPU, bytes",
    "system/gpu_reserved_bytes": "memory that the main process has reserved on its GPU, bytes",
    "system/gpu_memory_percent": "memory in use on the main process's GPU by all processes, 0 to 100",
}
"""Metrics with one value per logged step."""

SUMMARY_METRICS: dict[str, str] = {
    "val/best_loss": "lowest val/loss of the run, nats per token",
    "params/total": "parameters of the model, tied weights counted once",
    "params/non_embedding": "parameters without token and position embeddings",
    "params/attention": "parameters of all attention layers",
    "flops/train_per_token": "training FLOPs per token from the variant's visible pairs",
    "flops/train_per_token_palm": "training FLOPs per token by the PaLM convention",
    "flops/peak": "peak FLOP/s that MFU is measured against; the tag vgpt.peak_source says where it is from",
    "kv/bytes_per_token": "analytic cache size at block_size tokens, one sequence, over block_size, bytes",
    "kv/bytes_at_context": "analytic cache size at block_size tokens, one sequence, bytes",
    "kv/bytes_read": "analytic bytes of the cache that a decoding step at block_size tokens reads",
    "kv/bytes_measured": "cache size at block_size tokens as measured from its tensors, bytes",
    "perf/decode_seconds": "seconds of a cached decoding step up to block_size tokens, one sequence; median",
    "start/attention_rms": "root mean square of what attention layers add to the residual stream before training",
    "speed/tokens_per_second": "training tokens per second: median over log intervals without the warm-up",
    "speed/tokens_per_second_low": "5th percentile of the same; absent with fewer than 5 intervals",
    "speed/tokens_per_second_high": "95th percentile of the same; absent with fewer than 5 intervals",
    "speed/intervals": "log intervals that speed/tokens_per_second is the median of",
    "speed/mfu": "model FLOPs utilization at that median by the variant's own FLOPs and flops/peak, 0 to 1",
    "speed/mfu_palm": "the same by the PaLM convention, 0 to 1",
    "memory/train_bytes": "peak memory of the first training steps, bytes; on CUDA that of tensors; on a CPU the rise "
    "of the process's resident memory while it took them, with the weights and optimizer state from before",
    "memory/peak_bytes": "peak memory of the whole process, imports and evaluations included, bytes; on CUDA that of "
    "tensors from the first step on",
    "train/steps": "optimizer steps taken",
    "train/skipped_steps": "updates left out because the gradient was not finite",
    "train/tokens": "tokens trained on",
    "train/seconds": "time spent in training steps, seconds",
}
"""Metrics with one value per run, written when it ends. None is a history's: MLflow keeps one value of a step."""

TAG_SCHEMA = "vgpt.schema"
TAG_ID = "vgpt.id"
TAG_RUN_NAME = "vgpt.run_name"
TAG_RUN_DIR = "vgpt.run_dir"
TAG_STATUS = "vgpt.status"
TAG_KIND = "vgpt.kind"
TAG_COMPARED = "vgpt.compared"
TAG_GROUP = "vgpt.group"
TAG_SEAL = "vgpt.seal"
TAG_SEALED = "vgpt.sealed_metrics"

THEN = " then "
"""Stands between the values of a tag that changed while a run was trained by several processes, one after another."""

KIND_COMPARISON, KIND_STUDY, KIND_BENCH = "comparison", "study", "bench"

TAGS: dict[str, str] = {
    TAG_SCHEMA: "version of this schema",
    TAG_ID: "identity of the run, the same in the journal and in every MLflow store it reaches",
    TAG_RUN_NAME: "the run's name",
    TAG_RUN_DIR: "absolute path of the run's directory on the machine that trained it",
    TAG_STATUS: "running, finished, failed, killed or diverged: finer than MLflow's own status",
    TAG_KIND: "comparison, on a run that holds the report of one; study, on the parent of a study's runs; "
    "bench, on a run that holds speeds measured side by side; "
    "absent on runs that were trained",
    TAG_COMPARED: "ids of the MLflow runs that a comparison is of",
    "vgpt.attn": "attention variant",
    "vgpt.attn_settings": "the variant's own settings as canonical JSON",
    "vgpt.attn_layers": "variant and settings of every layer, in the grammar of --attn",
    "vgpt.mlp_hidden": "hidden width of the MLP, after matching",
    "vgpt.seed": "seed of the run",
    "vgpt.settings_hash": "hash of all settings that make the run, the variant and the seed among them",
    "vgpt.conditions": "hash of everything that must be equal for a fair comparison",
    "vgpt.data_digest": "digest of the training and validation tokens",
    "vgpt.tokenizer": "fingerprint of the tokenizer",
    "vgpt.init_digest": "SHA-256 of the weights that the run began with, where they were not random",
    "vgpt.forked_from": "checkpoint of another run that the run goes on from, with its whole state",
    "vgpt.eval_windows": "number, length and hash of the fixed evaluation windows",
    "vgpt.positions": "what tells the attention layers where tokens are, as the variant itself says",
    "vgpt.overlap": "share of pieces of the validation text that stand in the training text too",
    "vgpt.plugins": "SHA-256 of the plug-in file of each variant that comes from one, as JSON",
    "vgpt.source": "digest of the source files of vgpt that decide a result",
    "vgpt.replaced": "functions of vgpt that other code has replaced at run time; nothing",
    "vgpt.start": "digest of the random first weights outside of attention and MLPs",
    "vgpt.start_mlp": "digest of the random first weights of the MLPs",
    "vgpt.batches": "chained hash of all training batches",
    "vgpt.numpy": "version of numpy",
    "vgpt.cpu_capability": "instruction set of torch's own CPU kernels",
    "vgpt.threads": "threads of torch within one operation",
    "vgpt.allocator": "environment variables that choose or tune the allocator; default",
    "vgpt.kernels": "environment variables that choose kernels of matrix products; default",
    TAG_SEAL: "digest of params, tags and final metrics, made when the run finished",
    TAG_SEALED: "names of the metrics under the seal",
    "vgpt.journal": "SHA-256 of metrics.jsonl when the run finished",
    "vgpt.windows": "SHA-256 of val_windows.json when the run finished",
    "vgpt.git": "commit of the working tree, with + where it was changed",
    "vgpt.version": "version of vgpt",
    "vgpt.torch": "version of torch",
    "vgpt.device": "device trained on",
    "vgpt.dtype": "precision of the forward and backward pass",
    "vgpt.verified": "whether the variants of all layers had passed vgpt verify: verified and the day, changed since "
    "verified where their code is another now, or not verified",
    "vgpt.peak_source": "where flops/peak is from: a table of devices, or a measurement",
    TAG_GROUP: "study that the run was trained for, or that it is the parent of",
}

STATUSES = ("running", "finished", "failed", "killed", "diverged")
END_STATUSES = STATUSES[1:]

MOST_OF_A_TAG, MOST_OF_A_PARAM = 5_000, 6_000
"""Characters that MLflow keeps of a text; the journal keeps all."""


def as_stored(texts: Mapping[str, str], limit: int) -> dict[str, str]:
    """Return texts as MLflow keeps them: cut at a limit, and without bytes of file names that are no UTF-8."""
    return {name: text[:limit].encode(errors="replace").decode() for name, text in texts.items()}
