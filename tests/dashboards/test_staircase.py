"""A front that grows point by point against the front of all points at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.staircase import Staircase, course_of
from search.front import front_indices, hypervolume

# Few values, so that equal metrics, equal costs and equal points are common.
coarse = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), min_size=1, max_size=40)


@given(coarse, st.integers(0, 40), st.integers(1, 10))
def test_every_step_has_the_hypervolume_of_what_came_so_far(
    pairs: list[tuple[int, int]], split: int, corner: int
) -> None:
    points = np.array(pairs, dtype=np.float64) / [6, 1]
    known = points[:split][front_indices(points[:split])]
    level = hypervolume(points[:split], corner)
    course = dict(course_of(Staircase(known, corner), points[split:], len(points[:split])))
    grown = len(known)
    for count in range(len(points[:split]) + 1, len(points) + 1):
        level = course.get(count, level)
        assert level == pytest.approx(hypervolume(points[:count], corner), abs=1e-12)
        before, grown = grown, len(front_indices(points[:count]))
        if grown > before:
            assert count in course
    assert len(course) <= len(points)
