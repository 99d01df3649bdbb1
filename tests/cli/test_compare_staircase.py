import pytest

import vgpt

pytestmark = pytest.mark.slow


def test_a_staircase_of_real_runs_adds_up_and_is_there_the_second_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n\n" * 400)
    vgpt.prepare("text.txt", out="data", vocab_size=270, quiet=True)
    settings = {"data": "data", "n_layer": 2, "n_embd": 16, "n_head": 4, "block_size": 16, "batch_size": 4}
    settings |= {"max_steps": 6, "eval_interval": 6, "eval_windows": 8, "threads": 1, "tracker": "journal"}
    asked = {"from_": "gqa:n_kv_head=2", "to": "mla:kv_lora_rank=8", "seeds": 2, "quiet": True}
    found = vgpt.compare(run_missing=True, bench=False, **asked, **settings)
    climb = found.comparisons[0].climb
    assert len(climb.steps) == 4
    assert climb.exact
    assert climb.sum == pytest.approx(climb.whole.delta, abs=1e-12)
    assert "Figures" in found.save_html("report.html").read_text()
    again = vgpt.compare(**asked, **settings)
    assert again.comparisons[0].missing == ()
