"""Other open sets that plug-ins add to, such as tasks: undone with the variants where a plug-in fails.

They live in rooms further up, which nothing here imports: a registry says of itself that it is there, once it is
imported, which may be by the very plug-in that is being loaded.
"""

from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol


class Registry(Protocol):
    """What is asked of an open set.

    Attributes:
        word: what a member is called: "task".
    """

    word: str

    def members(self) -> Mapping[str, type]:
        """Return those members by name that are not vgpt's own."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Undo every registration of the block where it raises."""
        ...

    def check(self, name: str) -> None:
        """Raise where a member cannot be used by its name alone."""
        ...


_registries: list[Registry] = []
_loading: list[ExitStack] = []


def follow(registry: Registry) -> None:
    """Undo what plug-ins that fail have registered there too, also the one that is being loaded."""
    _registries.append(registry)
    for stack in _loading:
        stack.enter_context(registry.transaction())


@contextmanager
def undoing() -> Generator[None]:
    """Undo every registration of the block in every other registry where it raises."""
    with ExitStack() as stack:
        for registry in _registries:
            stack.enter_context(registry.transaction())
        _loading.append(stack)
        try:
            yield
        finally:
            _loading.remove(stack)


def members() -> dict[tuple[str, str], type]:
    """Return every foreign member by (word, name)."""
    return {(registry.word, name): kind for registry in _registries for name, kind in registry.members().items()}


def check_members(keys: Iterable[tuple[str, str]]) -> None:
    """Raise where one of these members cannot be used by its name alone."""
    for word, name in keys:
        for registry in _registries:
            if registry.word == word:
                registry.check(name)
