"""The figures below the front: parallel coordinates of its policies, and its hypervolume."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import Any

import numpy as np

from dashboards import theme
from dashboards.pages.study.choosing import axes_of, axis_labels, candidates
from dashboards.pages.study.view import FrontView
from dashboards.plain import Figure, Trace, typed
from dashboards.snapshot import Snapshot

MAX_LINES = 2000


def parallel_figure(snapshot: Snapshot, view: FrontView, mode: str) -> Figure:
    """Parallel coordinates of the candidates, coloured by the metric, with the view's brushes."""
    rows = sorted(candidates(snapshot, view), key=lambda row: -row.value)[:MAX_LINES]
    labels, colors = axis_labels(snapshot), theme.colors(mode)
    values = axes_of(rows) if rows else np.empty((0, len(labels)))
    bits = len(snapshot.record.space.weight_groups) + len(snapshot.record.space.activation_groups)
    dimensions = []
    for axis, label in enumerate(labels):
        ranges = [[low, high] for one, low, high in view.brushes if one == axis]
        dimension: dict[str, Any] = {"label": escape(label), "values": typed(values[:, axis])}
        if axis < bits:
            dimension |= {"range": [1.5, 8.5], "tickvals": list(range(2, 9))}
        elif axis < len(labels) - 2:
            dimension |= {"range": [0, 1], "tickformat": ".2f"}
        if ranges:
            dimension["constraintrange"] = ranges if len(ranges) > 1 else ranges[0]
        dimensions.append(dimension)
    lines: Trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "labelangle": -40,
        "labelside": "top",
        "labelfont": {"size": 11},
        "line": {
            "color": typed(values[:, -2]),
            "colorscale": "Viridis",
            "showscale": True,
            "colorbar": {
                "title": {"text": escape(snapshot.record.metric)},
                "thickness": 12,
                "outlinewidth": 0,
            },
        },
        "unselected": {"line": {"color": colors.grid, "opacity": 0.25}},
    }
    layout = theme.layout(
        mode,
        margin={"l": 50, "r": 20, "t": 100, "b": 20},
        uirevision=snapshot.record.config.name,
    )
    return {"data": [lines], "layout": layout}


def hypervolume_figure(snapshot: Snapshot, view: FrontView, mode: str) -> Figure:
    """Hypervolume after so many evaluations, or at a time."""
    course, colors = snapshot.course, theme.colors(mode)
    counts = np.append(course[:, 0], len(snapshot.rows))
    values = np.append(course[:, 1], snapshot.hypervolume)
    if view.course == "time":
        # A study begins where its first evaluation was recorded.
        at = snapshot.times[np.maximum(counts.astype(int) - 1, 0)] if snapshot.rows else counts[:0]
        known = np.isfinite(at)
        x: Any = [_utc(one) for one in at[known]]
        values = values[: len(at)][known]
        axis = {"title": {"text": "time of recording (UTC)"}, "type": "date"}
        after = "at %{x}"
    else:
        x = typed(counts)
        axis = {"title": {"text": "evaluations recorded"}, "rangemode": "tozero"}
        after = "after %{x} evaluations"
    line: Trace = {
        "type": "scatter",
        "x": x,
        "y": typed(values),
        "mode": "lines",
        "line": {"shape": "hv", "color": colors.front, "width": 2},
        "name": "hypervolume",
        "showlegend": True,
        "hovertemplate": f"%{{y:.4f}} {after}<extra></extra>",
    }
    layout = theme.layout(
        mode,
        xaxis=axis,
        yaxis={"title": {"text": "hypervolume (share of the box)"}},
        margin={"l": 60, "r": 16, "t": 30, "b": 50},
        uirevision=f"{snapshot.record.config.name} {view.course}",
    )
    return {"data": [line], "layout": layout}


def _utc(seconds: float) -> str:
    """A time as plotly.js reads it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
