"""A cut of the training budget that was planted is recovered by real trainings; minutes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "planted_cut.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cut_of_ten_percent_of_the_training_tokens_is_recovered(tmp_path):
    # Early in training the loss falls so fast that few steps and seeds tell a tenth of them.
    places = ["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "cut.json")]
    words = ["--max-steps", "60", "--seeds", "3", *places]
    subprocess.run([sys.executable, str(SCRIPT), *words], check=True, cwd=tmp_path)
    found = json.loads((tmp_path / "cut.json").read_text())
    assert found["ratio"] == pytest.approx(0.9, abs=0.03)
    assert found["unequal_conditions"] == []
    assert found["method"] == "paired"
    assert found["steps"] == {"0.7": 42, "0.85": 51, "1": 60, "1.2": 72, "1.45": 87}
