"""The front page's figures, from a snapshot and a view, without a browser."""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from small_study import grow

from dashboards import theme
from dashboards.pages.study import choosing, figures, side_figures, words
from dashboards.pages.study.events import brushes_of, pointed_at, zoom_of
from dashboards.pages.study.tables import table_rows
from dashboards.pages.study.view import COURSES, FrontView
from dashboards.plain import Figure
from dashboards.snapshot import Snapshot, Snapshots
from search.front import best_under
from studies.records import StudyRecord
from studies.store.writer import StudyStore


@pytest.fixture
def grown(tmp_path: Path, make_record: Callable[..., StudyRecord]) -> Callable[[int], Snapshot]:
    store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
    store.create(make_record(budget={"trials": 60}))
    snapshots = Snapshots(store)

    def more(trials: int) -> Snapshot:
        grow(store, "small", trials, harvest=True)
        return snapshots.get("small")

    return more


def checked(figure: Figure) -> go.Figure:
    """The figure as Plotly's classes take it, which refuse what plotly.js does not know."""
    return go.Figure(figure)


def numbers(given: Any) -> list[float]:
    """The numbers that plotly.js reads there."""
    if isinstance(given, dict):
        return np.frombuffer(b64decode(given["bdata"]), f"<{given['dtype']}").tolist()
    return list(given)


def points_of(traces: Sequence[Any]) -> list[tuple[float, float]]:
    return sorted(
        point
        for trace in traces
        for point in zip(numbers(trace["x"]), numbers(trace["y"]), strict=True)
    )


def rounded(snapshot: Snapshot) -> list[tuple[float, float]]:
    values = snapshot.points.astype(np.float32)
    return sorted((float(cost), float(value)) for value, cost in values)


def test_every_evaluation_is_drawn_once_and_the_front_above(
    grown: Callable[[int], Snapshot],
) -> None:
    snapshot = grown(20)
    figure = checked(figures.front_figure(snapshot, FrontView(), "light"))
    assert points_of(figure.data[: figures.RECENT]) == rounded(snapshot)
    assert points_of(figure.data[figures.RECENT : figures.FRONT]) == []
    front = figure.data[figures.FRONT]
    assert list(front.customdata) == [row.id for row in snapshot.summary.front_rows]
    assert all(trace.name for trace in figure.data)


def test_what_comes_later_changes_only_the_moving_traces(grown: Callable[[int], Snapshot]) -> None:
    before = grown(12)
    drawn = checked(figures.front_figure(before, FrontView(), "light"))
    after = grown(9)
    moving = figures.moving_traces(after, before.revision, FrontView(), "light")
    assert len(moving) == figures.RECENT + len(figures.TOP)
    together = [*drawn.data[: figures.RECENT], *moving[: figures.RECENT]]
    assert points_of(together) == rounded(after)
    whole = figures.front_figure(after, FrontView(), "light")
    for offset in range(figures.RECENT, len(moving)):
        assert moving[offset] == whole["data"][figures.RECENT + offset]


def test_a_point_is_found_again_by_its_place(grown: Callable[[int], Snapshot]) -> None:
    before = grown(10)
    drawn = checked(figures.front_figure(before, FrontView(), "light"))
    after = grown(5)
    seen = {"base": before.revision}
    found = []
    for curve, trace in enumerate(drawn.data[: figures.RECENT]):
        for index, x in enumerate(numbers(trace.x)):
            event = {"points": [{"curveNumber": curve, "pointNumber": index}]}
            row = pointed_at(after, event, seen)
            assert row is not None
            assert np.float32(row.gbops) == x
            found.append(row.id)
    assert sorted(found) == sorted(row.id for row in before.rows)
    last = after.rows[-1]
    event = {"points": [{"curveNumber": 6, "pointNumber": 0, "customdata": last.id}]}
    assert pointed_at(after, event, seen) == last
    assert pointed_at(after, {"points": [{"curveNumber": 9, "pointNumber": 0}]}, seen) is None
    assert pointed_at(after, None, seen) is None


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_axes_have_units_and_colours_have_legends(
    mode: str, scale: str, grown: Callable[[int], Snapshot]
) -> None:
    snapshot = grown(20)
    figure = checked(figures.front_figure(snapshot, FrontView(x=scale), mode))
    assert "GBOPs a sample" in figure.layout.xaxis.title.text
    assert scale in figure.layout.xaxis.title.text
    assert figure.layout.xaxis.type == scale
    assert "accuracy" in figure.layout.yaxis.title.text
    assert figure.layout.paper_bgcolor == theme.colors(mode).paper
    drawn = [trace for trace in figure.data if numbers(trace.x)]
    assert {trace.name for trace in drawn if trace.showlegend is not False} == {
        trace.name for trace in drawn
    }
    for over in COURSES:
        course = checked(side_figures.hypervolume_figure(snapshot, FrontView(course=over), mode))
        assert over in course.layout.xaxis.title.text
        assert "share of the box" in course.layout.yaxis.title.text


