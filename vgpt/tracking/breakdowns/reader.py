"""Where the breakdowns of a run are found."""

from vgpt.tracking.breakdowns.record import EVALUATIONS_FILE, Breakdown, parse
from vgpt.tracking.owned_file import DamagedError, Owner
from vgpt.tracking.run_file import RunFileReader
from vgpt.tracking.run_info import RunInfo
from vgpt.tracking.schema import WHEN_ASKED, Metric, Tag

_METRICS = {str(one) for one in Metric if one.when == WHEN_ASKED}


class BreakdownReader(RunFileReader[dict[str, Breakdown]]):
    """Finds the breakdowns of runs by their kind; none where nobody asked `vgpt eval` for any."""

    file, what = EVALUATIONS_FILE, "evaluations"

    def read(self, run: RunInfo, content: bytes | None) -> dict[str, Breakdown]:
        """Return the breakdowns by kind; what is damaged is a problem, and none."""
        if content is None:
            return {}
        try:
            return {one.kind: one for one in parse(content, Owner(run.id, run.tags.get(Tag.SEAL, "")))}
        except DamagedError as error:
            self.problems.append(
                f"{EVALUATIONS_FILE} of {run.run_name} is damaged ({error}) and left out; vgpt eval writes it anew"
            )
            return {}

    def in_store(self, run: RunInfo) -> bool:
        """Return whether a figure of a breakdown is there."""
        return bool(_METRICS & run.metrics.keys())
