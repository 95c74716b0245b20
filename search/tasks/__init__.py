"""Tasks: what a head's answer means, behind one small Protocol; a registry by name."""

from __future__ import annotations

from search.registry import Registry
from search.tasks.base import Routed, Score, Task, shortfall_by_score

TASKS = Registry(
    "task", "exitbits.tasks", {"classification": "search.tasks.classification:Classification"}
)


def resolve_task(name: str) -> Task:
    """Return the plain half of the task called ``name``.

    Raises:
        BadInput: when the name is unknown.
    """
    task: Task = TASKS.resolve(name)()
    return task


__all__ = ["TASKS", "Routed", "Score", "Task", "resolve_task", "shortfall_by_score"]
