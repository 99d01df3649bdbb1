"""`vgpt verify`: proof that attention variants keep their contract."""

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from vgpt.attention.config import AttentionConfig
from vgpt.attention.registry import resolve_attention, variants
from vgpt.cli.console import out, print_json
from vgpt.cli.options import JsonOption, with_settings
from vgpt.errors import SettingsError
from vgpt.settings.loader import Loaded
from vgpt.settings.verify import VerifyConfig

if TYPE_CHECKING:
    from vgpt.attention.conformance.kit import Result, Step


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("verify")(with_settings(VerifyConfig, presets=False)(verify))


def verify(
    loaded: Loaded[VerifyConfig],
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="VARIANT",
            help="what --attn takes: gqa, gqa:n_kv_head=4, also a plug-in's",
            autocompletion=lambda: list(variants()),
        ),
    ],
    json: JsonOption = False,
) -> None:
    """Prove that attention variants keep their contract: who sees whom, decoding, cache, costs, gradients, precision.

    Ends with exit code 1 where a check fails.
    """
    from vgpt.attention.conformance.kit import steps
    from vgpt.training.threads import use_threads

    settings = loaded.settings
    use_threads(settings.threads)
    # All words are understood before the first check runs.
    plans = {
        name: steps(_resolved(name), seed=settings.seed, device=settings.device, only=settings.checks) for name in names
    }
    results: dict[str, list[Result]] = {}
    for name, plan in plans.items():
        results[name] = _checked(name, plan)
        if not json:
            out().print(_table(name, results[name]), soft_wrap=False)
    failed = {name: checks for name, found in results.items() if (checks := _failed(found))}
    if json:
        print_json({"passed": not failed, "variants": [_as_json(name, found) for name, found in results.items()]})
    else:
        out().print(_summary(results, failed))
    if failed:
        raise typer.Exit(1)


def _resolved(name: str) -> AttentionConfig:
    try:
        return resolve_attention(name)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise SettingsError([f"{name}: {fault}" for fault in faults]) from error


def _checked(name: str, plan: "Sequence[Step]") -> "list[Result]":
    from vgpt.cli.live import data_bars

    bars = data_bars()
    bars.start(name, len(plan), "checks")
    results: list[Result] = []
    try:
        for step in plan:
            results.append(step.run())
            bars.advance(1)
    finally:
        bars.finish()
    return results


def _table(name: str, results: Sequence["Result"]) -> Table:
    table = Table(title=escape(name), title_justify="left", title_style="bold", box=SIMPLE_HEAD, expand=False)
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("what holds, or what is wrong", ratio=1)
    subject = name
    for result in results:
        if result.subject != subject:
            subject = result.subject
            table.add_section()
            table.add_row("", f"[dim]{escape(subject)}[/dim]")
        table.add_row(
            "[green]✓[/green]" if result.passed else "[red]✗[/red]",
            result.check.replace("_", " "),
            f"{result.measured:.2g}",
            f"{result.limit:.2g}",
            escape(result.detail),
            style="" if result.passed else "bold",
        )
    return table


def _failed(results: Sequence["Result"]) -> list[str]:
    return list(dict.fromkeys(result.check.replace("_", " ") for result in results if not result.passed))


def _summary(results: "dict[str, list[Result]]", failed: dict[str, list[str]]) -> str:
    checks = sum(map(len, results.values()))
    if not failed:
        return f"[green]✓[/green] {escape(', '.join(results))}: all {checks} checks passed"
    faults = "; ".join(f"{name} fails {', '.join(checks)}" for name, checks in failed.items())
    return f"[red]✗[/red] {len(failed)} of {len(results)} variants break the contract: {escape(faults)}"


def _as_json(name: str, results: Sequence["Result"]) -> dict[str, object]:
    checks = [
        {
            "check": result.check,
            "subject": result.subject,
            "passed": result.passed,
            "measured": result.measured if isfinite(result.measured) else None,
            "limit": result.limit,
            "detail": result.detail,
        }
        for result in results
    ]
    return {"variant": name, "passed": all(result.passed for result in results), "checks": checks}
