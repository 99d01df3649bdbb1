"""A margin in every view: terminal, HTML, CSV, Markdown, LaTeX and JSON say the same, and JSON keeps its schema."""

import csv
import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from vgpt.compare.choose import compare
from vgpt.compare.comparison import as_one_family
from vgpt.report.as_json import as_json, study_as_json
from vgpt.report.formats import as_csv, as_latex, as_markdown, compact_table
from vgpt.report.html.page import ReportSection, as_html
from vgpt.report.json_schema import Document, json_schema
from vgpt.report.tables import tables
from vgpt.settings.loader import Sources
from vgpt.settings.presets import load_preset
from vgpt.study.signs import signs
from vgpt.study.study import Answered, make_study

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "compare.schema.json"
NAMES = ["gqa:n_kv_head=2", "mqa", "local", "linear", "sparse"]
SHIFTS = (-0.03, 0.03, 0.004, 0.0, 0.0102)
WORDS = ["better", "worse", "equal within 0.01", "equal within 0.01", "worse"]
NOISY = {"noise": 0.006, "shifts": (-0.03, 0.03, -0.006, 0.004, 0.0102)}
NOISY_WORDS = ["better", "worse", "no worse than 0.01", "not decided", "not decided"]


def rendered(parts, width=100):
    console = Console(file=io.StringIO(), width=width, highlight=False, no_color=True, force_terminal=False)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def folded(text):
    return " ".join(text.split())


@pytest.fixture
def margined(make_run, ask):
    """Six variants with four seeds each, whose differences to mha fall on all sides of a margin of 0.01."""

    def make(margin="0.01", noise=0.001, shifts=SHIFTS, **settings):
        # Patterns of noise that are not each other's multiples, with a mean of zero.
        patterns = [[1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1]]
        runs = [make_run("mha", settings={"seed": seed}, metrics={"val/loss": 2.3 + 0.01 * seed}) for seed in range(4)]
        for name, shift, pattern in zip(NAMES, shifts, patterns, strict=True):
            runs += [
                make_run(
                    name,
                    settings={"seed": seed},
                    metrics={"val/loss": 2.3 + 0.01 * seed + shift + noise * pattern[seed]},
                )
                for seed in range(4)
            ]
        given = {"margin": margin} if margin else {}
        return compare(ask("mha", *NAMES, **given, **settings), runs)

    return make


def cells_of(table):
    """The texts of the cells of each row of an HTML table."""
    lines = re.findall("<tr.*?</tr>", table, re.DOTALL)
    return [
        [unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in re.findall("<td.*?</td>", line, re.DOTALL)]
        for line in lines
    ]


def verdicts(comparison):
    return [one.difference.verdict for one in comparison.statistics[1:]]


@pytest.mark.parametrize(("changes", "words"), [({}, WORDS), (NOISY, NOISY_WORDS)])
def test_each_verdict_stands_in_every_view_and_is_the_same_there(margined, changes, words):
    found = margined(**changes)
    assert verdicts(found) == words
    text, page = rendered(tables(found), 140), as_html([ReportSection(found, [])], command="vgpt", made=0)
    rows = as_json(found)["rows"][1:]
    assert [row["statistics"]["difference"]["verdict"] for row in rows] == words
    lines = list(csv.DictReader(io.StringIO(as_csv(found))))[1:]
    assert [line["verdict"] for line in lines] == words
    between = text[text.index("Differences to mha") : text.index("n: seeds shared")]
    table = page[page.index("Differences to mha") :]
    table = table[: table.index("</table>")]
    for row, word, line in zip(found.rows[1:], words, lines, strict=True):
        (shown,) = [one for one in between.splitlines() if one.split()[:1] == [row.attn]]  # long labels wrap
        assert shown.rstrip().endswith(f"  {word}")
        at_most = found.statistics[found.rows.index(row)].difference.bounds.at_most
        assert f"{at_most:+.4f}" in shown
        assert float(line["loses_at_most"]) == at_most
        (told,) = [cells for cells in cells_of(table) if cells[:1] and cells[0].split()[0] == row.attn]
        assert told[-1] == word
        assert f"{at_most:+.4f}" in told
        assert word in as_markdown(found)
        assert word in as_latex(found)
    assert [row["statistics"]["difference"]["loses_at_most"] for row in rows] == [
        one.difference.bounds.at_most for one in found.statistics[1:]
    ]


