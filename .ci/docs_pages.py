"""Pages of the site that are made, not written: a hook of mkdocs.

- README.md, ARCHITECTURE.md and their like stand in the repository's root and are pages of the site all the same. Links
  are turned to where their targets stand there; a file that is no page is named instead of linked.
- The references of commands and settings are read from the command line's own parser and from the settings classes.
- The page of the API lists what `vgpt` and `vgpt.attention` offer.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "presets/README.md": "results.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""File in the repository -> page of the site."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
PLUGINS = "plugins.md"
API = {
    "Comparing": ["vgpt.api.comparing.compare"],  # `vgpt.compare` is the room of this name, which can be called
    "Attention: the contract": [
        "vgpt.attention.config.Shape",
        "vgpt.attention.config.AttentionConfig",
        "vgpt.attention.config.SoftmaxConfig",
        "vgpt.attention.config.Flops",
        "vgpt.attention.config.CacheCost",
        "vgpt.attention.registry.register_attention",
        "vgpt.attention.base.CausalSelfAttention",
        "vgpt.attention.build.build_attention",
        "vgpt.attention.cache.Cache",
        "vgpt.attention.cache.TokenCache",
        "vgpt.conformance.kit.check_variant",
    ],
    "Tasks": [
        "vgpt.evaluation.tasks.base.Task",
        "vgpt.evaluation.tasks.base.Drawn",
        "vgpt.evaluation.tasks.base.Batch",
        "vgpt.evaluation.tasks.base.Score",
        "vgpt.evaluation.tasks.base.Control",
        "vgpt.evaluation.tasks.base.Point",
        "vgpt.evaluation.tasks.draws.Draws",
        "vgpt.evaluation.tasks.registry.register_task",
        "vgpt.evaluation.tasks.registry.resolve_task",
    ],
    "Models, data and runs": [
        "vgpt.model.gpt2.GPT2Model",
        "vgpt.model.costs",
        "vgpt.model.generation.generate",
        "vgpt.data.dataset.open_dataset",
        "vgpt.data.batches.BatchSource",
        "vgpt.evaluation.loss.Evaluator",
        "vgpt.training.run.train_run",
        "vgpt.training.checkpoints.checkpoint.find_checkpoint",
    ],
}
"""What the page of the API describes beside the names that the packages themselves export."""


def relinked(text: str, source: str, page: str) -> tuple[str, dict[str, str]]:
    """Turn the relative links of a document to the pages of the site.

    Args:
        text: the document.
        source: its file, seen from the repository's root.
        page: its page, seen from the site's.

    Returns:
        The text, and the pictures that it shows: file in the repository -> file of the site.
    """
    pictures: dict[str, str] = {}

    def turned(link: re.Match[str]) -> str:
        mark, words, where, anchor = link[1], link[2], link[3], link[4] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), where))
        if target in PAGES:
            place = PAGES[target]
        elif target.startswith("docs/") and (ROOT / target).is_file():
            place = target.removeprefix("docs/")
        elif target.startswith("docs/reference/"):
            place = target.removeprefix("docs/")  # made below; mkdocs says so where it is not
        elif mark:
            place = pictures[target] = f"pictures/{posixpath.basename(target)}"
        else:
            return words if "`" in words or words == where else f"{words} (`{target}`)"
        return f"{mark}[{words}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(turned, text), pictures


def cell(text: Any) -> str:
    """Write a text so that it stays in one cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """Write a text as code in a cell, where a bar ends no cell; nothing where there is none."""
    words = " ".join(text.split())
    return f"`{words}`" if words else ""


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def commands() -> Iterator[str]:
    """Yield the page of all commands, as their parser knows them."""
    from typer.main import get_command

    from vgpt.cli.app import build_app

    yield "# Commands"
    yield ""
    yield "Every command and every flag, read from the parser. Underscores serve as well as hyphens (`--n_kv_head`)."
    yield "What the settings among the flags mean together stands in the [reference of settings](settings.md)."
    yield ""
    for name, command in get_command(build_app()).commands.items():
        yield from one_command(f"vgpt {name}", command)


def one_command(name: str, command: Any) -> Iterator[str]:
    """Yield the section of one command, and of those under it."""
    yield f"## {name}"
    yield ""
    yield (command.help or "").strip()
    yield ""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = " ".join(p.metavar or p.name.upper() for p in arguments)
    yield from ["```text", " ".join([name, "[OPTIONS]", words]).strip(), "```", ""]
    if arguments:
        yield from table(
            ["argument", "what it is"], [[code(p.metavar or p.name), cell(p.help or "")] for p in arguments]
        )
    panels: dict[str, list[Any]] = {}
    for option in command.params:
        if option.param_type_name == "option" and not option.hidden:
            panels.setdefault(getattr(option, "rich_help_panel", None) or "Options", []).append(option)
    for panel, options in panels.items():
        yield f"**{panel}**"
        yield ""
        yield from table(["flag", "takes", "default", "what it is"], [list(option_row(option)) for option in options])
    for below, one in getattr(command, "commands", {}).items():
        yield from one_command(f"{name} {below}", one)


