"""Text to token files, by a function: what `vgpt prepare` does."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgpt.api.display import DataLine, facts_html
from vgpt.api.settings import for_users, settings_of, warn
from vgpt.formatting import counted
from vgpt.settings.commands import PrepareConfig

if TYPE_CHECKING:
    import pandas as pd

    from vgpt.data.manifest import Manifest
    from vgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prepared:
    """A prepared directory: what `train(data=...)` takes.

    Attributes:
        directory: where it lies.
        manifest: what is in it: tokenizer, counts, digests.
    """

    directory: Path
    manifest: "Manifest"

    def tokenizer(self) -> "Tokenizer":
        """Load its tokenizer."""
        from vgpt.text.tokenizer import Tokenizer

        return Tokenizer.load(self.directory)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per split: tokens, bytes and documents."""
        import pandas as pd

        return pd.DataFrame.from_dict(self._splits(), orient="index").rename_axis("split")

    def _splits(self) -> dict[str, dict[str, int]]:
        found = self.manifest.splits.items()
        return {name: {"tokens": one.tokens, "bytes": one.bytes, "documents": one.documents} for name, one in found}

    def __fspath__(self) -> str:
        return str(self.directory)

    def _repr_html_(self) -> str:
        facts = [
            ("directory", str(self.directory)),
            ("tokenizer", f"{self.manifest.tokenizer_name}, {self.manifest.vocab_size:,} tokens"),
        ]
        for name, one in self.manifest.splits.items():
            facts.append((name, f"{one.tokens:,} tokens of {one.bytes:,} bytes, {counted(one.documents, 'document')}"))
        return facts_html("Prepared data", facts)


@for_users
def prepare(*inputs: str | Path, quiet: bool = False, **settings: Any) -> Prepared:
    """Turn text into a tokenizer and token files to train on: `vgpt prepare`.

    Args:
        inputs: files, directories or globs; "demo" is built in.
        quiet: show no progress.
        settings: what the flags of `vgpt prepare` are called: `vocab_size=1024`, `out="data/play"`.

    Raises:
        SettingsError: unknown or wrong settings.
        DataError, TokenizerError: the text cannot be read, or is too little.
    """
    from vgpt.data.prepare import prepare as run
    from vgpt.settings.prepared import remember_prepared

    config = settings_of(PrepareConfig, settings).settings
    manifest = run([str(one) for one in inputs], config, DataLine(quiet=quiet), warn)
    try:
        remember_prepared(config.out)
    except OSError as error:
        warn(f"this directory does not remember the data ({error.strerror or error}): name it by data=")
    return Prepared(config.out, manifest)