def test_the_margin_is_printed_as_it_was_given_and_a_share_in_nats_too(margined):
    for margin, said in {
        "0.01": "Margin, as given: 0.01 nats per token.",
        "0.5%": "Margin, as given: 0.5% of the baseline's mean loss is 0.0116 nats per token.",
    }.items():
        found = margined(margin)
        page = folded(unescape(as_html([ReportSection(found, [])], command="vgpt", made=0)))
        for text in (rendered(tables(found)), page, as_markdown(found).replace("\\", "")):
            assert said in folded(text)
        assert said in folded(rendered(compact_table(found, ["delta"])))
        assert as_json(found)["margin"] == {"text": margin, "nats": pytest.approx(found.known_margin.nats)}
        (*_, line) = csv.DictReader(io.StringIO(as_csv(found, ["margin"])))
        assert float(line["margin"]) == found.known_margin.nats
    assert margined("0.5%").known_margin.nats == pytest.approx(0.005 * 2.315)


def test_without_a_margin_it_is_said_that_none_was_given_and_the_bound_stands_there_all_the_same(margined):
    found = margined(None)
    assert verdicts(found) == ["better", "worse", "worse", "no difference shown", "worse"]
    text = folded(rendered(tables(found)))
    assert "No margin was given" in text
    assert "Loses at most: upper one-sided 95% bound" in text
    assert as_json(found)["margin"] is None
    shows = as_json(found)["rows"][1]["statistics"]["difference"]["shows"]
    assert shows == {"better": True, "worse": False, "no_worse": None, "equal_within": None, "worse_by_more": None}


def test_both_facts_are_told_where_a_difference_lies_between_zero_and_the_margin(margined):
    found = margined()
    local = found.rows[3].title
    assert f"{local}: worse than the baseline, by less than 0.01" in rendered(tables(found))
    assert f"{local}: worse than the baseline, by less than 0.01." in as_markdown(found).replace("\\", "")
    shows = as_json(found)["rows"][3]["statistics"]["difference"]["shows"]
    assert shows == {"better": False, "worse": True, "no_worse": True, "equal_within": True, "worse_by_more": False}
    assert "mqa: worse by more than 0.01" in rendered(tables(found))
    assert f"{found.rows[5].title}: worse; not decided whether by more than 0.01" in rendered(tables(found))


def test_a_row_without_a_verdict_has_a_bound_of_its_own_and_a_reason(make_run, ask):
    runs = [
        make_run(attn, settings={"seed": seed}, metrics={"val/loss": loss + 0.01 * seed * (1 + (attn == "mqa"))})
        for attn, loss in (("mha", 2.3), ("mqa", 2.31))
        for seed in (1, 2)
    ]
    found = compare(ask("mha", "mqa", margin="0.01"), runs)
    bounds = found.statistics[1].difference.bounds
    row = as_json(found)["rows"][1]
    assert row["statistics"]["difference"]["loses_at_most"] == bounds.at_most > bounds.at_least
    assert row["statistics"]["difference"]["shows"] is None
    assert row["reasons"] == ["n=2: no verdict"]
    assert f"{bounds.at_most:+.4f}" in rendered(tables(found))


def test_the_margin_is_in_the_verdicts_of_a_study_that_is_one_family(margined):
    parts = as_one_family([margined(), margined(noise=0.002)])
    assert [one.difference.judged.rows for one in parts[0].statistics[1:]] == [10] * 5
    for part in parts:
        for one in part.statistics[1:]:
            assert one.difference.verdict == one.difference.answer.verdict
            assert one.difference.margin.text == "0.01"