def option_row(option: Any) -> Iterator[str]:
    """Yield the cells of one flag."""
    yield ", ".join(code(word) for word in [*option.opts, *option.secondary_opts])
    yield "" if option.is_flag else code(option.metavar or "value")
    yield "" if option.default in (None, False, "") or callable(option.default) else code(str(option.default))
    yield cell((option.help or "").replace("\\[", "["))


def settings() -> Iterator[str]:
    """Yield the page of all settings, as the settings classes state them."""
    from vgpt.attention.registry import variants
    from vgpt.settings.bench import BenchConfig
    from vgpt.settings.commands import EvalConfig, PrepareConfig, SampleConfig
    from vgpt.settings.compare import CompareConfig
    from vgpt.settings.fields import format_value, leaves
    from vgpt.settings.train import TrainConfig

    yield "# Settings"
    yield ""
    yield "Every setting with its flag, its default and its place in a preset. The environment variable of"
    yield "`--n-kv-head` is `VGPT_N_KV_HEAD`. Which source wins stands in [settings and presets](../settings.md)."
    yield ""
    head = ["flag", "takes", "default", "key", "what it is"]
    known: set[str] = set()
    of_commands = {
        "A run": TrainConfig,
        "Preparing data": PrepareConfig,
        "A comparison": CompareConfig,
        "A bench": BenchConfig,
        "An evaluation": EvalConfig,
        "Sampling": SampleConfig,
    }
    for title, model in of_commands.items():
        yield f"## {title}"
        yield ""
        panels: dict[str, list[list[str]]] = {}
        for name, leaf in leaves(model).items():
            if name in known or leaf.hidden or leaf.variants:
                continue
            known.add(name)
            default, path = format_value(leaf.default), ".".join(leaf.path)
            row = [code(leaf.flag), code("" if leaf.is_bool else leaf.metavar()), code(default), code(path)]
            panels.setdefault(leaf.panel, []).append([*row, cell(leaf.help)])
        for panel, rows in panels.items():
            yield f"### {panel}"
            yield ""
            yield from table(head, rows)
    yield "## The variants' own"
    yield ""
    for kind, config in variants().items():
        if config.model_fields:
            yield f"### {kind}"
            yield ""
            rows = [
                [code(f"--{name.replace('_', '-')}"), code(format_value(info.default)), cell(info.description or "")]
                for name, info in config.model_fields.items()
            ]
            yield from table(["flag", "default", "what it is"], rows)


def api() -> Iterator[str]:
    """Yield the page of the API: what the packages export, then the rest of what a program may build on."""
    import vgpt
    from vgpt import attention

    yield "# API"
    yield ""
    yield "What a program or a plug-in may build on. Shapes: B batch, T tokens, C width of the residual stream, H query"
    yield "heads, G key/value heads, D head width."
    yield ""
    seen: set[str] = set()
    exported = {"import vgpt": names_of(vgpt), "from vgpt.attention import ...": names_of(attention)}
    for title, names in {**exported, **API}.items():
        new = [name for name in names if name not in seen]
        seen.update(new)
        if new:
            yield from [f"## {title}", ""]
            for name in new:
                yield from [f"::: {name}", ""]


def names_of(package: Any) -> list[str]:
    """Return where the functions and classes that a package exports are defined."""
    found = [getattr(package, name) for name in getattr(package, "__all__", [])]
    return [f"{one.__module__}.{one.__qualname__}" for one in found if hasattr(one, "__qualname__")]


def on_config(config: Any) -> Any:
    """Show the guide of plug-ins among the guides, where there is one."""
    for section in config.nav:
        if "Guides" in section and (Path(config.docs_dir) / PLUGINS).is_file():
            section["Guides"].append({"Plug-ins": PLUGINS})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    pictures: dict[str, str] = {}
    for source, page in PAGES.items():
        text, shown = relinked((ROOT / source).read_text(encoding="utf-8"), source, page)
        pictures |= shown
        files.append(File.generated(config, page, content=text))
    for source in Path(config.docs_dir).glob("*.md"):
        pictures |= relinked(source.read_text(encoding="utf-8"), f"docs/{source.name}", source.name)[1]
    for source, place in pictures.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for name, lines in {"commands": commands, "settings": settings, "api": api}.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines()) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a page that is written in docs/."""
    if page.file.generated_by is not None:
        return markdown
    return relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)[0]
