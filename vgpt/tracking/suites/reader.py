"""Where the results of suites on a run are found."""

from vgpt.tracking.owned_file import DamagedError, Owner
from vgpt.tracking.run_file import RunFileReader
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import SUITE, Tag
from vgpt.tracking.suites.record import SUITES_FILE, TaskResult, parse


class SuiteReader(RunFileReader[dict[str, TaskResult]]):
    """Finds the results of runs by task; none where nobody asked `vgpt eval --suite` for any."""

    file, what = SUITES_FILE, "suites"

    def read(self, run: RunInfo, content: bytes | None) -> dict[str, TaskResult]:
        """Return the results by task; what is damaged is a problem, and none."""
        if content is None:
            return {}
        try:
            return {one.task: one for one in parse(content, Owner(run.id, run.tags.get(Tag.SEAL, "")))}
        except DamagedError as error:
            self.problems.append(
                f"{SUITES_FILE} of {run.run_name} is damaged ({error}) and left out; vgpt eval --suite writes it anew"
            )
            return {}

    def in_store(self, run: RunInfo) -> bool:
        """Return whether a figure of a task is there."""
        return any(name.startswith(SUITE) for name in run.metrics)