def test_a_sign_counts_as_shown_within_the_margin_too(make_run):
    typed = {"pos": "learned,rope", "seeds": "4", "tracker": "journal", "margin": "0.01"}
    study = make_study(["mha", "mqa"], Sources(load_preset("demo"), command_line=typed))
    answers = []
    for part in study.parts:
        runs = [
            make_run(
                attn,
                settings={**part.values, "seed": 1337 + seed},
                metrics={"val/loss": 2.3 + (0.004 + 0.0002 * seed) * (attn == "mqa")},
            )
            for attn in ("mha", "mqa")
            for seed in range(4)
        ]
        answers.append(Answered(part, part.answer(runs)))
    (found,) = signs(answers)
    assert [part.verdict for part in found.parts] == ["equal within 0.01"] * 2
    assert found.count(1, shown=True) == 2
    check_schema(study_as_json(study, answers))


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(margined, width):
    text = rendered(tables(margined()), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def undeclared(value):
    """Return what a document holds that its schema does not describe, by the same schema without room for more."""
    schema = json_schema()

    def close(node):
        if isinstance(node, dict):
            if "properties" in node:
                node["additionalProperties"] = False
            for one in node.values():
                close(one)
        elif isinstance(node, list):
            for one in node:
                close(one)

    close(schema)
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]


def check_schema(document):
    plain = json.loads(json.dumps(document, allow_nan=False))
    jsonschema.Draft202012Validator(json_schema()).validate(plain)
    Document.model_validate(plain)
    assert undeclared(plain) == []


def study_of(comparison, *words, **typed):
    study = make_study(list(words), Sources(load_preset("demo"), command_line=typed))
    return study, [Answered(study.parts[0], comparison)]


def test_json_has_the_form_that_its_schema_states(margined, make_run, ask):
    for found in (margined(), margined(None), margined("0.5%", power="0.01", kv_at="100")):
        document = study_as_json(*study_of(found, "mha", *NAMES))
        assert document["schema"] == "vgpt.compare/1"
        check_schema(document)
    lost = [make_run("mqa", settings={"seed": 4}, status="diverged", metrics={"val/loss": float("nan")})]
    few = [make_run(attn, settings={"seed": seed}) for attn in ("mha", "mqa") for seed in range(3)]
    odd = [make_run("gqa", settings={"seed": seed, "lr": 0.5}) for seed in range(3)]
    check_schema(study_as_json(*study_of(compare(ask("mha", "mqa", "gqa"), [*few, *lost, *odd]), "mha", "mqa")))
    check_schema(study_as_json(*study_of(compare(ask("mha", "mqa", preset="demo"), []), "mha", "mqa")))


def test_the_schema_refuses_another_form(margined):
    document = json.loads(json.dumps(study_as_json(*study_of(margined(), "mha", *NAMES))))
    for wrong in (
        {**document, "schema": "vgpt.compare/2"},
        {name: value for name, value in document.items() if name != "margin"},
        {**document, "rows": [{**document["rows"][0], "statistics": {}}]},
        {**document, "level": "95%"},
    ):
        assert not jsonschema.Draft202012Validator(json_schema()).is_valid(wrong)
    with_more = {**document, "new_key": 1}
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(with_more)  # a new key keeps the version
    assert undeclared(with_more)


def test_the_schema_file_is_the_one_of_this_version(request):
    text = json.dumps(json_schema(), indent=1) + "\n"
    if request.config.getoption("--update-golden"):
        SCHEMA_FILE.write_text(text, encoding="utf-8")
    assert SCHEMA_FILE.read_text(encoding="utf-8") == text


def test_a_margin_that_is_a_share_of_nothing_leaves_the_tables_standing(make_run, ask):
    runs = [
        make_run(attn, settings={"seed": seed}, metrics={"val/loss": float("nan")})
        for attn in ("mha", "mqa")
        for seed in range(3)
    ]
    found = compare(ask("mha", "mqa", margin="1%"), runs)
    assert found.known_margin is None
    assert rendered(tables(found))
    assert as_json(found)["margin"] == {"text": "1%", "nats": None}
    bare = replace(found, rows=(), statistics=())
    assert bare.known_margin is None
