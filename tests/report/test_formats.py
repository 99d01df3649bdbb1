import csv
import io
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from vgpt.compare.choose import compare
from vgpt.errors import UsageError
from vgpt.report.columns import COLUMNS, USUAL, check_columns
from vgpt.report.formats import as_csv, as_latex, as_markdown, compact_table

NASTY = r"=cmd|<b>a_b</b> 100% $x^2$ {\#1} & ~`[c](d)"


@pytest.fixture
def nasty(make_run, ask, renamed):
    return renamed(
        compare(ask("mha", "odd"), [make_run("mha"), make_run("mqa", run_name="odd")]), "odd", NASTY + "\x1b\n"
    )


def read(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_holds_the_raw_numbers_that_the_statistics_are(three):
    rows = read(as_csv(three))
    assert [row["attention"] for row in rows] == ["mha", "gqa:n_kv_head=2", "mqa"]
    assert tuple(rows[0])[1:] == USUAL
    assert float(rows[1]["delta"]) == three.statistics[1].difference.delta
    assert float(rows[1]["p_adjusted"]) == three.statistics[1].difference.judged.p
    assert (rows[0]["delta"], rows[0]["verdict"], rows[2]["verdict"]) == ("", "", "worse")
    assert float(rows[2]["kv_context"]) == 4 * 2 * 32 * 128 * 4  # layers, key and value, head width, context, float32


def test_every_column_can_be_chosen_and_keeps_its_order(three):
    names = list(reversed(COLUMNS))
    rows = read(as_csv(three, names))
    assert list(rows[0]) == ["attention", *names]
    assert rows[1]["runs"].startswith("gqa-s1-")
    assert rows[1]["loss"] == "2.329"
    assert float(rows[1]["delta_low"]) < float(rows[1]["delta"]) < float(rows[1]["delta_high"])


def test_the_name_of_a_metric_is_a_column(three):
    assert read(as_csv(three, ["train/tokens"]))[0]["train/tokens"] == "819200.0"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["losss"], "no column 'losss'; did you mean 'loss'"),
        (["loss", "p", "loss"], "names 'loss' twice"),
        (["train/tokns"], "did you mean 'train/tokens'"),
    ],
)
def test_a_wrong_column_is_refused_with_the_nearest_name(three, names, message):
    with pytest.raises(UsageError, match=message):
        as_csv(three, names)


def test_a_word_that_is_no_metric_is_refused_before_anything_runs():
    check_columns(["loss", "train/whatever"])
    with pytest.raises(UsageError, match="no column 'whatever'"):
        check_columns(["whatever"])


def test_csv_never_holds_a_formula_or_a_control_code(nasty):
    row = read(as_csv(nasty, ["runs", "delta"]))[1]
    assert row["attention"].startswith("'=cmd|")
    assert row["runs"].startswith("'=cmd|")
    assert "\x1b" not in as_csv(nasty)
    assert float(row["delta"]) > 0  # numbers stay numbers


def test_markdown_shows_names_as_letters_in_one_line(nasty):
    table, _, rest = as_markdown(nasty, ["loss"]).partition("\n\n")
    lines = table.splitlines()
    assert len(lines) == 4
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines)
    assert r"\<b\>a\_b\</b\>" in table
    assert re.sub(r"\\(.)", r"\1", lines[3]).split(" | ")[0].strip("| ").startswith(NASTY)
    assert "Conditions are equal" in rest


def test_markdown_golden(three, check_golden):
    check_golden("compare.md", as_markdown(three))


def test_latex_golden(three, check_golden):
    check_golden("compare.tex", as_latex(three))


def test_latex_escapes_every_special_letter(nasty):
    text = as_latex(nasty, ["loss"])
    assert r"\textless{}b\textgreater{}a\_b" in text
    assert r"100\% \$x\textasciicircum{}2\$ \{\textbackslash{}\#1\} \& \textasciitilde{}" in text
    assert not re.search(r"(?<!\\)[%#]", text)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(nasty, tmp_path):
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{as_latex(nasty)}\end{{document}}"
    (tmp_path / "t.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def test_unequal_conditions_are_written_below_every_table(make_run, ask):
    runs = [make_run("mha", settings={"seed": seed}) for seed in (1, 2, 3)]
    runs += [make_run("mqa", settings={"seed": seed, "lr": 0.1}) for seed in (1, 2, 3)]
    found = compare(ask("mha", "mqa", force=True), runs)
    for text in (as_markdown(found), as_latex(found)):
        assert "Conditions are NOT equal: lr." in text
        assert "FORCED: verdicts across unequal conditions" in text


def test_the_compact_table_keeps_audit_and_confounds(three):
    console = Console(file=io.StringIO(), width=80, no_color=True, highlight=False)
    for part in compact_table(three, ["loss", "p_adjusted", "kv_context"]):
        console.print(part)
    text = console.file.getvalue()
    assert re.search(r"^mqa +2\.3660 +<\.001 +128 KiB$", text, re.MULTILINE)
    assert "Conditions: equal" in text
    assert "confound of mqa" in text
