"""`vgpt compare --require`: what a script requires of a comparison, a sentence for each, and the exit code."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vgpt.cli.console import notify

# What reads and compares takes a third of a second to import, which --help is spared.
if TYPE_CHECKING:
    from vgpt.study.study import Answered, Study

RequireOption = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="CLAIM",
        help="end with code 0 if a claim is shown, 10 if it is refuted, 11 if neither; takes no seeds of yours: "
        "'mla no-worse-than 0.01', 'mla equal-within 0.5%', 'mla better-than 0'; may be repeated",
    ),
]


def end_as_required(study: "Study", answers: Sequence["Answered"]) -> None:
    """Say of every requirement what became of it, and end the command with the code of the worst.

    Raises:
        typer.Exit: one is not shown.
    """
    from vgpt.study.requirements import exit_code, judgments

    found = judgments(study, answers)
    for one in found:
        notify(one.sentence)
    if code := exit_code(found):
        raise typer.Exit(code)
