"""Pareto fronts of a metric (up) against cost (down): dominance, hypervolume, knee, budgets.

Dominance and hypervolume are moocore's.
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np

_MAXIMISE = [True, False]

Figures = Sequence[float] | np.ndarray


def as_points(values: Figures, costs: Figures) -> np.ndarray:
    """Stack metric values and costs as points, float64 ``[N, 2]``."""
    return np.column_stack(
        [np.asarray(values, dtype=np.float64), np.asarray(costs, dtype=np.float64)]
    )


def front_indices(points: np.ndarray) -> np.ndarray:
    """Indices of the non-dominated points, by ascending cost; of equal points the first.

    Args:
        points: metric and cost ``[N, 2]``.
    """
    if not len(points):
        return np.empty(0, dtype=np.int64)
    kept = np.flatnonzero(moocore.is_nondominated(points, maximise=_MAXIMISE))
    ordered: np.ndarray = kept[np.argsort(points[kept, 1], kind="stable")]
    return ordered


def hypervolume(points: np.ndarray, reference_cost: float) -> float:
    """Area dominated by ``points``, as a fraction of the box up to metric 1 and the reference cost.

    Args:
        points: metric in [0, 1] and cost ``[N, 2]``.
        reference_cost: cost at which a point is worth nothing; dearer points do not count.

    Returns:
        a number in [0, 1]; 1 would be a perfect metric at no cost.
    """
    inside = points[points[:, 1] < reference_cost] if len(points) else points
    if not len(inside):
        return 0.0
    area = moocore.hypervolume(inside, ref=[0.0, reference_cost], maximise=_MAXIMISE)
    return float(area) / reference_cost


def best_under(points: np.ndarray, max_cost: float) -> int | None:
    """Index of the best metric at a cost of at most ``max_cost``, of equals the cheapest."""
    return _first(points, points[:, 1] <= max_cost, order=(points[:, 1], -points[:, 0]))


def cheapest_above(points: np.ndarray, min_value: float) -> int | None:
    """Index of the cheapest point with a metric of at least ``min_value``, the best of equals."""
    return _first(points, points[:, 0] >= min_value, order=(-points[:, 0], points[:, 1]))


def _first(
    points: np.ndarray, allowed: np.ndarray, order: tuple[np.ndarray, np.ndarray]
) -> int | None:
    """First allowed index when sorted by the last key, then by the one before it."""
    ranked = np.lexsort(order)
    ranked = ranked[allowed[ranked]]
    return int(ranked[0]) if len(ranked) else None


def knee(points: np.ndarray) -> int | None:
    """Index of the front's knee: the point farthest above the chord between the front's ends.

    Both axes are scaled to the front's own range (Das, "On characterizing the knee of the Pareto
    curve", Structural Optimization 18, 1999). None for fewer than three non-dominated points.
    """
    chosen = front_indices(points)
    if len(chosen) < 3:
        return None
    front = points[chosen]
    spread = front[-1] - front[0]
    scaled = (front - front[0]) / spread
    return int(chosen[int(np.argmax(scaled[:, 0] - scaled[:, 1]))])
