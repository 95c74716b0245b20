"""A study's front as people and programs read it. Neither torch nor timm."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from search.evaluation import GIGA, Evaluation
from search.front import as_points, front_indices, hypervolume
from studies.store import Recorded, StudyRecord, StudyStore

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
    rows: Sequence[Recorded]
    front: Sequence[int]
    details: Sequence[Evaluation] = ()

    @classmethod
    def of(cls, record: StudyRecord, rows: Sequence[Recorded]) -> FrontSummary:
        """Find the front of ``rows``, without details."""
        summary = cls(record, rows, ())
        return cls(record, rows, tuple(int(index) for index in front_indices(summary.points)))

    @classmethod
    def load(cls, store: StudyStore, name: str) -> FrontSummary:
        """Read a study's evaluations, find the front, and read the details of its policies."""
        summary = cls.of(store.get(name), store.evaluations(name))
        return replace(summary, details=store.details(summary.front_rows))

    @property
    def points(self) -> np.ndarray:
        """Metric and GBOPs of every evaluation, ``[N, 2]``."""
        return as_points(
            [row.value for row in self.rows],
            [row.gbops for row in self.rows],
        )

    @property
    def front_rows(self) -> list[Recorded]:
        """The non-dominated evaluations, cheapest first."""
        return [self.rows[index] for index in self.front]

    @property
    def w32a32_gbops(self) -> float:
        """Cost of the full-precision, full-depth reference."""
        references = self.record.ledger.references(self.record.anchors()[0])
        return references.w32a32 / GIGA

    @property
    def w8a8_gbops(self) -> float:
        """Cost of the W8A8, full-depth reference."""
        return self.w32a32_gbops * (8 * 8) / (32 * 32)

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

    def to_csv(self) -> str:
        """The front as CSV with a header line."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.row_as_dict(row) for row in self.front_rows)
        return buffer.getvalue()

    def to_table(self) -> Table:
        """The front for a terminal."""
        record = self.record
        table = Table(
            title=f"Pareto front of {record.config.name}: {len(self.front)} of "
            f"{len(self.rows)} evaluated policies",
            caption=f"full precision, full depth: {record.metric} {record.reference_value:.4f}, "
            f"{self.w32a32_gbops:.3f} GBOPs (32x32), {self.w8a8_gbops:.3f} at W8A8; reduction is "
            f"against 32x32\nmeasured on the search split, so selection flatters it; hypervolume "
            f"{self.hypervolume:.4f}",
            title_justify="left",
            caption_justify="left",
        )
        headings = (
            "policy", record.metric, "± se", "GBOPs", "p95", "reduction", "mean exit",
            "bits w", "bits a", "thresholds", "from",
        )  # fmt: skip
        for heading in headings:
            left = heading in {"policy", "bits w", "bits a", "thresholds", "from"}
            table.add_column(heading, justify="left" if left else "right", no_wrap=True)
        for row in self.front_rows:
            table.add_row(
                row.digest[:8],
                f"{row.value:.4f}",
                f"{row.standard_error:.4f}",
                f"{row.gbops:.4f}",
                f"{row.gbops_p95:.4f}",
                f"{self.reduction(row):.2%}",
                f"{row.mean_exit:.2f}",
                _compact(row.policy.weight_bits),
                _compact(row.policy.activation_bits),
                " ".join(f"{value:.2f}" for value in row.policy.thresholds[:-1]),
                row.source,
            )
        return table

    def reduction(self, row: Recorded) -> float:
        """Fraction of the 32x32 full-depth cost that a policy saves."""
        return 1 - row.gbops / self.w32a32_gbops

    def row_as_dict(self, row: Recorded) -> dict[str, Any]:
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


def _compact(bits: Sequence[int]) -> str:
    """Bits in little room: digits run together, 32 set apart."""
    if all(width < 10 for width in bits):
        return "".join(str(width) for width in bits)
    return " ".join(str(width) for width in bits)
