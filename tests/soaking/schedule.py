"""When faults happen: at random times, in random order, every kind once before any comes again."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from soaking.databases import Away
from soaking.faults import FAULTS, NotNow, Scene


class Schedule:
    """Begins faults, and heals them when their time is over.

    Args:
        scene: what they are done to.
        kinds: names, one more often than others where it stands there more often.
        every_s: mean seconds between two.
        rng: decides.

    Attributes:
        done: how many of each kind happened.
    """

    def __init__(
        self, scene: Scene, kinds: Sequence[str], every_s: float, rng: random.Random
    ) -> None:
        self._scene, self._kinds, self._every_s, self._rng = scene, kinds, every_s, rng
        self._bag: list[str] = []
        self._lasting: list[tuple[float, Iterator[float]]] = []
        self._next = time.monotonic() + self._pause()
        self.done: Counter[str] = Counter()

    def round(self) -> None:
        """Heal what has lasted long enough; begin the next fault if it is time."""
        now = time.monotonic()
        over = [fault for until, fault in self._lasting if until <= now]
        self._lasting = [(until, fault) for until, fault in self._lasting if until > now]
        for fault in over:
            self._step(fault)
        if now >= self._next:
            self._begin()
            self._next = time.monotonic() + self._pause()

    def heal(self) -> None:
        """Take everything back that lasts."""
        while self._lasting:
            _, fault = self._lasting.pop()
            self._step(fault)

    def _begin(self) -> None:
        """The next kind for which there is something at hand."""
        for _ in self._kinds:
            if not self._bag:
                self._bag = self._rng.sample(self._kinds, len(self._kinds))
            kind = self._bag.pop()
            with suppress(NotNow, Away):
                self._step(FAULTS[kind](self._scene))
                self.done[kind] += 1
                return

    def _step(self, fault: Iterator[float]) -> None:
        lasts_s = next(fault, None)
        if lasts_s is not None:
            self._lasting.append((time.monotonic() + lasts_s, fault))

    def _pause(self) -> float:
        return self._rng.expovariate(1 / self._every_s)
