"""A view survives its address, whatever the address holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.pages.studies.view import SHARES, SORTS, StudiesView
from dashboards.pages.study.view import COURSES, FrontView, selection_of

numbers = st.floats(1e-6, 1e6).map(lambda x: float(f"{x:.6g}"))
pairs = st.tuples(numbers, numbers)
views = st.builds(
    FrontView,
    x=st.sampled_from(["log", "linear"]),
    dominated=st.booleans(),
    errors=st.booleans(),
    budget=st.none() | numbers,
    zoom=st.none() | st.tuples(numbers, numbers, numbers, numbers),
    selection=st.lists(pairs, min_size=3, max_size=8).map(tuple) | st.just(()),
    brushes=st.lists(st.tuples(st.integers(0, 30), numbers, numbers), max_size=4).map(tuple),
    course=st.sampled_from(COURSES),
)
overviews = st.builds(
    StudiesView,
    search=st.text(max_size=20),
    sort=st.sampled_from(SORTS),
    share=st.sampled_from(list(SHARES)),
    archived=st.booleans(),
)


@given(views | overviews)
def test_an_address_gives_the_view_again(view: FrontView | StudiesView) -> None:
    assert type(view).from_query(view.to_query()) == view


def test_the_first_view_needs_no_query() -> None:
    for kind in (FrontView, StudiesView):
        assert kind().to_query() == ""
        assert kind.from_query("") == kind()


@pytest.mark.parametrize(
    "query",
    ["?x=cubic", "?budget=much", "?budget=nan", "?zoom=1,2,3", "?selection=1,2;x", "?brushes=a,1,2",
     "?selection=1,2,3", "?course=moon", "?sort=moon", "?share=2", "?nonsense=1", "?%ff%fe"],
)  # fmt: skip
def test_what_cannot_be_read_is_left_out(query: str) -> None:
    assert FrontView.from_query(query) == FrontView()
    assert StudiesView.from_query(query) == StudiesView()


def test_an_endless_selection_is_cut() -> None:
    query = "?selection=" + ";".join(["1,2"] * 100_000)
    assert len(FrontView.from_query(query).selection) <= 200


@pytest.mark.parametrize("seed", range(20))
def test_selected_points_lie_inside_the_outline(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = [tuple(map(float, corner)) for corner in rng.random((rng.integers(3, 12), 2))]
    # Star-shaped around its middle: an outline that does not cross itself.
    middle = np.mean(corners, axis=0)
    corners.sort(key=lambda one: math.atan2(one[1] - middle[1], one[0] - middle[0]))
    points = rng.random((500, 2))
    found = FrontView(selection=tuple(corners)).selected(points)
    for (y, x), inside in zip(points, found, strict=True):
        # Winding number: the angles under which the corners are seen add up to a whole turn.
        seen = [math.atan2(cy - y, cx - x) for cx, cy in corners]
        turns = sum(
            math.remainder(after - before, 2 * math.pi)
            for before, after in zip(seen, [*seen[1:], seen[0]], strict=True)
        )
        assert inside == (abs(turns) > math.pi)


def test_two_ranges_of_one_axis_are_either_and_two_axes_are_both() -> None:
    choices = np.array([[2, 8], [5, 8], [8, 8], [2, 3]])
    view = FrontView(brushes=((0, 1.5, 2.5), (0, 7.5, 8.5), (1, 7.0, 9.0), (99, 0.0, 0.0)))
    assert view.brushed(choices).tolist() == [True, False, True, False]


def test_plotly_events_become_corners() -> None:
    box = {"range": {"x": [1, 2], "y": [0.5, 0.9]}, "points": []}
    assert selection_of(box) == ((1, 0.5), (2, 0.5), (2, 0.9), (1, 0.9))
    lasso = {"lassoPoints": {"x": [1, 2, 3], "y": [4, 5, 6]}}
    assert selection_of(lasso) == ((1, 4), (2, 5), (3, 6))
    assert selection_of(None) == selection_of({"points": []}) == ()
    many = {"lassoPoints": {"x": list(range(1000)), "y": list(range(1000))}}
    assert len(selection_of(many)) <= 200
