"""What a person sees while a study runs, on a terminal and in a log."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyte
import pytest
from rich.console import Console
from small_study import grow

from studies.commands.progress import ProgressDisplay
from studies.fronts import FrontSummary
from studies.records import Progress, StudyRecord
from studies.store.writer import StudyStore


@pytest.fixture
def summary(
    tmp_path_factory: pytest.TempPathFactory, make_record: Callable[..., StudyRecord]
) -> FrontSummary:
    store = StudyStore(f"sqlite:///{tmp_path_factory.mktemp('store')}/s.db", create=True)
    store.create(make_record())
    grow(store, "small", 12)
    return FrontSummary.load(store, store.get("small"))


def test_a_log_gets_plain_lines_and_no_repetition(summary: FrontSummary) -> None:
    out = io.StringIO()
    display = ProgressDisplay(Console(file=out))
    with display.showing():
        display.update(Progress(12, 0, 2, 0, 0), summary)
        display.update(Progress(12, 1, 2, 0, 0), summary)  # too soon for another line
        display.update(Progress(12, 12, 0, 0, 0), summary, final=True)
        display.update(Progress(12, 12, 0, 0, 0), summary, final=True)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("small: 0/12 trials, 12 evaluations, best accuracy ")
    assert lines[1].endswith("done")
    assert "\x1b" not in out.getvalue()


def test_a_terminal_shows_counts_budgets_and_time_left(summary: FrontSummary) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=110, height=30, color_system=None)
    screen = pyte.Screen(110, 30)
    display = ProgressDisplay(console)
    with display.showing():
        display.update(Progress(12, 0, 2, 0, 0), summary)
        display.update(Progress(12, 3, 2, 1, 1), summary)
        pyte.Stream(screen).feed(out.getvalue().replace("\n", "\r\n"))
    shown = "\n".join(line.rstrip() for line in screen.display if line.strip())
    assert "4/12 trials" in shown
    assert "2 running, 1 failed, 1 lost" in shown
    assert shown.count(" at <= ") == 3
    assert "full precision 0.9000" in shown
    assert "left" in shown
    assert len(shown.splitlines()) == 3  # redrawn in place, not scrolled
