"""What attention can do: synthetic tasks of recall, state and length, each one file.

The names below are all that a task of your own needs: `from vgpt.evaluation.tasks import Task, register_task, ...`.
"""

from vgpt.evaluation.tasks.base import IGNORE, Batch, Control, Drawn, Length, Point, Score, Task
from vgpt.evaluation.tasks.draws import Draws
from vgpt.evaluation.tasks.registry import register_task, resolve_task, split_tasks, tasks

__all__ = [
    "IGNORE",
    "Batch",
    "Control",
    "Drawn",
    "Draws",
    "Length",
    "Point",
    "Score",
    "Task",
    "register_task",
    "resolve_task",
    "split_tasks",
    "tasks",
]