def test_the_reference_lines_stand_where_they_should(grown: Callable[[int], Snapshot]) -> None:
    snapshot = grown(20)
    budget = float(np.median(snapshot.points[:, 1]))
    view = FrontView(budget=budget)
    shapes, notes = figures.reference_lines(snapshot, view)
    assert shapes[0]["y0"] == snapshot.record.reference_value
    assert shapes[1]["x0"] == snapshot.record.ledger.full_depth_macs * 64 / 1e9
    picked = best_under(snapshot.points, budget)
    assert picked is not None
    policy = snapshot.rows[picked].policy
    rows = snapshot.record.ledger.rows(policy.bits)
    same = sum(row.bops for row in rows if row.op.part != "head" or row.op.block == 2) / 1e9
    assert shapes[2]["x0"] == pytest.approx(same)
    assert notes[2]["x"] == pytest.approx(math.log10(same))
    assert words.budget_words(snapshot, budget).count(snapshot.rows[picked].digest[:8]) == 1
    assert "raise the budget" in words.budget_words(snapshot, 1e-12)


def test_the_course_stands_at_the_times_of_recording(grown: Callable[[int], Snapshot]) -> None:
    begun = datetime.now(UTC)
    snapshot = grown(12)
    figure = checked(side_figures.hypervolume_figure(snapshot, FrontView(course="time"), "light"))
    times = [datetime.fromisoformat(at).replace(tzinfo=UTC) for at in figure.data[0].x]
    assert times == sorted(times)
    assert begun - timedelta(seconds=1) <= times[0] <= times[-1] <= datetime.now(UTC)
    rises = [int(count) for count, _ in snapshot.course.tolist()[1:]]
    finished = [snapshot.rows[count - 1].finished for count in rises]
    assert times[1:-1] == finished
    assert numbers(figure.data[0].y) == [*snapshot.course[:, 1], snapshot.hypervolume]


def test_hiding_dominated_points_hides_them_everywhere(grown: Callable[[int], Snapshot]) -> None:
    snapshot = grown(20)
    view = FrontView(dominated=False, errors=False)
    figure = checked(figures.front_figure(snapshot, view, "light"))
    assert all(trace.visible is False for trace in figure.data[: figures.FRONT])
    assert figure.data[figures.FRONT].error_y.visible is False
    low, high = snapshot.points.min(axis=0), snapshot.points.max(axis=0)
    box = ((0.0, low[0] - 1), (high[1] + 1, low[0] - 1), (high[1] + 1, 2.0), (0.0, 2.0))
    everything = choosing.candidates(snapshot, FrontView(selection=box))
    assert len(everything) == len(snapshot.rows)
    front = choosing.candidates(snapshot, replace(view, selection=box))
    assert {row.id for row in front} == {row.id for row in snapshot.summary.front_rows}


def test_brushes_narrow_the_rows_and_are_drawn(grown: Callable[[int], Snapshot]) -> None:
    snapshot = grown(25)
    labels = choosing.axis_labels(snapshot)
    rows = snapshot.summary.front_rows
    axes = choosing.axes_of(rows)
    assert axes.shape == (len(rows), len(labels))
    np.testing.assert_array_equal(axes[:, -2], [row.value for row in rows])
    middle = float(np.median(axes[:, -1]))
    view = FrontView(brushes=((len(labels) - 1, 0.0, middle),))
    chosen = choosing.chosen_rows(snapshot, view)
    assert {row.id for row in chosen} == {row.id for row in rows if row.gbops <= middle}
    parallel = checked(side_figures.parallel_figure(snapshot, view, "light")).data[0]
    assert list(parallel.dimensions[-1].constraintrange) == [0.0, middle]
    assert [one.label for one in parallel.dimensions] == labels
    assert "within 1 chosen range" in words.selection_words(view, chosen, 5000)


def test_plotly_events_become_views() -> None:
    event = {
        "xaxis.range[0]": -1,
        "xaxis.range[1]": 0,
        "yaxis.range[0]": 0.5,
        "yaxis.range[1]": 0.9,
    }
    assert zoom_of(event, "log") == pytest.approx((0.1, 1.0, 0.5, 0.9))
    assert zoom_of(event, "linear") == (-1, 0, 0.5, 0.9)
    assert zoom_of({"autosize": True}, "log") is None
    first = brushes_of([{"dimensions[3].constraintrange": [[2, 4]]}, [0]], ())
    assert first == ((3, 2.0, 4.0),)
    second = brushes_of([{"dimensions[0].constraintrange": [[[1, 2], [5, 6]]]}, [0]], first)
    assert second == ((0, 1.0, 2.0), (0, 5.0, 6.0), (3, 2.0, 4.0))
    assert brushes_of([{"dimensions[0].constraintrange": None}, [0]], second) == first
    assert brushes_of(None, first) == first


def test_tables_and_csv_say_what_was_recorded(grown: Callable[[int], Snapshot]) -> None:
    snapshot = grown(10)
    rows = snapshot.summary.front_rows
    listed = table_rows(snapshot, rows)
    assert [one["id"] for one in listed] == [str(row.id) for row in rows]
    assert [one["value"] for one in listed] == pytest.approx([row.value for row in rows], abs=1e-6)


def test_a_study_without_evaluations_has_all_its_figures(grown: Callable[[int], Snapshot]) -> None:
    snapshot = grown(0)
    figure = checked(figures.front_figure(snapshot, FrontView(), "dark"))
    assert any(one.text == "no evaluation yet" for one in figure.layout.annotations)
    checked(side_figures.parallel_figure(snapshot, FrontView(), "dark"))
    for over in COURSES:
        checked(side_figures.hypervolume_figure(snapshot, FrontView(course=over), "dark"))
    assert "exitbits worker" in words.summary_words(snapshot)
    assert "raise the budget" in words.budget_words(snapshot, None)
