"""Policies of a study as rows of the table on its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboards.snapshot import Snapshot
from studies.records import EvaluationRow

TABLE_ROWS = 5000


def table_rows(snapshot: Snapshot, rows: Sequence[EvaluationRow]) -> list[dict[str, Any]]:
    """What the table shows of rows."""
    return [
        {
            "id": str(row.id),
            "policy": row.digest[:8],
            "value": round(row.value, 6),
            "standard_error": round(row.standard_error, 5),
            "gbops": round(row.gbops, 6),
            "gbops_p95": round(row.gbops_p95, 6),
            "reduction": f"{snapshot.summary.reduction(row):.2%}",
            "mean_exit": round(row.mean_exit, 3),
            "weights": " ".join(map(str, row.policy.bits.weights)),
            "activations": " ".join(map(str, row.policy.bits.activations)),
            "thresholds": " ".join(f"{one:.2f}" for one in row.policy.thresholds[:-1]),
            "source": row.source,
            "trial": row.trial,
        }
        for row in rows[:TABLE_ROWS]
    ]
