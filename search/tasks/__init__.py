"""Tasks: what a head's answer means, in a plain half and a torch half.

A registry by name for each half; a task is in both."""

from __future__ import annotations

from search.registry import Registry
from search.tasks.base import Routed, Score, Task, shortfall_by_score

TASKS = Registry(
    "task", "exitbits.tasks", {"classification": "search.tasks.classification:Classification"}
)
TORCH_TASKS = Registry(
    "torch half of task",
    "exitbits.torch_tasks",
    {"classification": "search.tasks.classification_torch:TorchClassification"},
)


def resolve_task(name: str) -> Task:
    """Return the plain half of the task called ``name``.

    Raises:
        BadInput: when the name is unknown.
    """
    task: Task = TASKS.resolve(name)()
    return task


__all__ = [
    "TASKS", "TORCH_TASKS", "Routed", "Score", "Task", "resolve_task", "shortfall_by_score",
]  # fmt: skip
