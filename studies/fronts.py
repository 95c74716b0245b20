"""A study's front as people and programs read it. Neither torch nor timm."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from search.cost import GIGA, Cost
from search.display import compact
from search.front import as_points, front_indices, hypervolume, knee
from search.policy import FULL_PRECISION, Bits, Policy
from search.results import Evaluation
from studies.records import EvaluationRow, Study, StudyRecord
from studies.store.reader import StudyReader

COLUMNS = (
    "digest", "trial", "source", "accuracy", "accuracy_se", "drop", "drop_se", "gbops",
    "gbops_p95", "reduction", "mean_exit", "weight_bits", "activation_bits", "embed_bits",
    "head_bits", "thresholds",
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
    _of_bits: dict[Bits, tuple[float, float | None, float | None]] = field(
        default_factory=dict, repr=False, compare=False
    )

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
    def fixed_gbops(self) -> float:
        """What every policy of the study pays for the patch embedding and the first head."""
        return self.record.ledger.fixed_bops(self.record.space.narrowest().bits) / GIGA

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
            "front": [
                self.row_as_dict(row, detail)
                for row, detail in zip(self.front_rows, self.details, strict=True)
            ],
        }
        if metric != "accuracy":
            fields["metric"] = metric
        return fields

    def to_json(self) -> str:
        """The contract as JSON text."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def to_csv(self) -> str:
        """The front as CSV with a header line."""
        return self.rows_to_csv(self.front_rows, self.details)

    def rows_to_csv(self, rows: Sequence[EvaluationRow], details: Sequence[Evaluation]) -> str:
        """Any rows of the study as CSV with a header line, bits and thresholds run together.

        Args:
            rows: of the study.
            details: their whole evaluations.
        """
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {
                name: harmless(value)
                for name, value in {
                    **self.row_as_dict(row, detail),
                    **widths_as_text(row.policy),
                }.items()
            }
            for row, detail in zip(rows, details, strict=True)
        )
        return buffer.getvalue()

    def drop(self, row: EvaluationRow) -> float:
        """How much of the metric a policy loses against full precision at full depth."""
        return self.record.reference_value - row.value

    def cost(self, row: EvaluationRow) -> Cost:
        """What a policy costs by every measure; all but the recorded ones follow from its bits."""
        bits, ledger = row.policy.bits, self.record.ledger
        if bits not in self._of_bits:
            worst = float(ledger.path_bops(bits)[-1])
            self._of_bits[bits] = worst, ledger.memory(bits), ledger.mean_bits(bits)
        worst, memory, mean_bits = self._of_bits[bits]
        return Cost(row.gbops * GIGA, row.gbops_p95 * GIGA, worst, memory, mean_bits)

    def reduction(self, row: EvaluationRow) -> float:
        """Fraction of the 32x32 full-depth cost that a policy saves."""
        return 1 - row.gbops / self.w32a32_gbops

    def row_as_dict(self, row: EvaluationRow, detail: Evaluation) -> dict[str, Any]:
        """One evaluation in the contract's fields.

        Args:
            row: of the study.
            detail: the whole evaluation behind it.
        """
        policy = row.policy
        return {
            "digest": row.digest,
            "trial": row.trial,
            "source": row.source,
            "accuracy": row.value,
            "accuracy_se": row.standard_error,
            "drop": self.drop(row),
            "drop_se": detail.drop_se,
            "gbops": row.gbops,
            "gbops_p95": row.gbops_p95,
            "reduction": self.reduction(row),
            "mean_exit": row.mean_exit,
            "weight_bits": list(policy.bits.weights),
            "activation_bits": list(policy.bits.activations),
            "embed_bits": policy.bits.embed,
            "head_bits": policy.bits.head,
            "thresholds": list(policy.thresholds),
        }


def harmless(cell: Any) -> Any:
    """A cell as a spreadsheet may open it: text that it would take for a formula is quoted."""
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{cell}"
    return cell


def widths_as_text(policy: Policy) -> dict[str, str]:
    """What of a policy is a list, as one cell of a table each."""
    return {
        "weight_bits": compact(policy.bits.weights),
        "activation_bits": compact(policy.bits.activations),
        "thresholds": " ".join(f"{value:.6g}" for value in policy.thresholds[:-1]),
    }
