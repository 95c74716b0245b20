"""Figures of where a policy's samples go, and each in words: pure functions as well."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from dashboards import theme
from dashboards.pages.policy.figures import FIXED
from search.results import Evaluation
from studies.records import StudyRecord


def exits_figure(record: StudyRecord, found: Evaluation, mode: str = "light") -> go.Figure:
    """Share of the samples that leave at each exit and the metric there; thresholds by hover."""
    asked = [f"threshold {value:.4f}" for value in found.policy.thresholds[:-1]]
    there = [
        "" if value is None else f"{escape(found.metric)} {value:.3f}"
        for value in found.exit_values or [None] * len(found.exit_rates)
    ]
    figure = go.Figure(
        go.Bar(
            x=record.ledger.exit_blocks,
            y=found.exit_rates,
            width=0.7,
            name="samples that leave here",
            marker={"color": theme.colors(mode).front},
            text=there,
            textposition="outside",
            cliponaxis=False,
            textfont={"size": 11},
            customdata=[*asked, "takes whoever is left"],
            hovertemplate=(
                "exit after block %{x}: %{y:.2%}<br>%{customdata}<br>%{text}<extra></extra>"
            ),
        )
    )
    figure.update_layout(_by_block(record, mode, "block that the exit follows"))
    return figure


def exits_text(record: StudyRecord, found: Evaluation) -> str:
    """Where samples leave, in words."""
    blocks, rates = record.ledger.exit_blocks, found.exit_rates
    most = max(range(len(blocks)), key=rates.__getitem__)
    return (
        f"The exit after block {blocks[most]} takes the most samples, {rates[most]:.1%}; "
        f"{rates[-1]:.1%} go through to the last. A sample runs {found.mean_exit:.2f} of "
        f"{blocks[-1]} blocks on average. {_values_text(record, found)}"
    )


def _values_text(record: StudyRecord, found: Evaluation) -> str:
    if found.exit_values is None:
        return (
            f"The {found.metric} at each exit was not recorded: this evaluation is from before "
            "there was such a figure."
        )
    pairs = zip(record.ledger.exit_blocks, found.exit_values, strict=True)
    there = [f"{value:.4f} after block {block}" for block, value in pairs if value is not None]
    return f"The {found.metric} of those that leave is {', '.join(there)}."


def utilization_figure(record: StudyRecord, found: Evaluation, mode: str = "light") -> go.Figure:
    """Share of the samples that run each block."""
    figure = go.Figure(
        go.Bar(
            x=list(range(1, len(found.utilization) + 1)),
            y=found.utilization,
            width=0.7,
            name="samples that run the block",
            marker={"color": theme.GREEN},
            hovertemplate="block %{x} runs for %{y:.2%}<extra></extra>",
        )
    )
    figure.update_layout(_by_block(record, mode, "block"))
    return figure


def utilization_text(found: Evaluation) -> str:
    """The utilization in words."""
    used = found.utilization
    rare = [block for block, share in enumerate(used, start=1) if share < 0.5]
    half = (
        f"from block {rare[0]} on, fewer than half are left"
        if rare
        else "every block runs for at least half of them"
    )
    return f"Block 1 runs for {used[0]:.1%} of the samples, the last for {used[-1]:.1%}; {half}."


def _by_block(record: StudyRecord, mode: str, title: str) -> dict[str, Any]:
    depth, grid = record.ledger.exit_blocks[-1], theme.colors(mode).grid
    span = {"dtick": 1, "range": [0.4, depth + 0.6], "showgrid": False}
    # Room above a full bar for what is written there.
    ticks = {"tickformat": ".0%", "range": [0, 1.08], "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    return theme.layout(
        mode,
        showlegend=True,
        xaxis={"title": title, **span, **FIXED},
        yaxis={"title": "share of samples", "gridcolor": grid, **ticks, **FIXED},
    )
