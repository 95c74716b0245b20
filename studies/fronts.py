"""A study's front as people and programs read it. Neither torch nor timm."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

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

    def to_table(self, width: int | None = None) -> Group:
        """The front for a terminal ``width`` columns wide; None for all columns.

        Where not all columns fit, the least telling ones are left out, never a figure cut short.
        """
        record = self.record
        columns = {
            heading: [cell(self, row) for row in self.front_rows] for heading, cell in _CELLS
        }
        shown = _fitting(columns, width)
        table = Table(box=SIMPLE, pad_edge=False)
        for heading in shown:
            side: Literal["left", "right"] = "left" if heading in _LEFT else "right"
            label = record.metric if heading == "accuracy" else heading
            table.add_column(label, justify=side, no_wrap=True)
        for cells in zip(*(columns[heading] for heading in shown), strict=True):
            table.add_row(*(Text(cell) for cell in cells))
        notes = [
            f"full precision, full depth: {record.metric} {record.reference_value:.4f}, "
            f"{self.w32a32_gbops:.3f} GBOPs (32x32), {self.w8a8_gbops:.3f} at W8A8",
            "reduction is against 32x32; p95 is the cost that 95% of samples do not exceed",
            "measured on the search split, which chose these policies: it flatters them",
        ]
        if len(shown) < len(columns):
            left_out = ", ".join(heading for heading in columns if heading not in shown)
            notes.append(f"left out for want of room: {left_out}; a wider terminal, --csv have all")
        title = (
            f"Pareto front of {record.config.name}: {len(self.front)} of {len(self.rows)} "
            f"evaluated policies, hypervolume {self.hypervolume:.4f}"
        )
        return Group(Text(title, style="bold"), table, Text("\n".join(notes), style="dim"))

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


def _compact(bits: Sequence[int]) -> str:
    """Bits in little room: digits run together, 32 set apart."""
    if all(width < 10 for width in bits):
        return "".join(str(width) for width in bits)
    return " ".join(str(width) for width in bits)


def _fitting(columns: Mapping[str, Sequence[str]], width: int | None) -> list[str]:
    """The headings that fit, in their order; the first of ``_BY_WORTH`` are always there."""
    room = width if width is not None else 10_000
    chosen: set[str] = set()
    for rank, heading in enumerate(_BY_WORTH):
        needed = max(len(heading), *(len(cell) for cell in columns[heading]), 0) + 2
        if needed <= room or rank < _ALWAYS:
            chosen.add(heading)
            room -= needed
    return [heading for heading in columns if heading in chosen]


_CELLS: tuple[tuple[str, Callable[[FrontSummary, EvaluationRow], str]], ...] = (
    ("policy", lambda _, row: row.digest[:8]),
    ("accuracy", lambda _, row: f"{row.value:.4f}"),
    ("± se", lambda _, row: f"{row.standard_error:.4f}"),
    ("GBOPs", lambda _, row: f"{row.gbops:.4f}"),
    ("p95", lambda _, row: f"{row.gbops_p95:.4f}"),
    ("reduction", lambda front, row: f"{front.reduction(row):.2%}"),
    ("mean exit", lambda _, row: f"{row.mean_exit:.2f}"),
    ("bits w", lambda _, row: _compact(row.policy.bits.weights)),
    ("bits a", lambda _, row: _compact(row.policy.bits.activations)),
    ("thresholds", lambda _, row: " ".join(f"{t:.2f}" for t in row.policy.thresholds[:-1])),
    ("from", lambda _, row: row.source),
)
_LEFT = {"policy", "bits w", "bits a", "thresholds", "from"}
_BY_WORTH = (
    "policy", "accuracy", "GBOPs", "reduction", "± se", "bits w", "bits a", "from", "mean exit",
    "p95", "thresholds",
)  # fmt: skip
_ALWAYS = 4
