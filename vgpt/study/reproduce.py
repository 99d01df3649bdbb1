"""The commands that would make a comparison and its runs again, from what the runs record."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from vgpt.addresses import without_credentials
from vgpt.compare.audit.conditions import BACKEND
from vgpt.compare.request import Request
from vgpt.errors import VgptError
from vgpt.settings.compare import CompareConfig
from vgpt.settings.fields import Leaf, command_words, format_value, leaves
from vgpt.settings.loader import Sources, load_settings
from vgpt.settings.train import TrainConfig
from vgpt.study.study import Study
from vgpt.tracking.run_info import RunInfo

_SECTIONS = ("model", "train", "system", "workers")
_NOT_OF_THE_RUN = ("node_rank", "rdzv_endpoint", "collective_timeout", "retries")


@dataclass(frozen=True)
class Reproduction:
    """How to train a run again.

    Attributes:
        command: for a shell, without credentials.
        exact: whether the settings of the command, as this version reads them, have the hash that the run recorded.
    """

    command: str
    exact: bool


def reproduction(run: RunInfo) -> Reproduction:
    """Return the command that trains a recorded run again: its data, and all its settings that are not defaults."""
    attn = run.attention_label
    known = {name: leaf for name, leaf in leaves(TrainConfig).items() if matters(leaf)}
    recorded = {name: run.params[name] for name in known if name in run.params}
    if run.attention_backend != "table":  # what `auto` came to, and may not elsewhere
        recorded[BACKEND] = run.attention_backend
    plain = {name: format_value(leaf.default) for name, leaf in known.items()}
    given = {name: value for name, value in recorded.items() if name == "data" or value != plain[name]}
    command = shlex.join(["vgpt", "train", *map(without_credentials, ["--attn", attn, *command_words(known, given)])])
    try:
        again = load_settings(TrainConfig, Sources(command_line={**given, "attn": attn})).settings
        exact = run.settings_hash in (again.settings_hash, again.spelled_hash)
    except VgptError:
        exact = False
    return Reproduction(command, exact)


def compare_command(request: Request) -> str:
    """Return the command of a comparison, for a shell, without credentials."""
    return _command(
        [selector.text if selector.run_name else selector.attn for selector in request.selectors], request.sources
    )


def study_command(study: Study) -> str:
    """Return the command of a study: that of its file, lists of values or staircase, or of its only comparison."""
    as_typed = study.divided or study.parts[0].staircase is not None
    return _command(study.words, study.sources) if as_typed else compare_command(study.first)


def _command(selectors: Sequence[str], sources: Sources) -> str:
    words = ["vgpt", "compare", *selectors]
    if sources.preset is not None:
        words += ["--preset", sources.preset.name]
    words += command_words(leaves(CompareConfig), sources.command_line)
    return shlex.join(map(without_credentials, words))


def matters(leaf: Leaf) -> bool:
    """Tell whether a setting is needed to train a run again; names, places of records and variants are told apart."""
    if leaf.path[0] not in _SECTIONS or leaf.is_attention or leaf.variants:
        return False
    return leaf.name not in _NOT_OF_THE_RUN
