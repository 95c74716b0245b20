"""Waiting for a database that is away: the one rule for whatever runs for long.

Every statement is repeated for a few seconds by :class:`~studies.store.database.Database` itself.
What takes longer ends a short command with an error, but never one that runs for long: it says so
once, waits until the database answers, and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from studies.store.database import StoreUnavailable

PAUSE_S = 2.0

Answer = TypeVar("Answer")


class Outage:
    """What is said of the times when the database was away: each once, and when it was over.

    Args:
        say: receives a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._began: float | None = None

    def note(self, what: str) -> None:
        """The database is away: say so, unless that was said."""
        if self._began is None:
            self._began = time.monotonic()
            self._say(what)

    def over(self) -> None:
        """The database has answered."""
        if self._began is not None:
            self._say(f"the store answers again, after {time.monotonic() - self._began:.0f} s")
            self._began = None

    def wait_out(
        self, ask: Callable[[], Answer], go_on: Callable[[], bool] = lambda: True
    ) -> Answer:
        """Ask until the database answers.

        Args:
            ask: what may be asked more than once.
            go_on: whether to wait any longer, asked after every attempt.

        Raises:
            StoreUnavailable: when it is away and there was no going on.
        """
        while True:
            try:
                answer = ask()
            except StoreUnavailable as error:
                if not go_on():
                    raise
                self.note(f"{error}; waiting for it")
                time.sleep(PAUSE_S)
            else:
                self.over()
                return answer
