import pytest

from vgpt.errors import DataError, VgptError
from vgpt.evaluation.suites import task_file
from vgpt.evaluation.suites.task_file import looks_like_file, task_files

pytest.importorskip("yaml")
pytest.importorskip("jinja2")


METRIC_NAMES = {"acc", "acc_norm", "bits_per_byte"}


def read_task(path):
    return task_file.read_task(path, METRIC_NAMES)


@pytest.fixture
def write(suites):
    """Write a task file, the multiple-choice one with something added, and return its path."""

    def write(more="", *, name="mine.yaml", take=""):
        text = (suites / "choices.yaml").read_text()
        assert take in text
        (suites / name).write_text(text.replace(take, "") + more)
        return suites / name

    return write


@pytest.fixture
def witness(suites):
    """A program beside the task files that leaves a trace when it is run."""
    trace = suites / "ran"
    (suites / "utils.py").write_text(f"open({str(trace)!r}, 'w').close()\ndef f(*a, **kw):\n    return 'x'\n")
    yield trace
    assert not trace.exists()


PROGRAMS = {
    "a function of a file beside it": "process_docs: !function utils.f\n",
    "a function as text": "doc_to_decontamination_query: !function utils.f\n",
    "a Python object": "metadata: !!python/object/apply:os.system ['touch ran']\n",
    "a Python name": "description: !!python/name:os.system\n",
    "a class": "class: utils.Task\n",
    "a function by its name": "process_results: utils.f\n",
    "a data set made by a function": "custom_dataset: utils.f\n",
    "a data set with a script": "dataset_name: x\ndataset_kwargs: {data_files: rows.jsonl, trust_remote_code: true}\n",
    "code that the task runs": "unsafe_code: true\n",
    "a prompt library": "use_prompt: utils.yaml:*\n",
    "examples from a function": "fewshot_config: {sampler: first_n, process_docs: utils.f}\n",
    "examples from a tagged function": "fewshot_config: {samples: !function utils.f}\n",
    "a template that leaves its sandbox": "description: \"{{ ''.__class__.__mro__ }}\"\n",
    "the same by a subscript": "description: \"{{ ''['__class__'] }}\"\n",
    "the same by a filter": "description: \"{{ ''|attr('__class__') }}\"\n",
    "a hidden attribute": 'description: "{{ q._private }}"\n',
    "a template that includes a file": "description: \"{% include 'secrets' %}\"\n",
    "a template of an example": 'fewshot_config: {doc_to_text: "{{ cycler.__init__.__globals__ }}"}\n',
}


@pytest.mark.parametrize("more", PROGRAMS.values(), ids=PROGRAMS)
def test_a_file_with_a_program_is_refused_and_nothing_is_run(more, write, witness):
    with pytest.raises(DataError, match="holds a program") as refused:
        read_task(write(more))
    assert "nothing of it was run" in refused.value.message
    assert "mine.yaml" in refused.value.message


@pytest.mark.parametrize("more", ["process_docs: !function utils.f\n", "x: !!python/name:os.system\n"])
def test_a_program_in_an_included_file_is_refused_by_its_own_name(more, write, suites, witness):
    (suites / "base.yaml").write_text(more)
    with pytest.raises(DataError, match=r"base\.yaml: it holds a program"):
        read_task(write("include: base.yaml\n"))


def test_a_program_as_a_plain_name_in_an_included_file_is_refused_too(write, suites, witness):
    (suites / "base.yaml").write_text("process_docs: utils.f\n")
    with pytest.raises(DataError, match="holds a program"):
        read_task(write("include: [base.yaml]\n"))


METRICS = "metric_list:\n  - metric: acc\n"


def test_a_metric_that_is_a_program_is_refused(write, witness):
    with pytest.raises(DataError, match="holds a program"):
        read_task(write("metric_list:\n  - metric: utils\n    hf_evaluate: true\n", take=METRICS))
    with pytest.raises(DataError, match=r"no metric 'acc_nrm' in lm-eval; did you mean 'acc_norm'\?"):
        read_task(write("metric_list:\n  - metric: acc_nrm\n", take=METRICS))
    with pytest.raises(DataError, match="no list of metrics"):
        read_task(write("metric_list: acc\n", take=METRICS))


