import math

import pytest
import torch

from vgpt.data.progress import Silent
from vgpt.errors import DataError
from vgpt.evaluation.suites import scoring
from vgpt.evaluation.suites.scoring import CUT, LONG, NO_ROOM, SPLIT, Scorer, windows

KINDS = ["mha", "gqa", "mqa", "local", "sparse", "linear", "mla"]
PAIRS = [
    ("Scene 4. Enter a", " reader"),
    ("Scene 4. Enter a", " writer"),
    ("Scene 4. Enter a", " re"),
    ("", "Scene 1."),
    ("Scene 12. Enter a reader, 5 books in ", "hand."),
    ("no", " such text \u00e9\u00e8 as this"),
    ("Scene 4. Enter a reader,", " 3 books in hand.\nScene"),
]


def likelihoods(model, ids, first):
    """Log-likelihoods of ids[first:], each from a forward pass of its own over all that is before it."""
    found = []
    for place in range(first, len(ids)):
        logits = model(torch.tensor([ids[:place]]))[0, -1].double()
        found.append((float(logits.log_softmax(0)[ids[place]]), int(logits.argmax()) == ids[place]))
    return sum(one for one, _ in found), all(best for _, best in found)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_has_the_likelihood_that_its_tokens_have_one_by_one(kind, make_model, tokenizer):
    model = make_model(kind)
    scorer = Scorer(model, tokenizer, torch.float32, Silent())
    found = scorer.answers(PAIRS)
    assert len({round(one, 3) for one, _ in found}) == len(PAIRS)
    for (context, answer), (one, best) in zip(PAIRS, found, strict=True):
        before = tokenizer.encode(context) or [tokenizer.end_of_text]
        with torch.inference_mode():
            wanted = likelihoods(model, [*before, *tokenizer.encode(answer)], len(before))
        if context.endswith(" "):  # the space belongs to the answer
            ids = tokenizer.encode(context + answer)
            with torch.inference_mode():
                wanted = likelihoods(model, ids, len(tokenizer.encode(context.rstrip())))
        assert one == pytest.approx(wanted[0], abs=1e-4)
        assert best == wanted[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_one_by_one(kind, make_model, tokenizer):
    scorer = Scorer(make_model(kind), tokenizer, torch.float32, Silent())
    together = scorer.answers(PAIRS)
    alone = [scorer.answers([pair])[0] for pair in PAIRS]
    assert [one for one, _ in together] == pytest.approx([one for one, _ in alone], abs=1e-5)
    assert [best for _, best in together] == [best for _, best in alone]
    assert scorer.continuations([(text, 9, []) for text, _ in PAIRS]) == [
        scorer.continuations([(text, 9, [])])[0] for text, _ in PAIRS
    ]


def test_small_batches_and_small_blocks_of_logits_change_nothing(scorer, monkeypatch):
    whole = scorer.answers(PAIRS)
    monkeypatch.setattr(scoring, "_TOKENS_AT_ONCE", 40)
    monkeypatch.setattr(scoring, "_LOGITS_AT_ONCE", 700)
    again = scorer.answers(PAIRS)
    assert [one for one, _ in again] == pytest.approx([one for one, _ in whole], abs=1e-5)


def test_the_greedy_answer_is_told_from_others(scorer):
    prompt = "Scene 4. Enter a"
    ids = scorer.tokenizer.encode(prompt)
    logits = scorer.model(torch.tensor([ids]))[0, -1]
    best, next_best = logits.topk(2).indices.tolist()
    found = scorer.scores([(ids, [best]), (ids, [next_best])])
    assert [likeliest for _, likeliest in found] == [True, False]


def test_a_context_that_is_too_long_is_cut_from_the_left_and_counted(scorer, tokenizer):
    context, answer = "Scene 4. Enter a reader, 3 books in hand.\n" * 9, "Scene 5."
    (found, _), _ = scorer.answers([(context, answer), ("short", " one")])
    before, wanted = scorer.pair(context, answer)
    ids = [*before, *wanted][-(scorer.context + 1) :]
    with torch.inference_mode():
        logits = scorer.model(torch.tensor([ids[:-1]]))[0].log_softmax(1)
    there = logits[torch.arange(len(ids) - 1 - len(wanted), len(ids) - 1), wanted].sum()
    assert found == pytest.approx(float(there), abs=1e-4)
    assert scorer.met[CUT] == 1


@pytest.mark.parametrize("length", [1, 5, 47, 48, 49, 96, 97, 130])
@pytest.mark.parametrize("first", [1, 2, 40, 60])
def test_windows_predict_every_wanted_id_once_with_no_more_than_the_context(length, first):
    ids = list(range(1000, 1000 + first + length))
    seen = []
    for (read, count), wanted in windows(ids, first, 48):
        assert 1 <= len(read) <= 48
        assert count == len(wanted)
        begin = ids.index(wanted[0])
        assert list(read) == ids[max(0, begin + count - 1 - 48) : begin + count - 1]
        seen += wanted
    assert seen == ids[first:]


@pytest.mark.parametrize("length", [1, 47, 48, 49, 96, 131])
def test_windows_of_a_text_are_those_of_lm_eval(length):
    utils = pytest.importorskip("lm_eval.utils")
    text = list(range(length))
    wanted = list(utils.get_rolling_token_windows(text, prefix_token=999, max_seq_len=48, context_len=1))
    found = list(windows([999, *text], 1, 48))
    assert [(list(read), targets) for (read, _), targets in found] == [
        (read, targets[-len(ours) :]) for (read, targets), (_, ours) in zip(wanted, found, strict=True)
    ]


def test_a_text_longer_than_the_context_is_read_to_its_end(scorer, tokenizer):
    text = "".join(f"Scene {n}. Enter a reader.\n" for n in range(12))
    ids = [tokenizer.end_of_text, *tokenizer.encode(text)]
    assert len(ids) > 2 * scorer.context
    total = 0.0
    for begin in range(1, len(ids), scorer.context):
        end = min(len(ids), begin + scorer.context)
        read = ids[max(0, end - 1 - scorer.context) : end - 1]
        with torch.inference_mode():
            logits = scorer.model(torch.tensor([read]))[0].log_softmax(1)
        total += sum(
            float(logits[i - len(read), ids[end + i - len(read)]]) for i in range(len(read) - (end - begin), len(read))
        )
    assert scorer.texts([text, "Scene"])[0] == pytest.approx(total, abs=1e-3)
    assert scorer.met == {CUT: 0, LONG: 0}


def test_an_answer_longer_than_the_context_is_scored_window_by_window_and_counted(scorer):
    answer = "Scene 1. Enter a reader.\n" * 12
    (found, _) = scorer.answers([("", answer)])[0]
    assert scorer.met[LONG] == 1
    assert found == pytest.approx(scorer.texts([answer])[0], abs=1e-4)


def test_an_answer_that_merges_with_its_context_is_encoded_by_itself(tokenizer, scorer):
    before, answer = scorer.pair("Scene 4. Enter a rea", "der")
    assert (tokenizer.decode(before), tokenizer.decode(answer)) == ("Scene 4. Enter a rea", "der")
    assert tokenizer.encode("Scene 4. Enter a reader")[: len(before)] != before
    assert scorer.met[SPLIT] == 1


def test_an_empty_answer_is_refused(scorer):
    with pytest.raises(DataError, match="empty"):
        scorer.answers([("Scene", "")])


def greedy(model, ids, count, stop):
    made = []
    for _ in range(count):
        token = int(model(torch.tensor([[*ids, *made]]))[0, -1].argmax())
        if token == stop:
            break
        made.append(token)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_continuations_are_those_of_the_whole_forward_pass(kind, make_model, tokenizer):
    model = make_model(kind)
    scorer = Scorer(model, tokenizer, torch.float32, Silent())
    prompts = ["Scene 4. Enter a", "Scene 5. Enter a", "no", ""]
    with torch.inference_mode():
        wanted = [
            greedy(model, tokenizer.encode(text) or [tokenizer.end_of_text], 20, tokenizer.end_of_text)
            for text in prompts
        ]
    assert scorer.continuations([(text, 20, []) for text in prompts]) == [tokenizer.decode(ids) for ids in wanted]


def test_a_continuation_ends_before_the_first_of_its_stop_strings_and_no_token_later(scorer, monkeypatch):
    whole = scorer.continuations([("Scene 4. Enter a", 30, [])])[0]
    assert len(whole) > 12
    ends = [whole[9:11], whole[5:7]]
    steps = []
    plain = scoring.generate
    monkeypatch.setattr(scoring, "generate", lambda *a, **kw: steps.append(found := plain(*a, **kw)) or found)
    assert scorer.continuations([("Scene 4. Enter a", 30, ends)]) == [whole[: min(whole.find(end) for end in ends)]]
    assert len(steps[0].tokens[0]) < 30


def test_a_prompt_leaves_room_for_what_is_to_come(scorer, tokenizer):
    prompt = "Scene 4. Enter a reader, 3 books in hand.\n" * 9
    ids = tokenizer.encode(prompt)
    with torch.inference_mode():
        wanted = greedy(scorer.model, ids[-(scorer.context - 8) :], 8, tokenizer.end_of_text)
    assert scorer.continuations([(prompt, 8, [])]) == [tokenizer.decode(wanted)]
    assert scorer.met[CUT] == 1
    scorer.continuations([("Scene", scorer.context, ["\n"])])
    assert scorer.met[NO_ROOM] == 1


def test_lower_precision_gives_nearly_the_same(make_model, tokenizer):
    exact, rough = (
        Scorer(make_model(), tokenizer, dtype, Silent()).answers(PAIRS) for dtype in (torch.float32, torch.bfloat16)
    )
    for (one, _), (other, _) in zip(exact, rough, strict=True):
        assert other == pytest.approx(one, abs=0.05 * math.fabs(one) + 0.2)
