"""`vgpt verify`: proof that attention variants keep their contract."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from vgpt.attention.config import ModelAttention, Shape
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.stamps import FILE, distinct_layers, write_stamps
from vgpt.cli.console import notify, out, print_json, warn
from vgpt.cli.options import JsonOption, print_settings, variant_argument, with_settings
from vgpt.errors import SettingsError, UsageError
from vgpt.package import VERSION
from vgpt.settings.commands import BACKBONE, VerifyConfig
from vgpt.settings.fields import leaves
from vgpt.settings.loader import Loaded, Sources, given_value, load_settings

if TYPE_CHECKING:
    from vgpt.conformance.kit import Check, Result

BASE = "mha"
"""The variant that fits every backbone: what is wrong with it is wrong with the backbone."""

_LAYERS = 256
"""Layers among which the distinct ones of a mix are looked for."""

_NO_REFERENCE = (
    "[dim]no reference given: a scale, or an order of heads, that is wrong in the same way everywhere goes unseen; "
    "--oracle mha compares with a named variant[/dim]"
)


@dataclass(frozen=True)
class _Plan:
    """What is to be checked of one word of the command line."""

    config: ModelAttention
    checks: "list[Check]"

    @property
    def backbone(self) -> Shape:
        """The backbone of all checks."""
        return self.checks[0].shape

    @property
    def lengths(self) -> str:
        """One line on where the checks look."""
        from vgpt.conformance.kit import lengths_checked

        return lengths_checked(self.checks)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("verify")(with_settings(VerifyConfig, variant="names")(verify))


def verify(
    sources: Sources,
    show_settings: bool,
    names: Annotated[
        list[str],
        variant_argument("what --attn takes: gqa, gqa:n_kv_head=4, also a plug-in's"),
    ],
    json: JsonOption = False,
) -> None:
    """Prove that attention variants keep their contract: who sees whom, decoding, cache, costs, gradients, precision.

    On a small backbone with every position and switch; with --preset or settings of a model, on that backbone.

    What passes all checks is recorded in verified.json beside the runs. Ends with exit code 1 where a check fails.
    """
    from vgpt.training.hardware.threads import use_threads

    of_variants = {leaf.name for leaf in leaves(VerifyConfig).values() if leaf.variants}
    of_all = {name: value for name, value in sources.command_line.items() if name not in of_variants}
    loaded = _loaded(replace(sources, command_line=of_all), BASE)
    for note in loaded.notes:
        warn(note)
    if show_settings:
        print_settings(loaded, as_json=json)
    settings = loaded.settings
    use_threads(settings.threads)
    # All words are understood before the first check runs.
    plans = {name: _plan(name, settings, sources) for name in names}
    results: dict[str, list[Result]] = {}
    for name, plan in plans.items():
        results[name] = _results(name, plan.checks)
        if not json:
            out().print(_table(name, results[name]), soft_wrap=False)
            out().print(f"[dim]{escape(_where(plan))}[/dim]")
    failed = {name: checks for name, found in results.items() if (checks := _failed(found))}
    passed = [plans[name] for name in names if name not in failed]
    stamped = None if settings.checks else _stamp(passed, settings)
    if json:
        told = [_as_json(name, plans[name], found) for name, found in results.items()]
        print_json({"passed": not failed, "stamped": stamped, "oracle": settings.oracle, "variants": told})
    else:
        out().print(_summary(results, failed))
        if settings.oracle is None and not settings.checks:
            out().print(_NO_REFERENCE)
    if failed:
        raise typer.Exit(1)


def _loaded(sources: Sources, name: str) -> Loaded[VerifyConfig]:
    """Load the settings with one variant in the model."""
    return load_settings(VerifyConfig, replace(sources, command_line={**sources.command_line, "attn": name}))


def _plan(name: str, settings: VerifyConfig, sources: Sources) -> _Plan:
    from vgpt.conformance.kit import checks_of

    options: dict[str, Any] = {"seed": settings.seed, "device": settings.device, "only": settings.checks}
    if settings.oracle is not None:
        options["oracle"] = _resolved(settings.oracle)
    if not any(given_value(VerifyConfig, sources, word) is not None for word in BACKBONE):
        _refuse_settings_of_variants(sources)
        config = _resolved(name)
        return _Plan(config, checks_of(config, **options))
    model = _loaded(sources, name).settings.model
    return _Plan(model.attn, checks_of(model.attn, model.shape, alone=True, **options))


def _refuse_settings_of_variants(sources: Sources) -> None:
    """Refuse the flags of variants, which only a model's settings take in: without one they would do nothing."""
    for leaf in leaves(VerifyConfig).values():
        if leaf.variants and leaf.name in sources.command_line:
            word = f"{next(iter(leaf.variants))}:{leaf.name}={sources.command_line[leaf.name]}"
            raise UsageError(f"{leaf.flag} is not read without a model: write it with the variant", f"As in {word}.")


def _where(plan: _Plan) -> str:
    backbone = plan.backbone
    return f"n_embd {backbone.n_embd}, n_head {backbone.n_head}, block_size {backbone.block_size:,}: {plan.lengths}"


def _stamp(passed: Sequence[_Plan], settings: VerifyConfig) -> str | None:
    """Record the variants that passed everything; a directory that cannot be written costs only that."""
    from torch import __version__ as torch_version

    written: str | None = None
    for plan in passed:
        about = {
            "vgpt": VERSION,
            "torch": str(torch_version),
            "python": platform.python_version(),
            "device": settings.device,
            "seed": settings.seed,
            "oracle": settings.oracle,
            "trunk": asdict(plan.backbone),
            "probed": plan.lengths,
            "checks": list(dict.fromkeys(check.name for check in plan.checks)),
        }
        try:
            written = str(write_stamps(settings.runs_dir, distinct_layers(plan.config, _LAYERS), about, warn))
        except OSError as error:
            warn(f"the pass is NOT recorded in {settings.runs_dir / FILE}: {error.strerror or error}")
            return None
    if written is not None:
        notify(f"recorded: {written}")
    return written


def _resolved(name: str) -> ModelAttention:
    try:
        return resolve_attention(name)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise SettingsError([f"{name}: {fault}" for fault in faults]) from error


def _results(name: str, checks: "Sequence[Check]") -> "list[Result]":
    from vgpt.cli.live import data_bars

    bars = data_bars()
    bars.start(name, len(checks), "checks")
    results: list[Result] = []
    try:
        for check in checks:
            results.append(check.run())
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


def _as_json(name: str, plan: _Plan, results: Sequence["Result"]) -> dict[str, object]:
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
    return {
        "variant": name,
        "passed": all(result.passed for result in results),
        "trunk": asdict(plan.backbone),
        "probed": plan.lengths,
        "checks": checks,
    }
