"""The figures below the front: parallel coordinates of its policies, and its hypervolume."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboards import theme
from dashboards.choosing import axes_of, axis_labels, candidates
from dashboards.snapshot import Snapshot
from dashboards.view import FrontView

MAX_LINES = 2000


def parallel_figure(snapshot: Snapshot, view: FrontView, mode: str) -> go.Figure:
    """Parallel coordinates of the candidates, coloured by the metric, with the view's brushes."""
    rows = sorted(candidates(snapshot, view), key=lambda row: -row.value)[:MAX_LINES]
    labels, colors = axis_labels(snapshot), theme.colors(mode)
    values = axes_of(rows) if rows else np.empty((0, len(labels)))
    bits = len(snapshot.record.space.weight_groups) + len(snapshot.record.space.activation_groups)
    dimensions = []
    for axis, label in enumerate(labels):
        ranges = [[low, high] for one, low, high in view.brushes if one == axis]
        dimension: dict[str, Any] = {"label": escape(label), "values": values[:, axis]}
        if axis < bits:
            dimension |= {"range": [1.5, 8.5], "tickvals": list(range(2, 9))}
        elif axis < len(labels) - 2:
            dimension |= {"range": [0, 1], "tickformat": ".2f"}
        if ranges:
            dimension["constraintrange"] = ranges if len(ranges) > 1 else ranges[0]
        dimensions.append(dimension)
    metric = escape(snapshot.record.metric)
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            labelangle=-40,
            labelside="top",
            labelfont={"size": 11},
            line={
                "color": values[:, -2],
                "colorscale": "Viridis",
                "showscale": True,
                "colorbar": {"title": metric, "thickness": 12},
            },
            unselected={"line": {"color": colors.grid, "opacity": 0.25}},
        )
    )
    figure.update_layout(
        theme.layout(
            mode,
            margin={"l": 50, "r": 20, "t": 100, "b": 20},
            uirevision=snapshot.record.config.name,
        )
    )
    return figure


def hypervolume_figure(snapshot: Snapshot, mode: str) -> go.Figure:
    """Hypervolume after so many evaluations."""
    course, colors = snapshot.course, theme.colors(mode)
    end = [len(snapshot.rows), snapshot.hypervolume]
    figure = go.Figure(
        go.Scatter(
            x=[*course[:, 0], end[0]], y=[*course[:, 1], end[1]], mode="lines",
            line={"shape": "hv", "color": colors.front, "width": 2}, name="hypervolume",
            showlegend=True, hovertemplate="%{y:.4f} after %{x} evaluations<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        theme.layout(
            mode,
            xaxis={
                "title": "evaluations recorded",
                "gridcolor": colors.grid,
                "rangemode": "tozero",
            },
            yaxis={
                "title": "hypervolume (share of the box)", "gridcolor": colors.grid,
                "automargin": True,
            },
            margin={"l": 60, "r": 16, "t": 30, "b": 50},
            uirevision=snapshot.record.config.name,
        )
    )  # fmt: skip
    return figure
