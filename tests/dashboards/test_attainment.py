"""Attainment and dominance against brute force, and against moocore's attainment surfaces."""

from __future__ import annotations

from fractions import Fraction

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboards.pages.compare.attainment import attainment, dominates, needed, reached

# Few distinct values, so that ties and equal points come up often.
_POINT = st.tuples(st.integers(0, 6).map(lambda one: one / 6), st.integers(1, 6).map(float))
_FRONT = st.lists(_POINT, min_size=1, max_size=8).map(np.array)
_LEVELS = (0.1, 0.25, 0.5, 0.75, 1.0)


@settings(deadline=None, derandomize=True)
@given(fronts=st.lists(_FRONT, min_size=1, max_size=7))
def test_attainment_is_the_kth_best_at_every_cost(fronts: list[np.ndarray]) -> None:
    costs, curves = attainment(fronts, _LEVELS)
    assert list(costs) == sorted({float(cost) for front in fronts for cost in front[:, 1]})
    for level, curve in zip(_LEVELS, curves, strict=True):
        for cost, found in zip(costs, curve, strict=True):
            best = [
                max((value for value, dear in front if dear <= cost), default=None)
                for front in fronts
            ]
            values = sorted((one for one in best if one is not None), reverse=True)
            # The largest value that at least this share of the fronts reaches.
            enough = [
                value
                for value in values
                if Fraction(sum(one >= value for one in values), len(fronts))
                >= Fraction(str(level))
            ]
            if enough:
                assert found == max(enough)
            else:
                assert np.isnan(found)


def test_attainment_agrees_with_moocore() -> None:
    rng = np.random.default_rng(0)
    fronts = [rng.random((12, 2)) for _ in range(9)]
    levels = [share / 9 for share in range(1, 10)]
    costs, curves = attainment(fronts, levels)
    sets = np.repeat(np.arange(9), 12)
    # moocore minimises.
    surfaces = moocore.eaf(
        np.concatenate(fronts) * [-1, 1], sets, percentiles=[100 / 9 * k for k in range(1, 10)]
    )
    for k, curve in enumerate(curves, start=1):
        surface = surfaces[np.isclose(surfaces[:, 2], 100 / 9 * k)]
        assert len(surface)
        np.testing.assert_array_equal(
            curve, np.nan_to_num(reached(surface[:, :2] * [-1, 1], costs), neginf=np.nan)
        )


def test_below_the_cheapest_point_nothing_is_reached() -> None:
    front = np.array([[0.9, 3.0], [0.5, 1.0], [0.4, 2.0]])
    assert list(reached(front, np.array([0.9, 1.0, 2.5, 3.0, 9.0]))) == [
        -np.inf,
        0.5,
        0.5,
        0.9,
        0.9,
    ]


@pytest.mark.parametrize("count", range(1, 61))
def test_a_share_is_rounded_up_to_whole_searches(count: int) -> None:
    for percent in range(1, 101):
        exact = -(-percent * count // 100)
        assert needed(percent / 100, count) == exact


@settings(deadline=None, derandomize=True)
@given(ours=_FRONT, theirs=_FRONT)
def test_dominance_is_that_of_a_double_loop(ours: np.ndarray, theirs: np.ndarray) -> None:
    mask = dominates(ours, theirs)
    assert mask.shape == (len(ours), len(theirs))
    for i, (value, cost) in enumerate(ours):
        for j, (other, dear) in enumerate(theirs):
            expected = (value > other and cost <= dear) or (value >= other and cost < dear)
            assert mask[i, j] == expected


def test_an_empty_front_neither_dominates_nor_is_dominated() -> None:
    one, none = np.array([[0.5, 1.0]]), np.empty((0, 2))
    assert dominates(one, none).shape == (1, 0)
    assert dominates(none, one).shape == (0, 1)
