"""The report of a study: its comparisons, and what they say together, computed once for all views."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from vgpt.compare.ladder import Ladder
from vgpt.compare.statistics.evaluation_noise import Windows
from vgpt.report.figures.ladder import draw_ladder
from vgpt.report.figures.style import Figure
from vgpt.report.figures.write import draw_all
from vgpt.report.html.page import ReportSection, Together, as_html
from vgpt.report.ladder import ladder_tables
from vgpt.report.study_tables import signs_table
from vgpt.study.ladders.answers import answer_ladder
from vgpt.study.reproduce import study_command
from vgpt.study.study import Answered, Study
from vgpt.tracking.histories import HistoryReader


@dataclass(frozen=True)
class StudyReport:
    """A study with its answers, one comparison each."""

    study: Study
    answers: Sequence[Answered]

    @property
    def told(self) -> list[Answered]:
        """The parts that have anything to show."""
        return [answer for answer in self.answers if answer.comparison.rows]

    @cached_property
    def ladder(self) -> Ladder | None:
        """What the rungs of a ladder together say; None for a study that is none."""
        return answer_ladder(self.study, self.answers)

    @cached_property
    def together(self) -> Together:
        """The tables and figures of all parts together: the trend of a ladder, or in how many settings a sign holds."""
        if self.study.ladder is None:
            return Together("All settings", signs_table(self.answers))
        figure = draw_ladder(self.ladder)
        return Together("All rungs", ladder_tables(self.ladder), [] if figure is None else [figure])

    def sections(self, histories: HistoryReader, windows: Windows) -> list[ReportSection]:
        """Return the parts with their figures, under names that no other part's have.

        Args:
            histories: finds the losses along the way of a run.
            windows: finds its losses per window and position.
        """
        found: list[ReportSection] = []
        for answer in self.told:
            before = f"{answer.part.slug}_" if answer.part.slug else ""
            drawn = draw_all(answer.comparison, histories, windows)
            figures = [replace(one, name=f"{before}{one.name}") for one in drawn]
            found.append(ReportSection(answer.comparison, figures, answer.part.title))
        return found

    def figures(self, sections: Sequence[ReportSection]) -> list[Figure]:
        """Return all figures: those of the parts, then those of all together."""
        return [*(figure for section in sections for figure in section.figures), *self.together.figures]

    def page(self, sections: Sequence[ReportSection]) -> str:
        """Return the report as a page for browsers."""
        return as_html(
            sections,
            name=self.study.name,
            command=study_command(self.study),
            made=time.time(),
            together=self.together,
        )
