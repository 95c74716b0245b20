"""The figure of the front page: a pure function from a snapshot and a view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from dashboards import theme
from dashboards.axes import SYMBOLS, log_ticks, metric_range
from dashboards.pages.study.choosing import best_index, chosen_rows, cost_range, is_narrowed
from dashboards.pages.study.view import FrontView
from dashboards.plain import Figure, Trace, typed
from dashboards.snapshot import KINDS, Snapshot
from search.cost import GIGA
from search.front import front_indices
from studies.records import EvaluationRow

LABELS = {
    "anchor": "anchor (queued at the start)",
    "proposed": "proposed by the sampler",
    "harvest": "harvested from a trial's trace",
    "method": "baseline or method",
}
_COLORS = {
    "anchor": theme.ORANGE,
    "proposed": theme.GREY,
    "harvest": theme.GREEN,
    "method": theme.PURPLE,
}
_DASHES = ("dot", "dash", "dashdot", "longdash", "longdashdot")

# Order of the traces: everything that a page began with, what came since, and what lies on top.
RECENT = len(KINDS)
FRONT = 2 * len(KINDS)
TOP = ("front", "knee", "budget", "chosen")


def front_figure(snapshot: Snapshot, view: FrontView, mode: str) -> Figure:
    """Metric against expected GBOPs.

    Every point of the study is in the traces of its kind, also when it is on the front, which is
    drawn above them: points that come later change only the small traces that follow.
    """
    record, summary = snapshot.record, snapshot.summary
    low, high = cost_range(snapshot)
    shapes, annotations = reference_lines(snapshot, view)
    zoom = view.zoom or (low * 0.8, max(high, summary.w8a8_gbops) * 1.15, *metric_range(summary))
    x_range = [math.log10(max(one, 1e-12)) for one in zoom[:2]] if view.x == "log" else zoom[:2]
    data = [
        *(
            _cloud(snapshot, np.flatnonzero(snapshot.kinds == kind), kind, view)
            for kind in range(len(KINDS))
        ),
        *moving_traces(snapshot, snapshot.revision, view, mode),
        *_baselines(snapshot),
    ]
    layout = theme.layout(
        mode,
        xaxis={
            "title": {"text": f"GBOPs a sample, expected ({view.x})"},
            "type": view.x,
            "range": list(x_range),
            **(_log_axis(low, max(high, summary.w8a8_gbops)) if view.x == "log" else {}),
        },
        yaxis={
            "title": {"text": f"{escape(record.metric)} on the search split"},
            "range": list(zoom[2:]),
        },
        legend={"orientation": "h", "yanchor": "top", "y": -0.16, "x": 0},
        margin={"l": 60, "r": 16, "t": 24, "b": 40},
        dragmode="zoom",
        hovermode="closest",
        # The same as long as the axes mean the same: zoom and selection stay.
        uirevision=f"{record.config.name} {view.x}",
        selectionrevision=record.config.name,
        selections=_drawn_selection(view),
        shapes=shapes,
        annotations=annotations,
    )
    return {"data": data, "layout": layout}


def moving_traces(snapshot: Snapshot, base: int, view: FrontView, mode: str) -> list[Trace]:
    """What changes while a page is open: points since revision ``base``, and all that is on top."""
    since = np.arange(len(snapshot.until(base)), len(snapshot.rows))
    recent = [
        _cloud(snapshot, since[snapshot.kinds[since] == kind], kind, view, recent=True)
        for kind in range(len(KINDS))
    ]
    return [*recent, *_on_top(snapshot, view, mode)]


def _cloud(
    snapshot: Snapshot, chosen: np.ndarray, kind: int, view: FrontView, *, recent: bool = False
) -> Trace:
    name = KINDS[kind]
    points = snapshot.points[chosen].astype(np.float32)
    return {
        "type": "scattergl",
        "x": typed(points[:, 1]),
        "y": typed(points[:, 0]),
        "mode": "markers",
        "name": LABELS[name],
        "legendgroup": name,
        "showlegend": not recent and bool((snapshot.kinds == kind).any()),
        "visible": view.dominated,
        "hoverinfo": "none",
        **({"customdata": [snapshot.rows[int(i)].id for i in chosen]} if recent else {}),
        "marker": {
            "symbol": f"{SYMBOLS[name]}-open",
            "color": _COLORS[name],
            "size": 7,
            "opacity": 0.75,
        },
    }


def _on_top(snapshot: Snapshot, view: FrontView, mode: str) -> list[Trace]:
    colors, rows = theme.colors(mode), snapshot.summary.front_rows
    front = {
        "type": "scatter",
        "x": [row.gbops for row in rows],
        "y": [row.value for row in rows],
        "customdata": [row.id for row in rows],
        "mode": "lines+markers",
        "name": "Pareto front" + (" ± standard error" if view.errors else ""),
        "line": {"color": colors.front, "width": 2, "shape": "hv"},
        "marker": {
            "color": colors.front,
            "size": 9,
            "symbol": [SYMBOLS[row.kind] for row in rows],
        },
        "error_y": {
            "array": [row.standard_error for row in rows],
            "color": colors.front,
            "thickness": 1,
            "width": 2,
            "visible": view.errors,
        },
        "hoverinfo": "none",
    }
    bend = snapshot.summary.knee
    picked = best_index(snapshot, view.budget)
    chosen = chosen_rows(snapshot, view) if is_narrowed(view) else []
    return [
        front,
        _marker([] if bend is None else [snapshot.rows[bend]], "knee of the front", "star", 16,
                theme.VERMILLION, colors.paper),
        _marker([] if picked is None else [snapshot.rows[picked]], "best under the budget",
                "circle-open", 20, theme.VERMILLION, theme.VERMILLION),
        _marker(chosen, "selected", "circle-open", 12, colors.ink, colors.ink),
    ]  # fmt: skip


def _marker(
    rows: Sequence[EvaluationRow], name: str, symbol: str, size: int, color: str, line: str
) -> Trace:
    return {
        "type": "scatter",
        "x": [row.gbops for row in rows],
        "y": [row.value for row in rows],
        "customdata": [row.id for row in rows],
        "mode": "markers",
        "name": name,
        "showlegend": bool(rows),
        "marker": {
            "symbol": symbol,
            "size": size,
            "color": color,
            "line": {"color": line, "width": 2},
        },
        "hoverinfo": "skip" if name != "selected" else "none",
    }


def _baselines(snapshot: Snapshot) -> list[Trace]:
    """The front of every method that gave more than one policy, as a curve."""
    by_source: dict[str, list[int]] = {}
    for index in np.flatnonzero(snapshot.kinds == KINDS.index("method")):
        by_source.setdefault(snapshot.rows[int(index)].source, []).append(int(index))
    curves: list[Trace] = []
    for number, (source, found) in enumerate(sorted(by_source.items())):
        points = snapshot.points[found]
        points = points[front_indices(points)]
        curves.append(
            {
                "type": "scatter",
                "x": typed(points[:, 1]),
                "y": typed(points[:, 0]),
                "mode": "lines",
                "name": escape(source),
                "line": {
                    "color": theme.PURPLE,
                    "width": 1.5,
                    "dash": _DASHES[number % 5],
                    "shape": "hv",
                },
                "hoverinfo": "skip",
            }
        )
    return curves


def reference_lines(
    snapshot: Snapshot, view: FrontView
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Shapes and annotations of full precision, W8A8, and the picked bits, all at full depth."""
    record, summary = snapshot.record, snapshot.summary
    top = record.reference_value
    shapes: list[dict[str, Any]] = [
        {
            "type": "line", "xref": "x domain", "x0": 0, "x1": 1, "y0": top, "y1": top,
            "line": {"color": theme.GREEN, "dash": "dash", "width": 1.5},
        }
    ]  # fmt: skip
    annotations: list[dict[str, Any]] = [
        {
            # Above the figure, where it covers neither points nor lines.
            "text": f"dashed: full precision {top:.4f}, {summary.w32a32_gbops:.1f} GBOPs",
            "xref": "x domain", "x": 1, "yref": "y domain", "y": 1,
            "xanchor": "right", "yanchor": "bottom",
            "showarrow": False, "font": {"color": theme.GREEN},
        }
    ]  # fmt: skip
    lines = [(summary.w8a8_gbops, "W8A8, full depth")]
    picked = best_index(snapshot, view.budget)
    if picked is not None:
        same = record.ledger.references(snapshot.rows[picked].policy.bits).same_bits
        lines.append((same / GIGA, "the picked bits, full depth"))
    for cost, text in lines:
        shapes.append(
            {
                "type": "line", "yref": "y domain", "y0": 0, "y1": 1, "x0": cost, "x1": cost,
                "line": {"color": theme.PURPLE, "dash": "dot", "width": 1.5},
            }
        )  # fmt: skip
        annotations.append(
            {
                # On a log axis annotations are placed by exponent, unlike shapes.
                "x": math.log10(cost) if view.x == "log" else cost,
                "y": 0.02, "yref": "y domain", "text": text, "showarrow": False, "textangle": -90,
                "xanchor": "right", "yanchor": "bottom",
                "font": {"color": theme.PURPLE, "size": 12},
            }
        )  # fmt: skip
    if not snapshot.rows:
        annotations.append(
            {
                "text": "no evaluation yet", "showarrow": False, "xref": "paper", "yref": "paper",
                "x": 0.5, "y": 0.5, "font": {"size": 18},
            }
        )  # fmt: skip
    return shapes, annotations


def _drawn_selection(view: FrontView) -> list[dict[str, Any]]:
    corners = view.selection
    if len(corners) < 3:
        return []
    path = "M" + "L".join(f"{x:.9g},{y:.9g}" for x, y in corners) + "Z"
    return [{"type": "path", "path": path, "xref": "x", "yref": "y"}]


def _log_axis(low: float, high: float) -> dict[str, Any]:
    values = log_ticks(low, high)
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}
