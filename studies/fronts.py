"""A study's front as people and programs read it. Neither torch nor timm."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from search.front import as_points, front_indices, hypervolume, knee
from search.policy import FULL_PRECISION
from search.results import GIGA, Evaluation
from studies.records import EvaluationRow, Study, StudyRecord
from studies.store.reader import StudyReader

COLUMNS = (
    "digest", "trial", "source", "accuracy", "accuracy_se", "gbops", "gbops_p95", "reduction",
    "mean_exit",
)  # fmt: skip


@dataclass(frozen=True)
class FrontSummary:
    """A study's evaluations and which of them are not dominated.

    Attributes:
        record: the study.
        rows: every evaluation, in the order of their trials.
        front: indices into ``rows``, by ascending cost.
        details: the whole evaluations of the front's policies, where they were read.
    """

    record: StudyRecord
    rows: Sequence[EvaluationRow]
    front: Sequence[int]
    details: Sequence[Evaluation] = ()

    @classmethod
    def of(cls, record: StudyRecord, rows: Sequence[EvaluationRow]) -> FrontSummary:
        """Find the front of ``rows``, without details."""
        summary = cls(record, rows, ())
        return cls(record, rows, tuple(int(index) for index in front_indices(summary.points)))

    @classmethod
    def load(cls, reader: StudyReader, study: Study) -> FrontSummary:
        """Read a study's evaluations, find the front, and read the details of its policies.

        Raises:
            StudyGone: when the study was deleted.
        """
        summary = cls.of(study.record, reader.evaluations(study.id))
        return replace(summary, details=reader.details(summary.front_rows))

    @property
    def points(self) -> np.ndarray:
        """Metric and GBOPs of every evaluation, ``[N, 2]``."""
        return as_points(
            [row.value for row in self.rows],
            [row.gbops for row in self.rows],
        )

    @property
    def front_rows(self) -> list[EvaluationRow]:
        """The non-dominated evaluations, cheapest first."""
        return [self.rows[index] for index in self.front]

    @property
    def knee(self) -> int | None:
        """Index into ``rows`` of the front's knee; None for fewer than three policies on it."""
        rows = self.front_rows
        index = knee(as_points([row.value for row in rows], [row.gbops for row in rows]))
        return None if index is None else self.front[index]

    @property
    def w32a32_gbops(self) -> float:
        """Cost of the full-precision, full-depth reference."""
        return self.record.ledger.full_depth_macs * FULL_PRECISION**2 / GIGA

    @property
    def w8a8_gbops(self) -> float:
        """Cost of the W8A8, full-depth reference."""
        return self.record.ledger.full_depth_macs * 8**2 / GIGA

    @property
    def hypervolume(self) -> float:
        """Dominated fraction of the box from metric 0 and the W8A8 full-depth cost."""
        return hypervolume(self.points, self.w8a8_gbops)

    def as_dict(self) -> dict[str, Any]:
        """The contract of ``front --json``."""
        metric = self.record.metric
        fields: dict[str, Any] = {
            "study": self.record.config.name,
            "reference": {metric: self.record.reference_value, "gbops": self.w32a32_gbops},
            "hypervolume": self.hypervolume,
            "evaluations": len(self.rows),
            "front": [self.row_as_dict(row) for row in self.front_rows],
        }
        if metric != "accuracy":
            fields["metric"] = metric
        return fields

    def to_json(self) -> str:
        """The contract as JSON text."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def to_csv(self, rows: Sequence[EvaluationRow] | None = None) -> str:
        """The front, or other rows of the study, as CSV with a header line."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            self.row_as_dict(row) for row in (self.front_rows if rows is None else rows)
        )
        return buffer.getvalue()

    def reduction(self, row: EvaluationRow) -> float:
        """Fraction of the 32x32 full-depth cost that a policy saves."""
        return 1 - row.gbops / self.w32a32_gbops

    def row_as_dict(self, row: EvaluationRow) -> dict[str, Any]:
        """One evaluation in the contract's fields."""
        return {
            "digest": row.digest,
            "trial": row.trial,
            "source": row.source,
            "accuracy": row.value,
            "accuracy_se": row.standard_error,
            "gbops": row.gbops,
            "gbops_p95": row.gbops_p95,
            "reduction": self.reduction(row),
            "mean_exit": row.mean_exit,
        }
