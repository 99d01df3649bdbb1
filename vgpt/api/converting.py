"""A trained run with another attention: what `vgpt convert` does."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgpt.api.display import DataLine, facts_html, with_error
from vgpt.api.runs import Run, load, place_of, train
from vgpt.api.settings import for_users, settings_of
from vgpt.errors import UsageError
from vgpt.settings.interchange import ConvertConfig

if TYPE_CHECKING:
    from vgpt.interchange.convert import Conversion

BIASED = (
    "a converted run is a biased proxy for training from scratch: its weights were learned with another attention "
    "(Ainslie et al. 2023, arXiv 2305.13245)"
)


@dataclass(frozen=True)
class Converted:
    """A run that starts from a trained one's weights with another attention.

    Attributes:
        name: of the new run.
        directory: where it lies, at step 0.
        attention: its variant, as `--attn` takes it.
        source: name of the run that its weights are from.
        loss_before: validation loss of the source, nats per token.
        loss_after: of the converted weights, on the same windows.
        notes: what the map of weights lost, changed or added.
    """

    name: str
    directory: Path
    attention: str
    source: str
    loss_before: float
    loss_after: float
    notes: tuple[str, ...]
    found: "Conversion" = field(repr=False)

    def run(self) -> Run:
        """Return it as a run, to be evaluated and sampled."""
        return load(self.directory)

    def train(self, *, quiet: bool = False, **settings: Any) -> Run:
        """Train it on, or continue that.

        Args:
            quiet: show no progress.
            settings: as for `vgpt.train`; by default a twentieth of the source's steps at the rate of its end.
        """
        from vgpt.interchange.convert import settings_to_train_on

        return train(quiet=quiet, **{**settings_to_train_on(self.found.config), **settings})

    def _repr_html_(self) -> str:
        before, after = self.found.before, self.found.after
        facts = [
            ("attention", self.attention),
            ("source", f"{self.source}, {self.found.origin.attn}"),
            *(("map", note) for note in self.notes),
            ("loss before", with_error(before.loss, before.loss_se)),
            ("loss after", with_error(after.loss, after.loss_se)),
            ("directory", self.directory),
        ]
        return facts_html(f"Run {self.name}, converted", facts)


@for_users
def convert(run: Run | str | Path | None = None, *, quiet: bool = False, **settings: Any) -> Converted:
    """Make a run that starts from a trained one's weights with another attention, to be trained on: `vgpt convert`.

    A converted run is a biased proxy for training from scratch: its weights were learned with another attention.

    Args:
        run: the run: what `train` or `load` returned, a name, a directory; None = the one that finished last.
        quiet: show no progress.
        settings: what the flags of `vgpt convert` are called: `attn="gqa:n_kv_head=2"`, `run_name="pooled"`.

    Raises:
        SettingsError: unknown or wrong settings, or an attention that does not fit the model.
        UsageError: no attention is named, no map of weights is known, or the name is taken.
        CheckpointError: no such run, or a damaged one.
        DataError: its data is gone, or was made with another tokenizer.
    """
    loaded = settings_of(ConvertConfig, settings)
    if loaded.origins["attn"] == "default":
        raise UsageError("nothing says what the attention becomes", 'vgpt.convert(run, attn="gqa:n_kv_head=2")')
    from vgpt.attention.grammar import short_label
    from vgpt.interchange.convert import convert_run

    config = loaded.settings
    found = convert_run(place_of(run, config.runs_dir), config, DataLine(quiet=quiet))
    new, origin = found.config, found.origin
    return Converted(
        new.name,
        new.directory,
        short_label(new.model.attn),
        origin.run,
        found.before.loss,
        found.after.loss,
        origin.notes,
        found,
    )
