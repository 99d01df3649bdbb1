"""`vgpt.probe` and `vgpt.convert`: what the commands say, as objects."""

import json
import math

import pytest

import vgpt
from vgpt.errors import SettingsError, UsageError

SMALL = {
    "tasks": "parity:length=16",
    "n_embd": 16,
    "n_head": 2,
    "lrs": [1e-3],
    "seeds": 1,
    "steps": 4,
    "batch_size": 8,
    "validation_instances": 16,
    "test_instances": 16,
    "tracker": "journal",
    "jobs": 1,
}


@pytest.fixture
def card(data):
    return vgpt.probe("mha", "linear", **SMALL)


def test_a_probe_holds_the_card_of_the_command(card, vgpt_command):
    flags = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", value)]
    flags = [word[0] if isinstance(word, list) else word for word in flags]
    told = json.loads(vgpt_command("probe", "mha", "linear", *flags, "--json"))
    assert told["tasks"] == json.loads(json.dumps(card.card.as_json()))["tasks"]
    rows = card.to_pandas()
    assert set(rows["attention"]) >= {"mha", "linear:feature_map=elu1"}
    written = {row["label"]: row["points"][0]["mean"] for row in told["tasks"][0]["rows"]}
    first = rows.groupby("attention").first()["accuracy"].to_dict()
    assert first == pytest.approx(written)


def test_a_card_shows_itself_and_writes_its_page(card, tmp_path):
    assert "parity" in str(card)
    assert "parity" in card._repr_html_()
    assert "parity" in card.save_html(tmp_path / "card.html").read_text()


def test_what_a_probe_cannot_do_is_refused(data):
    with pytest.raises(UsageError, match="no variant is named"):
        vgpt.probe()
    with pytest.raises(UsageError, match="is no variant"):
        vgpt.probe("mhaa", **SMALL)
    with pytest.raises(SettingsError, match=r"steps = '0' \(argument\)"):
        vgpt.probe("mha", **{**SMALL, "steps": 0})
    with pytest.raises(UsageError, match="twice"):
        vgpt.probe("mha", **{**SMALL, "tasks": ["parity", "parity"]})


def test_a_run_is_converted_evaluated_and_trained_on(run):
    made = vgpt.convert(run, attn="gqa:n_kv_head=1", run_name="pooled")
    assert (made.name, made.attention, made.source) == ("pooled", "gqa:n_kv_head=1", run.name)
    assert made.loss_before == pytest.approx(run.loss, abs=1e-6)
    assert math.isfinite(made.loss_after)
    assert any("mean" in note for note in made.notes)
    assert made.run().evaluate(windows=4, dtype="float32", device="cpu").loss == pytest.approx(
        made.loss_after, abs=1e-6
    )
    trained = made.train(max_steps=2)
    assert (trained.name, trained.status, trained.attention) == ("pooled", "finished", "gqa:n_kv_head=1")
    assert f"{made.loss_after:.4f}" in made._repr_html_()


def test_what_cannot_be_converted_is_refused(run):
    with pytest.raises(UsageError, match="nothing says what the attention becomes"):
        vgpt.convert(run)
    with pytest.raises(SettingsError, match="must divide --n-head 2"):
        vgpt.convert(run, attn="gqa:n_kv_head=3")
