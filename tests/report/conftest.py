from tests.recorded_runs import (  # noqa: F401 - fixtures
    _in_a_folder_of_its_own,
    ask,
    course,
    evaluated,
    make_run,
    renamed,
    three,
)
