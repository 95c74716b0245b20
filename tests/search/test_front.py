"""Fronts against quadratic checks, rectangles and brute force, ties and duplicates included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.front import (
    as_points,
    best_under,
    cheapest_above,
    front_indices,
    hypervolume,
    knee,
)

# Few levels on both axes: random sets are full of ties and duplicates.
point = st.tuples(st.integers(0, 6).map(lambda v: v / 6), st.integers(1, 7).map(float))
point_sets = st.lists(point, max_size=25).map(lambda rows: np.array(rows).reshape(-1, 2))


def dominates(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(one[0] >= other[0] and one[1] <= other[1] and tuple(one) != tuple(other))


@given(point_sets)
def test_front_is_what_nothing_dominates_each_point_once_by_cost(points: np.ndarray):
    kept = [
        i
        for i, one in enumerate(points)
        if not any(dominates(other, one) for other in points)
        and not any(tuple(earlier) == tuple(one) for earlier in points[:i])
    ]
    assert front_indices(points).tolist() == sorted(kept, key=lambda i: points[i, 1])


@given(point_sets, st.sampled_from([0.5, 1.0, 3.5, 4.0, 8.0]))
def test_hypervolume_is_the_sum_of_rectangles(points: np.ndarray, reference: float):
    area, best, left = 0.0, 0.0, 0.0
    for value, cost in sorted(map(tuple, points), key=lambda row: row[1]):
        if cost >= reference:
            break
        area += best * (cost - left)
        best, left = max(best, value), cost
    area += best * (reference - left)
    assert hypervolume(points, reference) == pytest.approx(area / reference)


def test_hypervolume_ignores_points_as_dear_as_the_reference_or_dearer():
    points = as_points([0.5, 0.9, 1.0], [2, 4, 9])
    assert hypervolume(points, 4) == pytest.approx(0.5 * (4 - 2) / 4)
    assert hypervolume(points[1:], 4) == 0
    assert hypervolume(as_points([1.0], [0.0]), 4) == 1


@given(point_sets, st.sampled_from([0.0, 1.0, 2.5, 3.0, 7.0]))
def test_best_under_is_the_best_then_cheapest_then_first(points: np.ndarray, limit: float):
    allowed = [i for i in range(len(points)) if points[i, 1] <= limit]
    best = min(allowed, key=lambda i: (-points[i, 0], points[i, 1], i), default=None)
    assert best_under(points, limit) == best


@given(point_sets, st.sampled_from([0.0, 0.4, 0.5, 1.0, 1.5]))
def test_cheapest_above_is_the_cheapest_then_best_then_first(points: np.ndarray, limit: float):
    allowed = [i for i in range(len(points)) if points[i, 0] >= limit]
    cheapest = min(allowed, key=lambda i: (points[i, 1], -points[i, 0], i), default=None)
    assert cheapest_above(points, limit) == cheapest


def test_knee_is_farthest_above_the_chord():
    #               0     1     2     3     4     5 (dominated)
    values = [0.50, 0.90, 0.80, 0.95, 1.00, 0.20]
    costs = [100, 300, 200, 600, 1100, 250]
    # Scaled to the ends (0.5, 100) and (1, 1100): heights 0.6 of point 1, 0.5 of 2, 0.4 of 3.
    assert knee(as_points(values, costs)) == 1
    assert knee(as_points(values, np.array(costs) * 1e9)) == 1


@pytest.mark.parametrize(
    ("values", "costs"),
    [([], []), ([0.5], [1]), ([0.5, 0.6], [1, 2]), ([0.5, 0.6, 0.1, 0.5], [1, 2, 3, 1])],
    ids=["none", "one", "two", "two-undominated"],
)
def test_no_knee_without_three_points_on_the_front(values: list[float], costs: list[float]):
    assert knee(as_points(values, costs)) is None
