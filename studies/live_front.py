"""A study's front as one worker knows it: its own results and everyone else's."""

from __future__ import annotations

import logging

import numpy as np

from search.front import as_points, front_indices
from search.policy import Bits
from studies.records import EvaluationRow
from studies.store.database import StoreUnavailable
from studies.store.reader import StudyReader

log = logging.getLogger(__name__)


class LiveFront:
    """The non-dominated evaluations of a study's own model, read from the store as they come.

    Args:
        reader: of the store where they are recorded.
        study_id: of the study.
    """

    def __init__(self, reader: StudyReader, study_id: int) -> None:
        self._reader, self._study_id = reader, study_id
        self._revision = 0
        self.points = np.empty((0, 2))
        """Metric and GBOPs, ``[K, 2]``, by ascending cost."""
        self.rows: list[EvaluationRow] = []
        """The evaluations of the front, likewise."""
        self.best_by_bits: dict[Bits, float] = {}
        """The best metric recorded of every set of bits."""

    def learn(self) -> None:
        """Read what is new; while the store is away, go on with what is known.

        Raises:
            StudyGone: when the study was deleted.
        """
        try:
            rows = self._reader.evaluations(self._study_id, since=self._revision)
        except StoreUnavailable as error:
            log.warning("%s", error)
            return
        if not rows:
            return
        self._revision = rows[-1].revision
        own = [row for row in rows if row.model is None]
        for row in own:
            bits = row.policy.bits
            self.best_by_bits[bits] = max(row.value, self.best_by_bits.get(bits, 0.0))
        rows = [*self.rows, *own]
        points = as_points([row.value for row in rows], [row.gbops for row in rows])
        front = front_indices(points)
        self.points, self.rows = points[front], [rows[index] for index in front]

    def beyond(self, points: np.ndarray) -> np.ndarray:
        """Which of ``points`` ``[N, 2]`` would add to the front, bool ``[N]``."""
        better = self.points[None, :, 0] >= points[:, None, 0]
        cheaper = self.points[None, :, 1] <= points[:, None, 1]
        return np.asarray(~(better & cheaper).any(axis=1))
