"""What `import vgpt` offers: the same numbers as the commands, from the same settings, as objects."""

import inspect
import json
import math
import subprocess
import sys

import numpy as np
import pytest

import vgpt
from vgpt.errors import CheckpointError, SettingsError, UsageError, VgptError
from vgpt.settings.train import TrainConfig


def test_a_run_has_the_figures_and_settings_that_it_was_trained_with(run):
    assert run.status == "finished"
    assert run.attention == "mha"
    assert isinstance(run.settings, TrainConfig)
    assert (run.settings.model.n_embd, run.settings.train.max_steps) == (16, 4)
    summary = json.loads((run.directory / "summary.json").read_text())["metrics"]
    assert run.loss == summary["val/loss"]
    assert f"{summary['val/loss']:.4f}" in run._repr_html_()
    assert any("parameters" in note for note in run.notes)


def test_the_same_call_again_finds_the_run_and_trains_nothing(run, data, tiny):
    again = vgpt.train(attn="mha", data=data, **tiny)
    assert (again.status, again.name, again.summary) == ("already", run.name, run.summary)


def test_the_curve_of_a_run_is_what_its_journal_holds(run):
    found = run.to_pandas()
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["metrics"]["train/loss"] for line in lines if "train/loss" in line["metrics"]}
    assert logged
    assert found["train/loss"].dropna().to_dict() == logged
    assert found.index.name == "step"


def test_evaluating_gives_the_numbers_of_the_command(run, vgpt_command):
    found = run.evaluate(windows=8, dtype="float32", device="cpu")
    told = json.loads(vgpt_command("eval", run.name, "--windows", 8, "--dtype", "float32", "--device", "cpu", "--json"))
    assert found.loss == told["loss"]
    assert found.bits_per_byte == told["bits_per_byte"]
    assert found.to_pandas()["loss"].mean() == pytest.approx(found.loss, rel=1e-12)
    assert np.isclose(math.exp(found.loss), found.perplexity)
    assert f"{found.loss:.4f}" in found._repr_html_()


def test_sampling_gives_the_texts_of_the_command(run, vgpt_command):
    flags = {"max_tokens": 12, "num_samples": 2, "seed": 7, "dtype": "float32", "device": "cpu"}
    found = run.sample("Scene", **flags)
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    told = json.loads(vgpt_command("sample", run.name, "--prompt", "Scene", *words, "--json"))
    assert list(found) == [one["text"] for one in told["samples"]]
    assert len(found) == 2
    assert found.to_pandas()["tokens"].tolist() == [one["tokens"] for one in told["samples"]]
    assert "Scene" in found._repr_html_()


def test_a_run_is_loaded_by_name_directory_and_checkpoint(run):
    assert vgpt.load(run.name).loss == vgpt.load(run.directory).loss == run.loss
    step = next(run.directory.glob("ckpt/step-*"))
    assert vgpt.load(step).name == run.name
    assert vgpt.evaluate(vgpt.load(step), windows=2).checkpoint == step
    assert sum(p.numel() for p in run.model().parameters()) == run.summary["params/total"]
    assert run.tokenizer().decode(run.tokenizer().encode("Scene")) == "Scene"


def test_without_a_name_the_run_that_finished_last_is_meant_and_said(bench, data):
    with pytest.warns(UserWarning, match="the newest finished one in runs/"):
        assert vgpt.evaluate(windows=2).run.endswith(bench[2][1].name)


def test_a_comparison_has_a_row_per_variant_and_shows_its_tables(bench, data):
    found = vgpt.compare("mha", "gqa:n_kv_head=1", tracker="journal", bench=False)
    table = found.to_pandas(["loss", "params"])
    assert list(table.index) == ["mha", "gqa:n_kv_head=1"]
    assert table["loss"].tolist() == [run.loss for run in bench[2]]
    assert found.equal
    assert "Quality" in str(found)
    assert "<table>" in found._repr_html_()


