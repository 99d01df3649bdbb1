import pytest

from vgpt.data.prepare import prepare
from vgpt.settings.commands import PrepareConfig
from vgpt.settings.train import TrainConfig


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A small prepared corpus of real text: this project's own sources."""
    from pathlib import Path

    import vgpt

    place = tmp_path_factory.mktemp("corpus") / "data"
    prepare([str(Path(vgpt.__file__).parent)], PrepareConfig(out=place, vocab_size=300, workers=1))
    return place


@pytest.fixture
def settings(corpus, tmp_path):
    """Return a function that builds the settings of a tiny run; `section__name=value` changes one."""

    def build(attn="mha", **changes):
        tables = {
            "model": {"attn": attn, "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16},
            "train": {
                "data": str(corpus),
                "batch_size": 4,
                "max_steps": 12,
                "eval_interval": 5,
                "eval_windows": 8,
                "warmup_steps": 2,
                "lr": 1e-2,
            },
            "system": {"device": "cpu", "dtype": "float32"},
            "workers": {},
            "run": {"runs_dir": str(tmp_path / "runs"), "tracker": "journal", "log_interval": 1, "save_interval": 3},
        }
        for name, value in changes.items():
            section, _, key = name.partition("__")
            tables[section][key] = value
        return TrainConfig.model_validate(tables)

    return build
