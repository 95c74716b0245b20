"""Tasks: what a head's answer means, behind one small Protocol."""

from __future__ import annotations

from search.errors import unknown_choice
from search.tasks.base import Score, Task
from search.tasks.classification import Classification

TASKS: dict[str, Task] = {"classification": Classification()}


def resolve_task(name: str) -> Task:
    """Return the task called ``name``."""
    if name not in TASKS:
        raise unknown_choice("task", name, TASKS)
    return TASKS[name]


__all__ = ["TASKS", "Score", "Task", "resolve_task"]