DATA = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: rows.jsonl\n"
ELSEWHERE = {
    "the hub": "dataset_path: someone/data\n",
    "a folder that may hold a script": "dataset_path: .\ndataset_kwargs: {data_files: rows.jsonl}\n",
    "pickles": "dataset_path: pandas\ndataset_kwargs: {data_files: rows.pkl}\n",
    "no files": "dataset_path: json\n",
}


@pytest.mark.parametrize("data", ELSEWHERE.values(), ids=ELSEWHERE)
def test_data_that_are_no_local_files_are_refused(data, write):
    with pytest.raises(DataError, match="its data are no local files"):
        read_task(write(data, take=DATA))


@pytest.mark.parametrize(
    "place", ["https://example.org/x.json", "hf://datasets/a/x.json", "zip://x.json::http://a/b.zip"]
)
def test_data_behind_an_address_are_refused(place, write):
    with pytest.raises(DataError, match="is no local file"):
        read_task(write(f"dataset_path: json\ndataset_kwargs: {{data_files: '{place}'}}\n", take=DATA))


def test_data_that_are_missing_are_named(write):
    with pytest.raises(DataError, match=r"its data are not there: .*rows2\.jsonl"):
        read_task(write("dataset_path: json\ndataset_kwargs: {data_files: rows2.jsonl}\n", take=DATA))


def test_paths_are_relative_to_the_file_that_names_them(write, suites, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert read_task(write())["dataset_kwargs"] == {"data_files": {"test": str(suites / "rows.jsonl")}}
    (suites / "below").mkdir()
    text = (suites / "choices.yaml").read_text().replace(DATA, "include: ../data.yaml\n")
    (suites / "below" / "mine.yaml").write_text(text)
    (suites / "data.yaml").write_text(f"task: other\ndoc_to_text: other\n{DATA}")
    found = read_task(suites / "below" / "mine.yaml")
    assert found["dataset_kwargs"] == {"data_files": {"test": str(suites / "below" / ".." / "rows.jsonl")}}
    assert (found["task"], found["doc_to_text"]) == ("choices", "{{q}}")
    assert "include" not in found


def test_a_file_that_includes_itself_is_refused(suites):
    (suites / "a.yaml").write_text("include: b.yaml\n")
    (suites / "b.yaml").write_text("include: a.yaml\n")
    with pytest.raises(DataError, match="it includes itself"):
        read_task(suites / "a.yaml")


DAMAGED = {
    "no YAML": b"task: [",
    "no settings": b"- task\n",
    "numbers for keys": b"1: 2\n",
    "empty": b"",
    "no UTF-8": b"task: \xff\xfe\n",
    "nested without end": b"[" * 600,
    "a bomb": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\ntask: t\n",
    "a group": b"group: g\ntask: [a, b]\n",
    "no task": b"dataset_path: json\n",
    "a cut template": b"task: t\ndoc_to_text: '{{ q '\n",
    "an include that is no name": b"include: [{a: b}]\n",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_message(content, suites):
    (suites / "bad.yaml").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.yaml"):
        read_task(suites / "bad.yaml")


def test_a_misspelled_setting_is_told_with_the_nearest(write):
    with pytest.raises(DataError, match=r"no setting 'doc_to_choise' of a task; did you mean 'doc_to_choice'\?"):
        read_task(write("doc_to_choise: c\n"))


def test_a_missing_file_is_one_message(suites):
    with pytest.raises(VgptError, match=r"nope\.yaml: No such file"):
        read_task(suites / "nope.yaml")


def test_a_folder_stands_for_the_tasks_in_it(suites):
    (suites / "base.yaml").write_text("description: for others\n")
    assert [path.name for path in task_files(suites)] == ["choices.yaml", "goes_on.yaml", "whole.yaml"]
    (suites / "empty").mkdir()
    with pytest.raises(DataError, match="no task file in it"):
        task_files(suites / "empty")


def test_words_of_suite_are_files_or_names(suites, monkeypatch):
    monkeypatch.chdir(suites.parent)
    assert [looks_like_file(word) for word in ("a.yaml", "x/a", suites.name, "arc_easy", "mmlu")] == [
        True, True, True, False, False,
    ]  # fmt: skip
