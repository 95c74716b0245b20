"""How far a launch is: a live display on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.front import best_under
from studies.fronts import FrontSummary
from studies.records import Progress
from studies.words import clock

BUDGET_SHARES = (1 / 2, 1 / 4, 1 / 8)  # of the W8A8 full-depth cost
PLAIN_INTERVAL_S = 10.0
RATE_WINDOW_S = 60.0


class ProgressDisplay:
    """Shows snapshots of a study.

    Args:
        console: where to show them.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._last_plain = -PLAIN_INTERVAL_S
        self._last_count = -1

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Keep the live display up while inside."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False) as self._live:
            yield
        self._live = None

    def update(self, progress: Progress, summary: FrontSummary, *, final: bool = False) -> None:
        """Show where the study is now."""
        now = time.monotonic()
        ended = progress.ended
        self._seen.append((now, ended))
        while self._seen[0][0] < now - RATE_WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()
        if self._live is not None:
            self._live.update(self._panel(progress, summary), refresh=True)
            return
        due = now - self._last_plain >= PLAIN_INTERVAL_S and ended != self._last_count
        if due or (final and ended != self._last_count):
            self._last_plain, self._last_count = now, ended
            best = ", ".join(f"{value} at <= {cost:.3f}" for cost, value in self._best(summary))
            self.console.print(
                f"{summary.record.config.name}: {ended}/{progress.budget} trials, "
                f"{len(summary.rows)} evaluations, best {summary.record.metric} {best} GBOPs, "
                f"{self._time_left(progress)}",
                highlight=False,
                soft_wrap=True,
            )

    def _best(self, summary: FrontSummary) -> list[tuple[float, str]]:
        points = summary.points
        found = []
        for share in BUDGET_SHARES:
            cost = summary.w8a8_gbops * share
            index = best_under(points, cost) if len(points) else None
            found.append((cost, "-" if index is None else f"{points[index, 0]:.4f}"))
        return found

    def _time_left(self, progress: Progress) -> str:
        (then, before), (now, ended) = self._seen[0], self._seen[-1]
        left = progress.budget - ended
        if left <= 0:
            return "done"
        if ended == before or now == then:
            return "time left unknown yet"
        return f"about {clock(left * (now - then) / (ended - before))} left"

    def _panel(self, progress: Progress, summary: FrontSummary) -> Group:
        ended = progress.ended
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(summary.record.config.name, style="bold"),
            ProgressBar(total=progress.budget, completed=min(ended, progress.budget), width=24),
            Text(f"{ended}/{progress.budget} trials"),
            Text(self._time_left(progress), style="cyan"),
        )
        best = Text(f"best {summary.record.metric} ", no_wrap=True, overflow="ellipsis")
        for cost, value in self._best(summary):
            best.append(value, style="bold green")
            best.append(f" at <= {cost:.3f}, ")
        best.append(f"full precision {summary.record.reference_value:.4f}", style="dim")
        counts = Text(
            f"{len(summary.rows)} evaluations, {len(summary.front)} on the front, "
            f"{progress.running} running, {progress.failed} failed, {progress.lost} lost; "
            f"hypervolume {summary.hypervolume:.4f}; costs in GBOPs",
            style="dim",
            no_wrap=True,
            overflow="ellipsis",
        )
        return Group(head, best, counts)
