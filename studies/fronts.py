"""A study's front as people and programs read it. Neither torch nor timm."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from search.evaluation import GIGA
from search.front import as_points, front_indices, hypervolume
from studies.store import Recorded, StudyRecord

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
    """

    record: StudyRecord
    rows: Sequence[Recorded]
    front: Sequence[int]

    @classmethod
    def of(cls, record: StudyRecord, rows: Sequence[Recorded]) -> FrontSummary:
        """Find the front of ``rows``."""
        summary = cls(record, rows, ())
        return cls(record, rows, tuple(int(index) for index in front_indices(summary.points)))

    @property
    def points(self) -> np.ndarray:
        """Metric and GBOPs of every evaluation, ``[N, 2]``."""
        return as_points(
            [row.evaluation.value for row in self.rows],
            [row.evaluation.gbops for row in self.rows],
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
            "front": [front_row(row) for row in self.front_rows],
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
        writer.writerows(front_row(row) for row in self.front_rows)
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
            found = row.evaluation
            table.add_row(
                found.policy.digest[:8],
                f"{found.value:.4f}",
                f"{found.standard_error:.4f}",
                f"{found.gbops:.4f}",
                f"{found.cost.p95 / GIGA:.4f}",
                f"{found.reduction:.2%}",
                f"{found.mean_exit:.2f}",
                _compact(found.policy.weight_bits),
                _compact(found.policy.activation_bits),
                " ".join(f"{value:.2f}" for value in found.policy.thresholds[:-1]),
                row.source,
            )
        return table


def front_row(row: Recorded) -> dict[str, Any]:
    """One evaluation in the contract's fields."""
    found = row.evaluation
    return {
        "digest": found.policy.digest,
        "trial": row.trial,
        "source": row.source,
        "accuracy": found.value,
        "accuracy_se": found.standard_error,
        "gbops": found.gbops,
        "gbops_p95": found.cost.p95 / GIGA,
        "reduction": found.reduction,
        "mean_exit": found.mean_exit,
    }


def _compact(bits: Sequence[int]) -> str:
    """Bits in little room: digits run together, 32 set apart."""
    if all(width < 10 for width in bits):
        return "".join(str(width) for width in bits)
    return " ".join(str(width) for width in bits)
