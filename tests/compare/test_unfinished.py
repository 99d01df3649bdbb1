from pathlib import Path

from vgpt.compare.unfinished import unfinished_remarks
from vgpt.tracking.store import read_local_run
from vgpt.tracking.tracker import RunStart, open_tracker


def test_the_step_of_an_unfinished_run_is_read_from_its_journal(tmp_path):
    directory = Path("runs/my_run")
    directory.mkdir(parents=True)
    start = RunStart("my_run", directory, "vgpt", {"max_steps": "1000"}, {"vgpt.attn": "mqa"})
    tracker = open_tracker(start, kind="journal", resume_step=None, notify=lambda line: None)
    tracker.log({"train/loss": 3.0}, step=300)
    run = read_local_run(directory)
    assert run is not None
    # Nobody holds the run's lock: the process that trained it is gone.
    assert unfinished_remarks([("mqa", run)]) == ["1 run of mqa was stopped early: my_run, step 300/1000"]
    tracker.finish("killed")


def test_many_unfinished_runs_are_counted_and_three_are_named(make_run):
    runs = [("mqa", make_run("mqa", status="failed", run_name=f"r{number}")) for number in range(5)]
    runs.append(("mqa", make_run("mqa")))
    assert unfinished_remarks(runs) == ["5 runs of mqa failed: r0; r1; r2; and 2 more"]
