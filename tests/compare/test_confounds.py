import pytest

from vgpt.compare.audit.budgets import confounds
from vgpt.compare.choose import compare
from vgpt.compare.rows import make_row
from vgpt.report.as_json import as_json
from vgpt.report.captions import confound_lines


def rows_of(make_run, change):
    sizes = [1e6, 1e6 * (1 + change)]
    return [
        make_row([make_run(attn, metrics={"params/total": size})])
        for attn, size in zip(("mha", "mqa"), sizes, strict=True)
    ]


@pytest.mark.parametrize(("change", "words"), [(-0.085, "-8.5%"), (0.006, "+0.6%")])
def test_another_number_of_parameters_is_a_confound(make_run, change, words):
    mha, mqa = rows_of(make_run, change)
    assert confounds(mqa, mha) == [f"{words} parameters against mha"]
    assert confounds(mha, mha) == []
    assert [line.plain for line in confound_lines([mha, mqa])] == [
        f"  confound of mqa: {words} parameters against mha",
    ]


def test_matched_numbers_of_parameters_are_none(make_run):
    mha, mqa = rows_of(make_run, -0.001)
    assert confounds(mqa, mha) == []


def test_a_size_that_is_not_recorded_is_none(make_run):
    mha, mqa = rows_of(make_run, -0.5)
    del mqa.runs[0].metrics["params/total"]
    assert confounds(mqa, mha) == []


def test_json_names_confounds(make_run, ask):
    table = as_json(compare(ask("mha", "mqa"), [make_run("mha"), make_run("mqa")]))
    assert table["rows"][0]["confounds"] == []
    (found,) = table["rows"][1]["confounds"]
    assert found.endswith("parameters against mha")


@pytest.mark.parametrize(("ratio", "named"), [(0.5, True), (1.6, True), (1.4, False), (0.7, False)])
def test_a_branch_that_starts_of_another_size_is_a_confound(make_run, ratio, named):
    mha = make_row([make_run("mha", metrics={"start/attention_rms": 0.02, "params/total": 1e6})])
    mqa = make_row([make_run("mqa", metrics={"start/attention_rms": 0.02 * ratio, "params/total": 1e6})])
    expected = [f"its attention starts {ratio:.2f}x as large as mha's"] if named else []
    assert confounds(mqa, mha) == expected
