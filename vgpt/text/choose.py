"""What `--tokenizer` may name, in one place for every command."""

from pathlib import Path

from vgpt.errors import TokenizerError
from vgpt.text.gpt2 import load_gpt2, load_vocab_files
from vgpt.text.tokenizer import JSON_FILE, Tokenizer


def open_tokenizer(name_or_path: str | Path, vocab_dir: Path | None = None) -> Tokenizer:
    """Open `gpt2`, or a tokenizer's folder, `tokenizer.json` or `.model` file.

    Args:
        name_or_path: what the user wrote; a folder called `gpt2` is meant only by `./gpt2`.
        vocab_dir: where GPT-2's two files lie; for `gpt2` only.

    Raises:
        TokenizerError: nothing of that name, a damaged file, or `vocab_dir` beside a path.
    """
    if str(name_or_path) == "gpt2":
        return load_gpt2(vocab_dir)
    if vocab_dir is not None:
        raise TokenizerError(
            f"--vocab-dir {vocab_dir} goes with --tokenizer gpt2 only, not with {str(name_or_path)!r}", "Leave it out."
        )
    if not Path(name_or_path).exists():
        raise TokenizerError(
            f"there is no tokenizer {str(name_or_path)!r}",
            "Name gpt2, or a tokenizer's folder, tokenizer.json or .model file; train one with `vgpt tokenize train`.",
        )
    return Tokenizer.load(Path(name_or_path))


def tokenizer_beside(directory: Path) -> Tokenizer | None:
    """Return the tokenizer in a directory of another library: tokenizer.json, or vocab.json with merges.txt.

    Raises:
        TokenizerError: it is damaged, or of a kind that vgpt cannot use.
    """
    if (directory / JSON_FILE).is_file():
        return Tokenizer.load(directory / JSON_FILE)
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return load_vocab_files(directory)
    return None
