"""What the sampler ``apq`` is told of its study, read from the store as it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from search.bits.surrogate import Surrogate
from search.policy import Bits, Policy
from search.results import GIGA, Evaluation
from studies.records import StudyRecord
from studies.store.database import StoreUnavailable

if TYPE_CHECKING:
    from studies.store.writer import StudyStore


class StudyKnowledge:
    """Front, measured bits and pending policies of one study.

    Args:
        store: where they are recorded; its tables are used as soon as it has them.
        record: the study.
    """

    def __init__(self, store: StudyStore, record: StudyRecord) -> None:
        self._store, self._name = store, record.config.name
        self._known = store.known_front(self._name)
        self._details: dict[int, Evaluation] = {}
        self.surrogate = Surrogate(record.space, record.ledger, store.tables.get(self._name))
        self.reference_gbops = record.ledger.full_depth_macs * 8**2 / GIGA

    def learn(self) -> None:
        """Read what is new."""
        self._known.learn()
        tables = self._store.tables.get(self._name)
        if tables is not self.surrogate.tables:
            self.surrogate = replace(self.surrogate, tables=tables)

    def front(self) -> tuple[np.ndarray, Sequence[int]]:
        """Metric and GBOPs of the front, and the id of each evaluation.

        Only of what lies in the study's space: others have no bits to begin from.
        """
        legal = [index for index, row in enumerate(self._known.rows) if self._is_legal(row.policy)]
        return self._known.points[legal], [self._known.rows[index].id for index in legal]

    def evaluations(self, keys: Sequence[int]) -> list[Evaluation]:
        """The whole evaluations of points on the front; each is read once.

        Only those read before while the store is away.
        """
        rows = {row.id: row for row in self._known.rows}
        missing = [rows[key] for key in keys if key not in self._details]
        if missing:
            with suppress(StoreUnavailable):
                for row, found in zip(missing, self._store.details(missing), strict=True):
                    self._details[row.id] = found
        return [self._details[key] for key in keys if key in self._details]

    def best_by_bits(self) -> Mapping[Bits, float]:
        """The best metric recorded of every set of bits."""
        return self._known.best_by_bits

    def pending(self) -> list[Policy]:
        """Policies in workers' hands; none are known while the store is away."""
        try:
            return self._store.pending(self._name)
        except StoreUnavailable:
            return []

    def _is_legal(self, policy: Policy) -> bool:
        return self.surrogate.space.contains(policy)
