"""Progress of what takes long, on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.status import Status
from rich.text import Text


@contextmanager
def bars(console: Console) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar for everything that is reported; elsewhere a line for each when it is done.

    Gives what receives reports: what is done, how much of it is done, and of how much. A new
    ``what`` says that the one before is done.
    """
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def end_last() -> None:
        if not tasks:
            return
        what, task = list(tasks.items())[-1]
        shown.stop_task(task)
        if not console.is_terminal:
            console.print(f"{what}: done", markup=False, highlight=False)

    def on_progress(what: str, done: int, of: int | None) -> None:
        if what not in tasks:
            end_last()
            tasks[what] = shown.add_task(what, total=of)
        shown.update(tasks[what], completed=done, total=of)

    with shown:
        yield on_progress
    end_last()


@contextmanager
def stages(console: Console) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal, from the first report on. Gives what receives reports."""
    with ExitStack() as stack:
        status: Status | None = None

        def on_stage(stage: str) -> None:
            nonlocal status
            if status is None:
                status = stack.enter_context(console.status(Text(stage)))
            else:
                status.update(Text(stage))

        yield on_stage
