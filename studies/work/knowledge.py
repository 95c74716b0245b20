"""What a sampler is told of its study, read from the store as it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from search.bits.surrogate import Surrogate
from search.bits.tables import SensitivityTables
from search.cost import GIGA
from search.policy import Bits, Policy
from search.results import Evaluation
from studies.live_front import LiveFront
from studies.records import EvaluationGone, Study, StudyGone
from studies.store.database import StoreUnavailable
from studies.store.reader import StudyReader


class StudyKnowledge:
    """Front, measured bits and pending policies of one study.

    Args:
        reader: of the store where they are recorded.
        study: by the store.
    """

    def __init__(self, reader: StudyReader, study: Study) -> None:
        self._reader, self._study_id = reader, study.id
        self._details: dict[int, Evaluation] = {}
        record = study.record
        self.live_front = LiveFront(reader, study.id)
        """The study's front as this process knows it, one for all who ask."""
        self.surrogate = Surrogate(record.space, record.ledger)
        self.reference_gbops = record.ledger.full_depth_macs * 8**2 / GIGA

    def learn(self) -> None:
        """Read what is new.

        Raises:
            StudyGone: when the study was deleted.
        """
        self.live_front.learn()

    def take_up(self, tables: SensitivityTables) -> None:
        """Estimate by these sensitivities from now on."""
        self.surrogate = replace(self.surrogate, tables=tables)

    def front(self) -> tuple[np.ndarray, Sequence[int]]:
        """Metric and GBOPs of the front, and the id of each evaluation.

        Only of what lies in the study's space: others have no bits to begin from.
        """
        rows, space = self.live_front.rows, self.surrogate.space
        legal = [index for index, row in enumerate(rows) if space.contains(row.policy)]
        return self.live_front.points[legal], [rows[index].id for index in legal]

    def evaluations(self, keys: Sequence[int]) -> list[Evaluation]:
        """The whole evaluations of points on the front; each is read once.

        Only those read before while the store is away.

        Raises:
            StudyGone: when the study was deleted.
        """
        rows = {row.id: row for row in self.live_front.rows}
        missing = [rows[key] for key in keys if key not in self._details]
        if missing:
            try:
                for row, detail in zip(missing, self._reader.details(missing), strict=True):
                    self._details[row.id] = detail
            except EvaluationGone:
                raise StudyGone(self._study_id) from None
            except StoreUnavailable:
                pass
        return [self._details[key] for key in keys if key in self._details]

    def best_by_bits(self) -> Mapping[Bits, float]:
        """The best metric recorded of every set of bits."""
        return self.live_front.best_by_bits

    def pending(self) -> list[Policy]:
        """Policies in workers' hands; none are known while the store is away."""
        try:
            return self._reader.pending(self._study_id, self.surrogate.space)
        except StoreUnavailable:
            return []
