"""vgpt: a laboratory for attention. GPT-2 models that differ in their attention and in nothing else."""

__version__ = "0.1.0"
