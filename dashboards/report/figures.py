"""Figures of a study: pure functions from a front to a Plotly figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from dashboards import theme
from dashboards.axes import SYMBOLS, log_ticks, metric_range
from studies.fronts import FrontSummary
from studies.records import EvaluationRow


def front_figure(summary: FrontSummary) -> go.Figure:
    """Metric against expected GBOPs: the front, what it dominates, and the references."""
    points, metric = summary.points, summary.record.metric
    on_front = np.zeros(len(points), dtype=bool)
    on_front[list(summary.front)] = True
    kinds = np.array([row.kind for row in summary.rows])
    figure = go.Figure()
    for name, chosen, symbol, color in (
        ("anchor, dominated", (kinds == "anchor") & ~on_front, "square-open", theme.ORANGE),
        ("proposed, dominated", (kinds == "proposed") & ~on_front, "circle-open", theme.GREY),
        ("harvest, dominated", (kinds == "harvest") & ~on_front, "triangle-up-open", theme.SKY),
        ("method, dominated", (kinds == "method") & ~on_front, "diamond-open", theme.PURPLE),
    ):
        if not chosen.any():
            continue
        figure.add_scatter(
            x=points[chosen, 1],
            y=points[chosen, 0],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "color": color, "size": 7},
            hovertext=[_hover(summary, summary.rows[int(i)]) for i in np.flatnonzero(chosen)],
            hoverinfo="text",
        )
    rows = summary.front_rows
    figure.add_scatter(
        x=[row.gbops for row in rows],
        y=[row.value for row in rows],
        error_y={
            "array": [row.standard_error for row in rows],
            "color": theme.BLUE,
            "thickness": 1,
            "width": 2,
        },
        mode="lines+markers",
        name="Pareto front ± se (squares: anchors, triangles: harvests, diamonds: methods)",
        line={"color": theme.BLUE, "width": 2, "shape": "hv"},
        marker={
            "color": theme.BLUE,
            "size": 9,
            "symbol": [SYMBOLS[row.kind] for row in rows],
        },
        hovertext=[_hover(summary, row) for row in rows],
        hoverinfo="text",
    )
    _add_knee(figure, summary)
    _add_references(figure, summary)
    ticks = log_ticks(min(points[:, 1]), max([*points[:, 1], summary.w8a8_gbops]))
    figure.update_layout(
        theme.layout(
            height=540,
            xaxis={
                "title": "GBOPs a sample, expected (log)",
                "type": "log",
                "tickvals": ticks,
                "ticktext": [f"{value:g}" for value in ticks],
                "gridcolor": theme.GRID,
                "automargin": True,
            },
            yaxis={
                "title": f"{escape(metric, quote=False)} on the search split",
                "gridcolor": theme.GRID,
                "automargin": True,
                "range": metric_range(summary),
            },
            legend={"orientation": "h", "yanchor": "top", "y": -0.16, "x": 0},
            margin={"l": 70, "r": 30, "t": 40, "b": 120},
        )
    )
    return figure


def _add_knee(figure: go.Figure, summary: FrontSummary) -> None:
    index = summary.knee
    if index is None:
        return
    figure.add_scatter(
        x=[summary.rows[index].gbops],
        y=[summary.rows[index].value],
        mode="markers",
        name="knee of the front",
        marker={
            "symbol": "star",
            "size": 16,
            "color": theme.VERMILLION,
            "line": {"color": theme.PAPER, "width": 1},
        },
        hoverinfo="skip",
    )


def _add_references(figure: go.Figure, summary: FrontSummary) -> None:
    record = summary.record
    figure.add_hline(
        y=record.reference_value,
        line={"color": theme.GREEN, "dash": "dash", "width": 1.5},
        annotation={
            "text": f"full precision {record.reference_value:.4f}, "
            f"{summary.w32a32_gbops:.1f} GBOPs",
            "font": {"color": theme.GREEN},
        },
        annotation_position="top left",
    )
    figure.add_vline(
        x=summary.w8a8_gbops,
        line={"color": theme.PURPLE, "dash": "dot", "width": 1.5},
    )
    # On a log axis annotations are placed by exponent, unlike shapes.
    figure.add_annotation(
        x=math.log10(summary.w8a8_gbops),
        y=0,
        yref="y domain",
        text="W8A8, full depth",
        font={"color": theme.PURPLE},
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
        textangle=-90,
    )


def bits_figure(summary: FrontSummary) -> go.Figure:
    """Bits of every group along the front, weights above activations."""
    rows = summary.front_rows
    space = summary.record.space
    policies = [row.policy for row in rows]
    groups = [f"a {name}" for name in reversed(space.activation_groups)] + [
        f"w {name}" for name in reversed(space.weight_groups)
    ]
    given = [policy.bits for policy in policies]
    bits = np.array([[*reversed(b.activations), *reversed(b.weights)] for b in given]).T
    labels = _front_labels(rows)
    figure = go.Figure(
        go.Heatmap(
            z=bits,
            x=labels,
            y=groups,
            colorscale="Blues",
            zmin=2,
            zmax=max(8, int(bits.max())),
            xgap=1,
            ygap=1,
            text=bits,
            texttemplate="%{text}",
            colorbar={"title": "bits"},
            hovertemplate="%{y}: %{z} bits<br>%{x}<extra></extra>",
        )
    )
    figure.update_layout(
        theme.layout(
            height=144 + 24 * len(groups),
            xaxis={"title": "policy of the front, by GBOPs", "type": "category"},
            yaxis={"title": "group (w weights, a activations)", "type": "category"},
            margin={"l": 110, "r": 30, "t": 44, "b": 70},
        )
    )
    return figure


def exits_figure(summary: FrontSummary) -> go.Figure:
    """Where samples leave, for every policy of the front."""
    rows = summary.front_rows
    labels = _front_labels(rows)
    blocks = summary.record.ledger.exit_blocks
    shades = ["#D7E8F4", "#A9CDE6", "#74AED6", "#4190C4", "#1B6FA8", "#084C7F"]
    figure = go.Figure()
    for index, block in enumerate(blocks):
        shade = shades[round(index * (len(shades) - 1) / max(1, len(blocks) - 1))]
        figure.add_bar(
            x=labels,
            y=[found.exit_rates[index] for found in summary.details],
            name=f"after block {block}",
            marker={"color": shade},
            hovertemplate=f"after block {block}: %{{y:.1%}}<extra></extra>",
        )
    figure.update_layout(
        theme.layout(
            height=420,
            barmode="stack",
            xaxis={"title": "policy of the front, by GBOPs", "type": "category"},
            yaxis={"title": "share of samples", "tickformat": ".0%", "range": [0, 1]},
            legend={
                "orientation": "h",
                "yanchor": "top",
                "y": -0.4,
                "x": 0,
                "traceorder": "normal",
            },
            margin={"l": 70, "r": 30, "t": 40, "b": 130},
        )
    )
    return figure


def _front_labels(rows: Sequence[EvaluationRow]) -> list[str]:
    """A distinct category for each policy: its cost, told apart by digest where costs repeat."""
    labels = [f"{row.gbops:.3f}" for row in rows]
    return [
        f"{label} {row.digest[:4]}" if labels.count(label) > 1 else label
        for label, row in zip(labels, rows, strict=True)
    ]


def _hover(summary: FrontSummary, row: EvaluationRow) -> str:
    policy = row.policy
    origin, metric = (escape(text, quote=False) for text in (row.origin, summary.record.metric))
    return "<br>".join(
        (
            f"<b>{row.digest[:12]}</b> ({origin})",
            f"{metric} {row.value:.4f} ± {row.standard_error:.4f}",
            f"{row.gbops:.4f} GBOPs expected, {row.gbops_p95:.4f} p95",
            f"{summary.reduction(row):.2%} below 32x32, mean exit {row.mean_exit:.2f}",
            f"weights {' '.join(map(str, policy.bits.weights))}",
            f"activations {' '.join(map(str, policy.bits.activations))}",
            f"thresholds {' '.join(f'{t:.2f}' for t in policy.thresholds[:-1])}",
        )
    )
