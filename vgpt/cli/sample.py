"""`vgpt sample`: text from a trained model, streamed, through its attention's own cache."""

import codecs
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgpt.api.sampling import spelled
from vgpt.cli.console import mention_special, notify, print_json, warn
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import UsageError
from vgpt.files.paths import access_hint
from vgpt.files.text import decode_text
from vgpt.settings.commands import SampleConfig
from vgpt.settings.loader import Loaded

if TYPE_CHECKING:
    from vgpt.text.tokenizer import Tokenizer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("sample")(with_settings(SampleConfig, presets=False)(sample))


def sample(
    loaded: Loaded[SampleConfig],
    run: Annotated[
        str | None, typer.Argument(help="run name, run directory or checkpoint directory; none = finished last")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Generate text with a trained model."""
    settings = loaded.settings
    prompt = read_prompt(settings)

    from vgpt.api.found import chosen_run
    from vgpt.api.sampling import sample_run

    run = chosen_run(run, settings.runs_dir, notify)

    def printer(tokenizer: "Tokenizer", first: int) -> Printer:
        if first == 0:
            mention_special(tokenizer, prompt, allowed=settings.allow_special)
        return Printer(tokenizer, prompt, first, settings.num_samples, silent=json)

    made = sample_run(run, settings, prompt, printer)
    for note in made.notes:
        warn(note)
    if json:
        samples = [
            {"text": text, "tokens": len(ids), "ids": list(ids), "end_of_text": ended}
            for text, ids, ended in zip(made.texts, made.ids, made.ended, strict=True)
        ]
        print_json(
            {
                "run": run,
                "checkpoint": made.checkpoint,
                "step": made.step,
                "prompt": prompt,
                "samples": samples,
                "seed": made.seed,
                **made.total.table(),
                "device": made.device,
                "dtype": made.dtype,
                "notes": list(made.notes),
            }
        )
    notify(made.total.line(settings.cache, f"{made.dtype} on {made.device_type}"))


def read_prompt(settings: SampleConfig) -> str:
    """Return the prompt, or an empty text where none is given.

    Raises:
        UsageError: the prompt's file cannot be read or is no UTF-8 text.
    """
    place = settings.prompt_file
    if place is None:
        return settings.prompt or ""
    name = "stdin" if place == Path("-") else str(place)
    try:
        return decode_text(sys.stdin.buffer.read() if name == "stdin" else place.read_bytes())
    except OSError as error:
        raise UsageError(
            f"--prompt-file {name} cannot be read: {error.strerror}", access_hint(error, "Check the path.")
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--prompt-file {name} is no UTF-8 text: byte {error.start:,} cannot be read", "Convert it to UTF-8 first."
        ) from error


class Printer:
    """Prints a batch of samples: the first as it is made, the others when their turn comes.

    Args:
        tokenizer: turns tokens into bytes.
        prompt: printed before each sample's text.
        first: number of the first sample of this batch.
        total: samples of the whole command; one alone gets no heading.
        silent: print nothing.
    """

    def __init__(self, tokenizer: "Tokenizer", prompt: str, first: int, total: int, *, silent: bool) -> None:
        self._tokenizer, self._prompt, self._first, self._total, self._silent = tokenizer, prompt, first, total, silent
        self._guarded = sys.stdout.isatty()
        # A character may be spread over several tokens; it is held back until its last byte is there.
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._begin(0)

    def take(self, row: int, token: int) -> None:
        """Print a token of the first sample."""
        if row == 0:
            self._write(self._characters.decode(spelled(self._tokenizer, [token])))

    def finish(self, tokens: list[list[int]]) -> None:
        """End the first sample and print the others."""
        self._write(self._characters.decode(b"", final=True) + "\n")
        for row, text in enumerate(tokens[1:], start=1):
            self._begin(row)
            self._write(spelled(self._tokenizer, text).decode(errors="replace") + "\n")

    def _begin(self, row: int) -> None:
        if self._total > 1:
            self._write(f"--- sample {self._first + row + 1} of {self._total} ---\n")
        self._write(self._prompt)

    def _write(self, text: str) -> None:
        if self._silent or not text:
            return
        text = visible(text) if self._guarded else text
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
        sys.stdout.flush()


def visible(text: str) -> str:
    r"""Return the text with control characters spelled out (\x1b), so that a model cannot command the terminal.

    Line breaks and tabs stay; so do characters that only change the direction of writing, which every text may hold.
    """
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)
