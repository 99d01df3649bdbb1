"""The `vgpt` command and its subcommands."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vgpt.addresses import masked_text
from vgpt.cli import (
    bench,
    convert,
    evaluate,
    explain,
    interchange,
    new_variant,
    prepare,
    probe,
    runs,
    sample,
    sync,
    tokenize,
    train,
    variants,
    verify,
)
from vgpt.cli.console import make_printable, print_error
from vgpt.cli.plugins import FLAG, check_flags, load_before_building, split_plugins
from vgpt.cli.study import compare, reproduce
from vgpt.cli.switches import plain_switches
from vgpt.errors import UsageError, VgptError
from vgpt.package import VERSION
from vgpt.threads import wait_asleep


class CommandGroup(TyperGroup):
    """A group of commands that turns the errors users can cause into one panel and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, on a terminal that can print all of it."""
        make_printable()
        return super().main(*args, **kwargs)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse without the plug-ins, which are loaded; the fault of one that was asked for comes before all others."""
        fault: UsageError | None = ctx.obj
        if fault is None:
            args = split_plugins(args)[1]
        elif not ctx.resilient_parsing:
            if os.environ.get("VGPT_DEBUG") == "1":
                raise fault
            print_error(fault)
            raise typer.Exit(fault.exit_code)
        if args and (command := self.get_command(ctx, args[0])) is not None:
            args = [args[0], *plain_switches(args[1:], command)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; VGPT_DEBUG=1 lets tracebacks through."""
        try:
            _stand_somewhere()
            return super().invoke(ctx)
        except _CommandLineError as error:
            error.message = masked_text(error.message)  # it repeats what was typed, which may be an address
            raise
        except VgptError as error:
            if os.environ.get("VGPT_DEBUG") == "1":
                raise
            print_error(error)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            # The reader of a pipe went away (`vgpt ... | head`): no error of ours, but nothing may be flushed again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            if os.environ.get("VGPT_DEBUG") == "1":
                raise
            where = f"{error.filename}: " if error.filename else ""
            print_error(VgptError(f"{where}{error.strerror or error}", "Check the path, its permissions and the disk."))
            raise typer.Exit(1) from error


def _stand_somewhere() -> None:
    """Refuse to work in a directory that is gone: every relative path would fail with a message of its own."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            "the working directory is gone: it was removed or moved", 'Go to one that is there: cd "$HOME"'
        ) from error


_CommandLineError: Any = typer.BadParameter.__mro__[1]
"""What the parser raises: of the Click that Typer brings with it, or of the installed one."""


def _version(value: bool) -> None:
    if value:
        print(f"vgpt {VERSION}")
        raise typer.Exit


def _vgpt(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            FLAG, metavar="file.py|module", help="load third-party variants and tasks; also after the command"
        ),
    ] = None,
) -> None:
    """A laboratory for attention: GPT-2 models that differ in their attention and in nothing else."""


def build_app(words: Sequence[str] = ()) -> typer.Typer:
    """Return the application with every subcommand.

    Args:
        words: the command line that it is for; the plug-ins named there are loaded first, so that their flags appear.
    """
    fault = load_before_building(words, lambda: check_flags(typer.main.get_command(_assemble())))
    return _assemble(fault)


def _assemble(fault: UsageError | None = None) -> typer.Typer:
    app = typer.Typer(
        name="vgpt",
        cls=CommandGroup,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        # --kv_lora_rank is --kv-lora-rank
        context_settings={
            "help_option_names": ["-h", "--help"],
            "token_normalize_func": lambda word: word.replace("_", "-"),
            "obj": fault,
        },
    )
    app.callback()(_vgpt)
    running = (prepare, train, compare, reproduce, evaluate, sample, convert, runs, sync)
    for module in (*running, interchange, variants, explain, verify, new_variant, bench, probe, tokenize):
        module.add_to(app)
    return app


def main() -> None:
    """Run the command line."""
    wait_asleep()  # before anything, a plug-in say, imports torch
    make_printable()
    build_app(sys.argv[1:])()
