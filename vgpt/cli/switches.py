"""Switches written with a value, as other programs take them: `--bias=false` is `--no-bias`."""

from collections.abc import Sequence
from typing import Any

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}


def plain_switches(words: Sequence[str], command: Any) -> list[str]:
    """Return a command's words with each switch as it is declared.

    After `=` any usual word for yes or no is understood; as a word of its own only `true` and `false`, which are no
    names of runs or files that anybody would mean.
    """
    positive = {word: option for option in command.params for word in option.opts if _is_switch(option)}
    negative = {word: option for option in command.params for word in option.secondary_opts if _is_switch(option)}
    found: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            return [*found, word, *left]
        name, equals, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        option = positive.get(name) or negative.get(name)
        if option is None:
            found.append(word)
            continue
        if not equals and left and left[0].lower() in ("true", "false"):
            equals, value = "=", left.pop(0)
        asked = _meaning(value) if equals else True
        if asked is None:
            found.append(word)
        elif asked:
            found.append(name)
        elif option.secondary_opts:
            found.append(option.opts[0] if name in negative else option.secondary_opts[0])
    return found


def _is_switch(option: Any) -> bool:
    return bool(getattr(option, "is_flag", False)) and any(word.startswith("--") for word in option.opts)


def _meaning(value: str) -> bool | None:
    word = value.lower()
    return True if word in _TRUE else False if word in _FALSE else None
