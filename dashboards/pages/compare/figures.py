"""The figure of several studies: a front of each, or how far they got as seeds of one search."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

import numpy as np
import plotly.graph_objects as go
from dash import Patch

from dashboards import theme
from dashboards.pages.compare.attainment import attainment, needed
from dashboards.pages.compare.comparison import LEVELS, Comparison, front_of
from dashboards.snapshot import Snapshot
from studies.records import EvaluationRow

SYMBOLS = (
    "circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon",
)  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MAX_STUDIES = 40
"""So many are told apart: 8 colours, each with 5 dashes."""
_SHORT = 28


def compare_figure(comparison: Comparison, seeds: bool, mode: str, revision: str) -> go.Figure:
    """Metric against expected GBOPs: a front of each study, or how far they got as one search.

    Args:
        comparison: the studies.
        seeds: whether they are runs of one search, to be shown as attainment bands.
        mode: theme.
        revision: names what is compared; zoom and hidden lines belong to it.
    """
    colors = theme.colors(mode)
    figure = go.Figure(compare_traces(comparison, seeds, mode))
    figure.add_vline(x=comparison.reference, line={"color": colors.ink, "dash": "dot", "width": 1})
    figure.add_annotation(
        # On a log axis annotations are placed by exponent, unlike shapes.
        x=math.log10(comparison.reference), y=0.02, yref="y domain", showarrow=False,
        text="W8A8, full depth", textangle=-90, xanchor="right", yanchor="bottom",
        font={"size": 12},
    )  # fmt: skip
    figure.update_layout(
        theme.layout(
            mode,
            xaxis={
                "title": "GBOPs a sample, expected (log)",
                "type": "log",
                "dtick": "D2",
                "tickformat": "~g",
                "gridcolor": colors.grid,
                "automargin": True,
            },
            yaxis={
                "title": f"{escape(comparison.metric, quote=False)} on the search split",
                "gridcolor": colors.grid,
                "automargin": True,
            },
            legend={"orientation": "h", "yanchor": "top", "y": -0.16, "x": 0},
            margin={"l": 60, "r": 16, "t": 24, "b": 40},
            showlegend=True,
            hovermode="closest",
            uirevision=revision,
        )
    )
    return figure


def compare_traces(comparison: Comparison, seeds: bool, mode: str) -> list[go.Scatter]:
    """What grows in that figure; as many traces for the same studies."""
    if seeds and not comparison.filled:
        return []
    return list(_bands(comparison, mode) if seeds else _fronts(comparison, mode))


def as_patch(figure: go.Figure, *, restyled: bool) -> Patch:
    """What turns an older drawing of the same studies into this one.

    A page writes zoom and hidden lines into its copy of the figure, and would lose them with the
    whole: here each part is replaced that the figure says something about, and no other.

    Args:
        figure: with as many traces as the older one.
        restyled: whether the theme changed, so that the layout counts too.
    """
    patch, plain = Patch(), figure.to_plotly_json()
    for index, trace in enumerate(plain["data"]):
        for key, value in trace.items():
            patch["data"][index][key] = value
    for key, value in plain["layout"].items() if restyled else ():
        if key in ("xaxis", "yaxis"):
            for inner, setting in value.items():
                patch["layout"][key][inner] = setting
        else:
            patch["layout"][key] = value
    return patch


def style_of(index: int, mode: str) -> tuple[str, str, str]:
    """Colour, symbol and dash of the study at ``index``: no two of the first 40 share all three."""
    palette = (
        theme.BLUE, theme.VERMILLION, theme.GREEN, theme.ORANGE, theme.PURPLE, theme.SKY,
        theme.colors(mode).ink, theme.GREY,
    )  # fmt: skip
    symbol = SYMBOLS[index % len(SYMBOLS)]
    return palette[index % len(palette)], symbol, DASHES[index // len(palette) % len(DASHES)]


def _fronts(comparison: Comparison, mode: str) -> Iterator[go.Scatter]:
    for index, snapshot in enumerate(comparison.snapshots):
        color, symbol, dash = style_of(index, mode)
        points, name = front_of(snapshot), snapshot.record.config.name
        yield go.Scatter(
            x=points[:, 1],
            y=points[:, 0],
            mode="lines+markers",
            name=escape(short(name), quote=False),
            # A study that waits for its first point has its place already.
            showlegend=bool(snapshot.front),
            uid=f"study-{index}",  # plotly.js makes a CSS selector of it
            line={"color": color, "dash": dash, "width": 2, "shape": "hv"},
            marker={"color": color, "symbol": symbol, "size": 8},
            hovertext=[_hover(snapshot, row) for row in snapshot.summary.front_rows],
            hoverinfo="text",
        )


def _bands(comparison: Comparison, mode: str) -> Iterator[go.Scatter]:
    fronts = [front_of(one) for one in comparison.filled]
    count, color = len(fronts), theme.colors(mode).front
    costs, curves = attainment(fronts, LEVELS)
    # What is reached is reached at any higher cost: the curves go on to beyond the reference.
    costs = np.append(costs, 1.1 * max(costs[-1], comparison.reference))
    upper, middle, lower = np.column_stack([curves, curves[:, -1]])
    few, many = needed(LEVELS[0], count), needed(LEVELS[2], count)
    x, y = band_outline(costs, upper, lower)
    yield go.Scatter(
        x=x, y=y, mode="lines", fill="toself", fillcolor=_faint(theme.SKY), line={"width": 0},
        name=f"between 25% and 75% attainment ({few} and {many} of {count})", uid="band",
        hoverinfo="skip",
    )  # fmt: skip
    for level, curve, line in (
        (0.25, upper, {"color": theme.GREEN, "dash": "dot", "width": 1.5}),
        (0.5, middle, {"color": color, "dash": "solid", "width": 3}),
        (0.75, lower, {"color": theme.VERMILLION, "dash": "dash", "width": 1.5}),
    ):
        kept = ~np.isnan(curve)
        reach = f"{needed(level, count)} of {count}"
        name = "median" if level == 0.5 else f"{level:.0%} attainment"
        yield go.Scatter(
            x=costs[kept],
            y=curve[kept],
            mode="lines",
            name=f"{name}: reached by {reach}",
            uid=f"level-{level * 100:.0f}",
            line={**line, "shape": "hv"},
            hovertemplate=f"{reach} reach %{{y:.4f}}<br>at %{{x:.4~g}} GBOPs<extra></extra>",
        )


def band_outline(
    costs: np.ndarray, upper: np.ndarray, lower: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Outline of what lies between two step curves, from where the lower one begins.

    Args:
        costs: ascending ``[K]``.
        upper, lower: the curves ``[K]``; NaN before they begin.

    Returns:
        x and y of the closed outline, each step with its corner.
    """
    kept = ~np.isnan(lower)
    x = np.repeat(costs[kept], 2)[1:]  # each cost ends the step before it and begins its own
    above, below = (np.repeat(curve[kept], 2)[:-1] for curve in (upper, lower))
    return np.concatenate([x, x[::-1]]), np.concatenate([above, below[::-1]])


def _faint(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.3)"


def short(name: str) -> str:
    """A name that fits a legend: seeds of a search differ at the end, so both ends stay."""
    return name if len(name) <= _SHORT else f"{name[:15]}…{name[-12:]}"


def _hover(snapshot: Snapshot, row: EvaluationRow) -> str:
    return "<br>".join(
        escape(line, quote=False)
        for line in (
            snapshot.record.config.name,
            f"{row.digest[:12]} ({row.origin})",
            f"{snapshot.record.metric} {row.value:.4f} ± {row.standard_error:.4f}",
            f"{row.gbops:.4g} GBOPs expected, {row.gbops_p95:.4g} p95",
        )
    )
