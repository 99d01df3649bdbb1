"""`vgpt tokenize`: train, use and look at tokenizers."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vgpt.cli.console import key_values, mention_special, out, print_json
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import UsageError
from vgpt.files.paths import access_hint, user_path
from vgpt.files.text import decode_text
from vgpt.settings.commands import TokenizerConfig, TokenizerTrainConfig
from vgpt.settings.loader import Loaded

TextArgument = Annotated[str | None, typer.Argument(help="the text; - or nothing reads standard input")]
FileOption = Annotated[Path | None, typer.Option("--file", help="read the text from a file", parser=user_path)]


def add_to(app: typer.Typer) -> None:
    """Register the group and its commands."""
    group = typer.Typer(no_args_is_help=True, help="Train, use and inspect tokenizers.")
    group.command("train")(with_settings(TokenizerTrainConfig, presets=False)(train))
    group.command("encode")(with_settings(TokenizerConfig, presets=False)(encode))
    group.command("decode")(with_settings(TokenizerConfig, presets=False)(decode))
    group.command("inspect")(with_settings(TokenizerConfig, presets=False)(inspect))
    app.add_typer(group, name="tokenize")


def train(
    loaded: Loaded[TokenizerTrainConfig],
    inputs: Annotated[list[str], typer.Argument(help="files, directories or globs; - reads standard input")],
    json: JsonOption = False,
) -> None:
    """Train a byte-level BPE tokenizer on text."""
    from vgpt.cli.live import data_bars
    from vgpt.text.bpe import train_bpe
    from vgpt.text.corpus import find_corpus, read_corpus
    from vgpt.text.describe import facts
    from vgpt.text.vocabulary import END_OF_TEXT

    settings = loaded.settings
    bars = data_bars()
    corpus = find_corpus(inputs)
    bars.start("reading", corpus.total_bytes)
    learned: int | None = None

    def progress(count: int, total: int) -> None:
        nonlocal learned
        if learned is None:  # the first call comes when all text has been read
            bars.finish()
            bars.start("training tokenizer", total, "merges")
        bars.advance(count - (learned or 0))
        learned = count

    texts = (piece.text for piece in read_corpus(corpus, text_key=settings.text_key, advance=bars.advance))
    specials = (END_OF_TEXT, *(token for token in settings.special_tokens if token != END_OF_TEXT))
    tokenizer = train_bpe(
        texts, settings.vocab_size, pattern=settings.pattern, special_tokens=specials, progress=progress
    )
    bars.finish()
    settings.out.mkdir(parents=True, exist_ok=True)
    files = tokenizer.save(settings.out)
    if json:
        print_json({**facts(tokenizer), "files": files})
    else:
        rows = [("written", ", ".join(map(str, files))), *facts(tokenizer).items()]
        out().print(key_values("", rows))


def encode(
    loaded: Loaded[TokenizerConfig], text: TextArgument = None, file: FileOption = None, json: JsonOption = False
) -> None:
    """Print the token ids of a text."""
    tokenizer, words = _open(loaded.settings), _read(text, file)
    mention_special(tokenizer, words, allowed=loaded.settings.allow_special)
    ids = tokenizer.encode(words, allow_special=loaded.settings.allow_special)
    if json:
        print_json(ids)
    else:
        print(" ".join(map(str, ids)))


def decode(
    loaded: Loaded[TokenizerConfig],
    ids: Annotated[list[str] | None, typer.Argument(help="token ids; nothing reads them from standard input")] = None,
    json: JsonOption = False,
) -> None:
    """Print the text of token ids."""
    tokenizer = _open(loaded.settings)
    words = " ".join(ids or []) or sys.stdin.read()
    numbers: list[int] = []
    for word in words.replace(",", " ").replace("[", " ").replace("]", " ").split():
        if not word.isdecimal() or int(word) >= tokenizer.vocab_size:
            raise UsageError(f"{word!r} is no token id of {tokenizer.name}: ids are 0 to {tokenizer.vocab_size - 1}")
        numbers.append(int(word))
    if json:
        print_json(tokenizer.decode(numbers))
    else:
        sys.stdout.write(tokenizer.decode(numbers))
        sys.stdout.write("\n" if sys.stdout.isatty() else "")


def inspect(
    loaded: Loaded[TokenizerConfig], text: TextArgument = None, file: FileOption = None, json: JsonOption = False
) -> None:
    """Show a tokenizer's facts, and how it cuts a text where one is given."""
    from vgpt.text.describe import bytes_per_token, facts, text_tokens

    tokenizer = _open(loaded.settings)
    words = _read(text, file) if text is not None or file is not None else ""
    mention_special(tokenizer, words, allowed=loaded.settings.allow_special)
    cut = text_tokens(tokenizer, words, allow_special=loaded.settings.allow_special)
    about = facts(tokenizer) | ({"bytes_per_token": round(bytes_per_token(tokenizer, words), 3)} if words else {})
    if json:
        print_json({**about, "tokens": [{"id": piece.id, "text": piece.text} for piece in cut]})
        return
    out().print(key_values("", about.items()))
    if cut:
        table = Table("id", "text", box=None, padding=(0, 2, 0, 0))
        for piece in cut:
            table.add_row(str(piece.id), escape(piece.text))
        out().print(table)


def _open(settings: TokenizerConfig):  # noqa: ANN202 - the class is imported with tiktoken's helpers, only when used
    from vgpt.text.choose import open_tokenizer

    return open_tokenizer(settings.tokenizer, settings.vocab_dir)


def _read(text: str | None, file: Path | None) -> str:
    if text is not None and text != "-":
        if file is not None:
            raise UsageError("give a text or --file, not both")
        return text
    try:
        return decode_text(file.read_bytes() if file else sys.stdin.buffer.read())
    except OSError as error:
        hint = access_hint(error, "Check the path.")
        raise UsageError(f"--file {file} cannot be read: {error.strerror}", hint) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file or 'standard input'} is no UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
