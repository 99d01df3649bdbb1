"""A sealed study with real runs, and a copy of it for each cheat."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import vgpt as package
from vgpt.data.prepare import prepare
from vgpt.errors import VgptError
from vgpt.report.tables import tables
from vgpt.settings.commands import PrepareConfig
from vgpt.settings.loader import Sources
from vgpt.settings.train import TrainConfig
from vgpt.study.answers import StudyAnswers
from vgpt.study.sealing import planned
from vgpt.study.study import make_study
from vgpt.tracking.histories import WindowReader
from vgpt.training.display import Quiet
from vgpt.training.run import train_run

STUDY = """
name = "pledge"
variants = ["mha", "mqa"]
seeds = 3

[settings]
seed = 1
data = "data"
n_layer = 1
n_head = 2
n_embd = 16
block_size = 32
batch_size = 2
max_steps = 4
eval_interval = 2
eval_windows = 4
device = "cpu"
threads = 1
dtype = "float32"
tracker = "journal"
"""


@dataclass(frozen=True)
class World:
    """A folder with a study, its data and its runs; the tests stand in it."""

    place: Path

    @property
    def runs(self) -> Path:
        return self.place / "runs"

    def config(self, attn: str, seed: int, **changes: object) -> TrainConfig:
        """The settings of a run of the study, with changes: `train__lr=0.1`."""
        runs = [one.config for _, found in planned(make_study([], sources())) for one in found]
        config = next(one for one in runs if one.model.attn.kind == attn)
        table = {name: getattr(config, name).model_dump() for name in TrainConfig.model_fields}
        for name, value in {"train__seed": seed, **changes}.items():
            section, _, key = name.partition("__")
            table[section][key] = value
        return TrainConfig.model_validate(table)

    def train(self, attn: str, seed: int, name: str | None = None, **changes: object) -> Path:
        config = self.config(attn, seed, run__run_name=name or f"{attn}-{seed}", **changes)
        train_run(config, Quiet())
        return config.directory

    def says(self, *words: str, **typed: object) -> str:
        """Everything that a comparison shows and says, or the error that it ends with, in one line."""
        said: list[str] = []
        text = StringIO()
        try:
            asked = Sources(command_line={"tracker": "journal", **typed}) if words else sources(**typed)
            study = make_study(list(words), asked)
            found = StudyAnswers(study, WindowReader(mlflow=False), said.append, said.append)
            console = Console(file=text, width=200, no_color=True)
            for answer in found.look():
                for part in tables(answer.comparison):
                    console.print(part)
                said += answer.comparison.remarks
            said += [f"missing: {one.label} {one.seed}" for one in found.missing]
            found.conclude()
        except VgptError as error:
            said.append(f"refused: {error.message}")
        return " ".join(f"{text.getvalue()} {' '.join(said)}".split())


def sources(**typed: object) -> Sources:
    return Sources(command_line={"study": "study.toml", **typed})


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file as a cheat would."""
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


@contextlib.contextmanager
def inside(place: Path) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield World(place)


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    """Sealed, then trained by both variants with three seeds each, then looked at once."""
    place = tmp_path_factory.mktemp("pledge")
    with inside(place) as world:
        prepare([str(Path(package.__file__).parent / "attention")], PrepareConfig(out=Path("data"), vocab_size=280))
        (place / "study.toml").write_text(STUDY)
        assert "sealed: plan " in world.says(seal=True)
        for attn in ("mha", "mqa"):
            for seed in (1, 2, 3):
                world.train(attn, seed)
        world.says()
    return place


@pytest.fixture
def world(original, tmp_path) -> Iterator[World]:
    with inside(Path(shutil.copytree(original, tmp_path / "world"))) as found:
        yield found
