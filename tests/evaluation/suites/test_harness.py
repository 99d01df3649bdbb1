import json
import logging
import math
import os
import random
import sys

import numpy as np
import pytest
import torch

from vgpt.data.progress import Silent
from vgpt.errors import DataError, UsageError, VgptError
from vgpt.evaluation.suites import harness
from vgpt.evaluation.suites.results import results_of
from vgpt.evaluation.suites.scoring import Scorer


def test_without_lm_eval_one_message_says_what_to_install(scorer, monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(VgptError, match="lm-evaluation-harness, which is not installed") as told:
        results_of(["arc_easy"], scorer, fewshot=None, limit=None)
    assert told.value.hint == 'pip install "vgpt[eval]"'


@pytest.fixture
def lm_eval():
    return pytest.importorskip("lm_eval")


@pytest.fixture
def ask(lm_eval, scorer, suites):
    def ask(*names, fewshot=None, limit=None):
        return results_of([str(suites / name) for name in names], scorer, fewshot=fewshot, limit=limit)

    return ask


@pytest.fixture
def rows(suites):
    return [json.loads(line) for line in (suites / "rows.jsonl").read_text().splitlines()]


def test_accuracy_and_bits_per_byte_of_choices_are_those_of_the_raw_likelihoods(ask, rows, scorer):
    (found,) = ask("choices.yaml")
    right, bits = [], []
    for row in rows:
        each = [score for score, _ in scorer.answers([(row["q"], f" {choice}") for choice in row["c"]])]
        right.append(float(each.index(max(each)) == row["g"]))
        bits.append(-each[row["g"]] / math.log(2) / len(f" {row['c'][row['g']]}".encode()))
    assert len(set(right)) == 2
    for name, values in {"acc": right, "bits_per_byte": bits}.items():
        assert found.values[name] == pytest.approx(values)
        assert found.figures[name].value == pytest.approx(np.mean(values))
        assert found.figures[name].se == pytest.approx(np.std(values, ddof=1) / math.sqrt(7))
    assert found.higher_is_better == {"acc": True, "bits_per_byte": False}
    assert (found.task, found.kind, found.documents, found.of, found.fewshot) == ("choices", "multiple_choice", 7, 7, 0)


def test_bits_per_byte_of_texts_and_their_error_are_those_of_a_ratio(ask, suites, scorer):
    (found,) = ask("whole.yaml")
    texts = [json.loads(line)["text"] for line in (suites / "texts.jsonl").read_text().splitlines()]
    bits, sizes = -np.array(scorer.texts(texts)) / math.log(2), np.array([len(text.encode()) for text in texts])
    assert found.figures["bits_per_byte"].value == pytest.approx(bits.sum() / sizes.sum())
    assert found.figures["byte_perplexity"].value == pytest.approx(2 ** (bits.sum() / sizes.sum()))
    # Leaving out one text at a time gives the same error as long as the texts are not too unlike.
    ratios = np.array([(bits.sum() - b) / (sizes.sum() - s) for b, s in zip(bits, sizes, strict=True)])
    jackknife = math.sqrt((len(texts) - 1) / len(texts) * ((ratios - ratios.mean()) ** 2).sum())
    assert found.figures["bits_per_byte"].se == pytest.approx(jackknife, rel=0.5)
    perplexity = found.figures["byte_perplexity"]
    assert perplexity.se == pytest.approx(perplexity.value * found.figures["bits_per_byte"].se * math.log(2))


def test_continuations_are_judged(ask, rows, suites, scorer):
    made = scorer.continuations([(row["q"], 12, ["\n"]) for row in rows])
    assert ask("goes_on.yaml")[0].figures["exact_match"].value == 0
    with (suites / "rows.jsonl").open("w") as file:
        for row, text in zip(rows, made, strict=True):
            file.write(json.dumps({"q": row["q"], "c": [text], "g": 0}) + "\n")
    assert ask("goes_on.yaml")[0].figures["exact_match"].value == 1


def test_what_was_asked_has_a_digest_that_knows_questions_answers_examples_and_limits(ask, suites, rows, tokenizer):
    digests = [ask("choices.yaml")[0].digest, ask("choices.yaml", limit=5)[0].digest]
    (few,) = ask("choices.yaml", fewshot=2)
    assert few.fewshot == 2
    digests.append(few.digest)
    rows[3]["g"] = 1 - rows[3]["g"] % 2
    (suites / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    digests.append(ask("choices.yaml")[0].digest)
    assert len(set(digests)) == 4


def test_another_model_is_asked_the_same(ask, suites, make_model, tokenizer):
    other = Scorer(make_model("linear"), tokenizer, torch.float32, Silent())
    (found,) = results_of([str(suites / "choices.yaml")], other, fewshot=2, limit=None)
    (mine,) = ask("choices.yaml", fewshot=2)
    assert mine.digest == found.digest
    assert mine.values != found.values


def test_a_limit_takes_the_first_documents_and_says_so(ask):
    whole, part = ask("choices.yaml")[0], ask("choices.yaml", limit=5)[0]
    assert part.values["acc"] == whole.values["acc"][:5]
    assert (part.documents, part.of) == (5, 7)


def test_one_document_has_no_standard_error(ask):
    (found,) = ask("choices.yaml", limit=1)
    assert math.isnan(found.figures["bits_per_byte"].se)
    assert json.loads(json.dumps(found.table(), allow_nan=False))["figures"]["bits_per_byte"]["se"] is None


def test_nothing_of_the_process_is_left_changed_and_stdout_is_clean(ask, capsys):
    utils, before = harness.part("utils").env, (random.getstate(), dict(os.environ), logging.getLogger("lm_eval").level)
    ask("choices.yaml", "whole.yaml")
    assert capsys.readouterr() == ("", "")
    assert harness.part("utils").env is utils
    assert (random.getstate(), dict(os.environ), logging.getLogger("lm_eval").level) == before


def test_a_template_that_slips_through_the_reader_is_stopped_by_the_sandbox(ask, suites):
    trick = "{{ (''|attr('__cla' ~ 'ss__')).mro() }}"
    text = (suites / "choices.yaml").read_text().replace('"{{q}}"', f'"{trick}"')
    (suites / "choices.yaml").write_text(text)
    with pytest.raises(DataError, match=r"choices\.yaml cannot be loaded: .*(unsafe|undefined)"):
        ask("choices.yaml")


def test_a_template_that_names_what_no_document_has_is_one_message(ask, suites):
    text = (suites / "choices.yaml").read_text().replace("{{q}}", "{{question}}")
    (suites / "choices.yaml").write_text(text)
    with pytest.raises(DataError, match=r"choices\.yaml cannot be loaded: 'question' is undefined"):
        ask("choices.yaml")


def test_random_continuations_are_refused(ask, suites):
    text = (suites / "goes_on.yaml").read_text().replace("do_sample: false", "do_sample: true, temperature: 0.7")
    (suites / "goes_on.yaml").write_text(text)
    with pytest.raises(DataError, match="random continuations"):
        ask("goes_on.yaml")


def test_a_task_may_be_named_once(ask, suites):
    (suites / "again.yaml").write_text((suites / "choices.yaml").read_text())
    with pytest.raises(DataError, match="the task 'choices' twice"):
        ask("choices.yaml", "again.yaml")


def test_of_several_contexts_the_right_one_gives_the_bits(ask, rows, suites, scorer):
    text = (suites / "choices.yaml").read_text().replace('"{{q}}"', "g").replace("doc_to_target: g", "doc_to_target: q")
    (suites / "choices.yaml").write_text(text)
    for row in rows:
        row["q"] = row["q"][:16]
    (suites / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = ask("choices.yaml")
    scores = scorer.answers([(row["c"][row["g"]], f" {row['q']}") for row in rows])
    bits = [-score / math.log(2) / len(f" {row['q']}") for (score, _), row in zip(scores, rows, strict=True)]
    assert found.values["bits_per_byte"] == pytest.approx(bits)


def test_of_several_right_answers_the_likeliest_gives_the_bits(ask, rows, suites, scorer):
    for row in rows:
        row["g"] = [0, 2]
    (suites / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = ask("choices.yaml")
    for row, bits in zip(rows, found.values["bits_per_byte"], strict=True):
        answers = [f" {row['c'][number]}" for number in (0, 2)]
        each = scorer.answers([(row["q"], answer) for answer in answers])
        assert bits == pytest.approx(
            min(-score / math.log(2) / len(answer.encode()) for (score, _), answer in zip(each, answers, strict=True))
        )


@pytest.fixture
def as_if_its_own(lm_eval, suites, monkeypatch):
    """Let the harness have the files of the folder, with absolute paths, as if it had brought them along."""
    for file in suites.glob("*.yaml"):
        file.write_text(file.read_text().replace("test: ", f"test: {suites}/"))
    real = harness.part("tasks").TaskManager

    def manager(*, include_defaults=True, include_path=None):
        return real(include_defaults=False, include_path=include_path or str(suites))

    monkeypatch.setattr(harness.part("tasks"), "TaskManager", manager)
    monkeypatch.setattr(harness.part("tasks"), "__file__", str(suites / "__init__.py"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_task_of_the_harness_is_found_by_its_name(as_if_its_own, scorer, suites, rows):
    (suites / "utils.py").write_text("def text(doc):\n    return doc['q']\n")
    own = (suites / "choices.yaml").read_text().replace('"{{q}}"', "!function utils.text")
    (suites / "choices.yaml").write_text(own)
    (found,) = results_of(["choices"], scorer, fewshot=None, limit=None)
    assert found.documents == len(rows)


def test_a_group_is_its_tasks_and_their_mean(as_if_its_own, scorer, suites):
    text = (suites / "choices.yaml").read_text()
    (suites / "more.yaml").write_text(text.replace("task: choices", "task: more\ntag:\n  - all_of_them"))
    (suites / "both.yaml").write_text(
        "group: both\ntask: [choices, more]\naggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\n"
    )
    one, other, both = results_of(["both"], scorer, fewshot=None, limit=4)
    assert (both.task, both.kind, both.documents, both.of) == ("both", "group", 8, 14)
    assert both.figures["acc"].value == pytest.approx((one.figures["acc"].value + other.figures["acc"].value) / 2)
    assert both.figures["acc"].se > 0
    assert both.digest not in ("", one.digest)
    assert [found.task for found in results_of(["all_of_them"], scorer, fewshot=None, limit=4)] == ["more"]


def test_a_suite_that_does_not_exist_is_told_with_the_nearest_names(lm_eval, scorer, monkeypatch):
    known = dict.fromkeys(["arc_easy", "arc_challenge", "hellaswag"], harness.Path("/nowhere.yaml"))
    monkeypatch.setattr(harness, "names_in_harness", lambda: known)
    with pytest.raises(UsageError, match=r"no task 'arc_eazy'; the nearest are arc_easy"):
        results_of(["arc_eazy"], scorer, fewshot=None, limit=None)


def test_a_suite_whose_data_cannot_be_had_is_one_message_and_no_wait(lm_eval, scorer, monkeypatch):
    place = harness.Path(lm_eval.__file__).parent / "tasks" / "arc" / "arc_easy.yaml"
    monkeypatch.setattr(harness, "names_in_harness", lambda: {"arc_easy": place})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="suite arc_easy: its data are not on this machine, and HF_HUB_OFFLINE forbids"):
        results_of(["arc_easy"], scorer, fewshot=None, limit=None)


def test_a_hub_that_does_not_answer_counts_as_none(monkeypatch):
    import socket

    monkeypatch.setattr(harness, "_PATIENCE", 0.3)
    for name in harness._OFFLINE:
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert harness.why_offline() == f"{os.environ['HF_ENDPOINT']} does not answer"
    assert "does not answer" in harness.why_offline()  # nobody listens any more


@pytest.mark.slow
def test_the_names_of_lm_eval_are_found_without_its_index(lm_eval):
    found = harness.names_in_harness()
    theirs = harness.part("tasks").TaskManager().all_tasks
    assert len(theirs) > 10_000
    assert set(theirs) - set(found) == set()
    assert found["arc_easy"].name == "arc_easy.yaml"
    assert sys.getsizeof(found)