def test_the_report_of_a_comparison_is_that_of_the_command_with_its_figures(bench, data, tmp_path):
    found = vgpt.compare("mha", "gqa:n_kv_head=1", tracker="journal", bench=False)
    page = found.save_html(tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert "vgpt compare mha gqa:n_kv_head=1" in page


@pytest.mark.slow
def test_a_comparison_trains_what_is_missing(data, tiny):
    found = vgpt.compare("mha", "mqa", data=data, run_missing=True, bench=False, quiet=True, **tiny)
    assert len(found.to_pandas()) == 2
    assert any("vgpt train --attn mqa" in note for note in found.notes)


def test_lists_of_values_make_a_comparison_for_each_and_what_is_missing_is_noted(data, tiny):
    found = vgpt.compare("mha", pos=["learned", "rope"], data=data, bench=False, **tiny)
    assert [dict(answer.part.values) for answer in found.answers] == [{"pos": "learned"}, {"pos": "rope"}]
    assert [len(one.rows) for one in found.comparisons] == [1, 0]
    assert list(found.to_pandas().index) == [("learned", "mha")]
    assert any("--pos rope" in note for note in found.notes)
    with pytest.raises(VgptError, match="no finished run of mqa under these conditions"):
        vgpt.compare("mqa", data=data, **tiny)


def test_a_preset_gives_way_to_keywords(data, monkeypatch):
    from vgpt.api.settings import settings_of

    loaded = settings_of(TrainConfig, {"n_layer": 2, "data": data, "lr": 3e-4}, preset="demo")
    assert loaded.origins["n_layer"] == "command line"
    assert loaded.origins["n_embd"] == "preset demo"
    assert (loaded.settings.model.n_layer, loaded.settings.train.lr) == (2, 3e-4)
    assert loaded.settings.train.data == "data"


def test_wrong_settings_are_refused_all_together_with_the_nearest_name(data):
    with pytest.raises(SettingsError, match="n_layr: unknown setting; did you mean 'n_layer'"):
        vgpt.train(n_layr=2)
    with pytest.raises(SettingsError) as caught:
        vgpt.train(lr=-1.0, n_head=0)
    assert len(caught.value.faults) == 2
    assert all("(argument)" in fault for fault in caught.value.faults)
    with pytest.raises(SettingsError, match="does not apply to --attn mha"):
        vgpt.train(attn="mha", n_kv_head=2)
    with pytest.raises(UsageError, match="no such preset"):
        vgpt.train(preset="dmo")
    with pytest.raises(UsageError, match="several processes are for the command"):
        vgpt.train(nproc=2, device="cpu")


def test_what_is_not_there_is_refused_with_what_is(run):
    with pytest.raises(CheckpointError) as caught:
        vgpt.load("nobody")
    assert run.name in caught.value.hint


def test_what_the_disk_refuses_is_an_error_with_a_hint(data, tiny, tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(VgptError, match="Check the path, its permissions and the disk"):
        vgpt.train(attn="mha", data=data, runs_dir=tmp_path / "file", **tiny)


def test_names_of_the_face_are_documented_and_say_what_they_take():
    for name in vgpt.__all__:
        thing = getattr(vgpt, name)
        assert name == "__version__" or inspect.getdoc(thing), name
    assert set(vgpt.__all__) <= set(dir(vgpt))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = vgpt.trian


@pytest.mark.parametrize("before", ["", "import vgpt.compare.rows; "])
def test_importing_the_face_imports_nothing_heavy_and_compare_can_be_called(before):
    code = f"import sys; {before}import vgpt, vgpt.attention; vgpt.train, vgpt.attention.SoftmaxConfig, vgpt.compare\n"
    code += "print(sorted({'torch', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)), "
    code += "callable(vgpt.compare) and callable(vgpt.probe))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("] ")[-1].strip() == "True"
    if not before:
        assert done.stdout.startswith("[] ")


def test_every_name_of_the_attention_face_is_that_of_its_home():
    import vgpt.attention as face
    from vgpt.attention.base import CausalSelfAttention
    from vgpt.attention.config import SoftmaxConfig

    assert face.CausalSelfAttention is CausalSelfAttention
    assert face.SoftmaxConfig is SoftmaxConfig
    assert all(getattr(face, name).__doc__ for name in face.__all__)


def test_an_evaluation_holds_the_parts_of_its_loss(run):
    found = run.evaluate(windows=6, recall=True, by_position=True, lengths=[8, 16], record=False)
    parts = found.parts_to_pandas()
    for kind in ("positions", "recall"):
        own = parts[parts["kind"] == kind]
        assert own["tokens"].sum() == found.tokens
        assert (own["loss"].fillna(0) * own["tokens"]).sum() / found.tokens == pytest.approx(found.loss)
    assert parts[parts["kind"] == "lengths"]["name"].tolist() == ["8", "16"]
    assert found.notes == ()
