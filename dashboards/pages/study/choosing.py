"""Which policies of a study a view is about: under a budget, in a selection, within brushes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dashboards.pages.study.view import FrontView
from dashboards.snapshot import Snapshot
from search.front import best_under
from studies.records import EvaluationRow


def cost_range(snapshot: Snapshot) -> tuple[float, float]:
    """The cheapest and the dearest cost that the budget can be set to, GBOPs."""
    high = snapshot.summary.w8a8_gbops
    if not len(snapshot.points):
        return high / 100, high
    return float(snapshot.points[:, 1].min()), max(high, float(snapshot.points[:, 1].max()))


def best_index(snapshot: Snapshot, budget: float | None) -> int | None:
    """Index of the best row under the budget; None where there is none."""
    if not len(snapshot.rows):
        return None
    limit = cost_range(snapshot)[1] if budget is None else budget
    return best_under(snapshot.points, limit)


def is_narrowed(view: FrontView) -> bool:
    """Whether some rows are chosen, by a selection or by brushes."""
    return bool(view.selection or view.brushes)


def candidates(snapshot: Snapshot, view: FrontView) -> list[EvaluationRow]:
    """The selected rows, or the front where nothing is selected."""
    if not view.selection:
        return snapshot.summary.front_rows
    inside = view.selected(snapshot.points)
    if not view.dominated:
        shown = np.zeros(len(inside), dtype=bool)
        shown[list(snapshot.front)] = True
        inside &= shown
    return [snapshot.rows[int(index)] for index in np.flatnonzero(inside)]


def chosen_rows(snapshot: Snapshot, view: FrontView) -> list[EvaluationRow]:
    """The candidates that every brush lets through, by ascending cost."""
    rows = candidates(snapshot, view)
    if rows and view.brushes:
        kept = view.brushed(axes_of(rows))
        rows = [row for row, is_kept in zip(rows, kept, strict=True) if is_kept]
    return sorted(rows, key=lambda row: (row.gbops, row.id))


def axes_of(rows: Sequence[EvaluationRow]) -> np.ndarray:
    """What the parallel coordinates show of rows ``[N, axes]``: choices, metric, GBOPs."""
    return np.array(
        [
            [*p.bits.weights, *p.bits.activations, *p.thresholds[:-1], row.value, row.gbops]
            for row, p in ((row, row.policy) for row in rows)
        ]
    )


def axis_labels(snapshot: Snapshot) -> list[str]:
    """Names of those axes."""
    space, blocks = snapshot.record.space, snapshot.record.ledger.exit_blocks
    return [
        *(f"w {name}" for name in space.weight_groups),
        *(f"a {name}" for name in space.activation_groups),
        *(f"t after {block}" for block in blocks[:-1]),
        snapshot.record.metric,
        "GBOPs",
    ]
