import json
import os
import signal
import threading
from datetime import date

import pytest
import torch
from safetensors.torch import load_file

from vgpt.attention.stamps import write_stamps
from vgpt.errors import DataError, UsageError
from vgpt.tracking.journal import read_metrics
from vgpt.tracking.record import parse_window_losses
from vgpt.tracking.store import read_local_run
from vgpt.training.build import build_model
from vgpt.training.checkpoints.checkpoint import find_checkpoint
from vgpt.training.display import Quiet
from vgpt.training.run import train_run

VARIANTS = ["mha", "mqa", "gqa:n_kv_head=2"]


class StopAt(Quiet):
    """Sends this process a signal when a step is done."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def advance(self, step):
        if step == self.step:
            os.kill(os.getpid(), self.number)


def weights(config):
    return load_file(find_checkpoint(config.directory, which="last").directory / "model.safetensors")


def optimizer(config):
    return load_file(find_checkpoint(config.directory, which="last").directory / "optimizer.safetensors")


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def log(config):
    return (config.directory / f"{config.model.attn.kind}.log").read_text().splitlines()


def batch_hashes(config):
    return [line.split()[-1] for line in log(config) if " batches " in line]


def test_the_same_settings_twice_end_in_the_same_bits(settings):
    first, second = settings(run__run_name="a"), settings(run__run_name="b")
    train_run(first, Quiet())
    train_run(second, Quiet())
    assert equal(weights(first), weights(second))
    assert equal(optimizer(first), optimizer(second))


@pytest.mark.parametrize("attn", VARIANTS)
@pytest.mark.parametrize("stop", [1, 3, 5, 7, 11])
def test_stopped_and_run_again_equals_uninterrupted(settings, attn, stop):
    changes = {"model__dropout": 0.1, "train__grad_accum": 2}
    whole = settings(attn, run__run_name="whole", **changes)
    parts = settings(attn, run__run_name="parts", **changes)
    train_run(whole, Quiet())
    stopped = train_run(parts, StopAt(stop))
    assert (stopped.status, stopped.exit_code) == ("stopped", 75)
    assert find_checkpoint(parts.directory, which="last").state.step == stop
    assert train_run(parts, Quiet()).status == "finished"
    assert equal(weights(whole), weights(parts))
    assert equal(optimizer(whole), optimizer(parts))
    assert batch_hashes(whole) == batch_hashes(parts)

    def losses(config):
        points = read_metrics(config.directory)
        return [(point.step, key, v) for point in points for key, v in point.metrics.items() if key.endswith("/loss")]

    assert losses(whole) == losses(parts)


def test_bfloat16_resumes_exactly_too(settings):
    whole, parts = (settings(run__run_name=name, system__dtype="bfloat16") for name in ("whole", "parts"))
    train_run(whole, Quiet())
    train_run(parts, StopAt(4))
    train_run(parts, Quiet())
    assert equal(weights(whole), weights(parts))


def test_runs_that_differ_only_in_attention_see_the_same_batches(settings):
    runs = [settings(attn, run__run_name=attn[:3]) for attn in VARIANTS]
    for config in runs:
        train_run(config, Quiet())
    first, *others = (batch_hashes(config) for config in runs)
    assert len(set(first)) == 12
    assert all(hashes == first for hashes in others)


def test_runs_that_differ_only_in_attention_start_from_the_same_bits(settings):
    first, *others = (build_model(settings(attn), 300).state_dict() for attn in VARIANTS)
    for other in others:
        shared = [name for name in first if ".attn." not in name]
        assert len(shared) == 2 + 2 * 8 + 2
        assert all(torch.equal(first[name], other[name]) for name in shared)


def test_a_finished_run_is_not_trained_again(settings):
    config = settings()
    done = train_run(config, Quiet())
    again = train_run(config, Quiet())
    assert (done.status, again.status) == ("finished", "already")
    assert again.summary["val/loss"] == done.summary["val/loss"]


def test_a_name_with_other_settings_is_refused_and_the_difference_shown(settings):
    train_run(settings(run__run_name="taken"), Quiet())
    with pytest.raises(UsageError) as caught:
        train_run(settings(run__run_name="taken", train__lr=0.5, run__save_interval=99), Quiet())
    assert "lr: 0.01 there, 0.5 asked" in caught.value.message
    assert "save_interval" not in caught.value.message


def test_other_data_under_the_same_name_is_refused(settings, corpus, tmp_path):
    import shutil
    from pathlib import Path

    import vgpt
    from vgpt.data.prepare import prepare
    from vgpt.settings.commands import PrepareConfig

    place = tmp_path / "data"
    shutil.copytree(corpus, place)
    config = settings(train__data=str(place))
    train_run(config, StopAt(2))
    shutil.rmtree(place)
    prepare([str(Path(vgpt.__file__).parent / "text")], PrepareConfig(out=place, vocab_size=300, workers=1))
    with pytest.raises(DataError, match="other data"):
        train_run(config, Quiet())


def test_patience_ends_a_run_early_and_the_best_is_kept(settings):
    config = settings(train__lr=1.0, train__eval_interval=1, train__patience=2, train__max_steps=60)
    result = train_run(config, Quiet())
    assert result.status == "early"
    best = find_checkpoint(config.directory, which="best").state
    last = find_checkpoint(config.directory, which="last").state
    assert best.step == best.best_step == last.step - 2
    assert train_run(config, Quiet()).status == "already"


def test_gradient_accumulation_equals_one_large_batch(settings):
    one = settings(run__run_name="one", train__batch_size=8, train__max_steps=4)
    two = settings(run__run_name="two", train__batch_size=4, train__grad_accum=2, train__max_steps=4)
    train_run(one, Quiet())
    train_run(two, Quiet())
    assert batch_rows(one) == batch_rows(two)
    left, right = mean_gradients(one), mean_gradients(two)
    assert left.norm() > 0.01
    assert (left - right).norm() < 1e-3 * left.norm()


def mean_gradients(config):
    # AdamW takes a whole step along a gradient that is nothing but rounding, so weights may differ visibly where
    # gradients do not: updates that should agree up to rounding are compared by their first moments.
    moments = {name: tensor for name, tensor in optimizer(config).items() if name.endswith("exp_avg")}
    return torch.cat([moments[name].flatten() for name in sorted(moments)])


def batch_rows(config):
    from vgpt.data.batches import BatchSource
    from vgpt.data.dataset import open_dataset

    data = open_dataset(config.train.data)
    source = BatchSource(data.train.tokens, config.model.block_size, config.train.batch_size, config.train.seed)
    accumulate = config.train.grad_accum
    rows = [source.batch(3, micro_step=m, grad_accum=accumulate)[0] for m in range(accumulate)]
    return sorted(row.tolist() for part in rows for row in part)


def test_the_loss_goes_down_and_the_record_is_complete(settings):
    config = settings("gqa:n_kv_head=1", train__max_steps=60)
    summary = train_run(config, Quiet()).summary
    first = float(log(config)[0].split()[3])
    assert summary["val/loss"] < first - 0.5
    assert summary["kv/bytes_measured"] == summary["kv/bytes_at_context"] == 2 * 2 * 8 * 16 * 4
    assert summary["train/tokens"] == 60 * 4 * 16
    assert 0 < summary["speed/mfu"] < summary["speed/mfu_palm"] < 1


def test_a_run_in_use_is_refused(settings):
    config = settings()
    refused = []

    class Second(Quiet):
        def advance(self, step):
            if step == 2:
                other = threading.Thread(target=self.attempt)
                other.start()
                other.join()

        def attempt(self):
            try:
                train_run(config, Quiet())
            except UsageError as error:
                refused.append(error.message)

    train_run(config, Second())
    assert len(refused) == 1
    assert str(os.getpid()) in refused[0]


def test_a_disk_that_fills_up_costs_a_checkpoint_and_not_the_run(settings, monkeypatch):
    import vgpt.training.checkpoints.saver as saver

    said = []

    class Listening(Quiet):
        def notify(self, message):
            said.append(message)

    real, calls = saver.save_checkpoint, []

    def full_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(saver, "save_checkpoint", full_once)
    assert train_run(settings(), Listening()).status == "finished"
    assert any("NOT saved" in message for message in said)


@pytest.mark.parametrize("stop", [None, 7])
def test_the_final_loss_of_every_window_is_kept(settings, stop):
    config = settings()
    if stop:
        train_run(config, StopAt(stop))
    summary = train_run(config, Quiet()).summary
    kept = parse_window_losses((config.directory / "val_windows.json").read_text())
    conditions = json.loads((config.directory / "conditions.json").read_text())
    assert (kept.step, kept.windows, len(kept.losses)) == (12, conditions["eval_windows"], 8)
    assert sum(kept.losses) / 8 == pytest.approx(summary["val/loss"], rel=1e-6)
    assert len(kept.documents) == 8
    assert kept.documents == tuple(sorted(kept.documents))
    assert str(config.directory.resolve() / "val_windows.json") in (config.directory / "tracking.json").read_text()


def test_matched_variants_train_at_their_own_widths_under_the_same_recorded_conditions(settings):
    conditions, sizes = [], []
    for attn in ("mha", "mqa"):
        config = settings(attn, model__match="params", model__n_embd=32)
        summary = train_run(config, Quiet()).summary
        conditions.append(json.loads((config.directory / "conditions.json").read_text()))
        sizes.append((config.model.hidden, summary["params/total"]))
        found = find_checkpoint(config.directory)
        assert found.settings.model.match_to == "mha"
        assert (found.model.match, found.model.hidden) == ("none", config.model.hidden)
    assert conditions[0] == conditions[1]
    (reference, total), (width, matched) = sizes
    assert (reference, width) == (128, 144)
    assert matched == pytest.approx(total, rel=0.005)


def test_a_finished_run_is_not_trained_again_because_it_is_the_reference_of_others(settings):
    train_run(settings(), Quiet())
    assert train_run(settings(model__match="params"), Quiet()).status == "already"


def test_recomputation_ends_in_the_same_bits(settings):
    plain, lean = (settings(run__run_name=str(on), system__recompute=on, model__dropout=0.1) for on in (False, True))
    train_run(plain, Quiet())
    train_run(lean, Quiet())
    assert equal(weights(plain), weights(lean))


def test_a_run_says_whether_its_variant_was_verified(settings):
    config = settings(train__max_steps=1)
    train_run(config, Quiet())
    assert read_local_run(config.directory).tags["vgpt.verified"] == "not verified"
    write_stamps(config.run.runs_dir, [config.model.attn], {}, print)
    other = settings(train__max_steps=1, run__run_name="after")
    train_run(other, Quiet())
    assert read_local_run(other.directory).tags["vgpt.verified"] == f"verified {date.today().isoformat()}"
