"""A study's front: figure, budget, selection, table, parallel coordinates, all in one address."""

from __future__ import annotations

import math
from typing import Any

import dash_ag_grid as dag
from dash import dcc, html

from dashboards.pages import parts
from dashboards.pages.study.choosing import cost_range
from dashboards.pages.study.view import COURSES, SCALES, FrontView
from dashboards.snapshot import Snapshot


def layout(snapshot: Snapshot, search: str) -> Any:
    """The page of one study, in the state that its address asks for."""
    view = FrontView.from_query(search)
    name = snapshot.record.config.name
    low, high = (math.log10(one) for one in cost_range(snapshot))
    low = math.floor(low * 100) / 100
    value = high if view.budget is None else math.log10(view.budget)
    return html.Div(
        [
            dcc.Store(id="front-study", data=name),
            dcc.Store(id="front-view", data=view.to_query()),
            dcc.Store(id="front-seen"),
            dcc.Store(id="front-drawn"),
            dcc.Store(id="front-settled"),
            dcc.Store(id="front-selected"),
            dcc.Interval(id="front-poll", interval=parts.POLL_MS),
            dcc.Download(id="front-file"),
            html.H1(name),
            html.P(id="front-status", **{"aria-live": "polite"}),
            html.Div(
                [
                    html.Fieldset(
                        [
                            html.Legend("Cost axis"),
                            dcc.RadioItems(list(SCALES), view.x, id="front-x", inline=True),
                        ]
                    ),
                    html.Fieldset(
                        [
                            html.Legend("Show"),
                            dcc.Checklist(
                                {"dominated": "dominated points", "errors": "standard errors"},
                                [one for one in ("dominated", "errors") if getattr(view, one)],
                                id="front-show", inline=True,
                            ),
                        ]
                    ),
                    html.Div(
                        [
                            html.Label("Budget: GBOPs a sample", id="front-budget-label"),
                            html.Div(
                                dcc.Slider(
                                    low, high, 0.005, value=min(max(value, low), high),
                                    id="front-budget", updatemode="drag",
                                    marks=_marks(low, high), included=True,
                                    allow_direct_input=False,
                                ),
                                role="group", **{"aria-labelledby": "front-budget-label"},
                            ),
                        ],
                        className="wide",
                    ),
                ],
                className="controls",
            ),
            html.Div(id="front-pick", className="panel pick", **{"aria-live": "polite"}),
            parts.graph("front-figure", f"Front of {name}: metric against cost", height=560),
            html.P(id="front-summary", className="note"),
            html.Div("Point at a policy to see it here; click it to open its page.",
                     id="front-hover", className="panel"),
            html.H2("Policies"),
            html.P(id="front-chosen", className="note", **{"aria-live": "polite"}),
            html.Div(
                [
                    html.Button("Clear selection", id="front-clear", type="button",
                                className="quiet"),
                    html.Button("CSV of these rows", id="front-csv", type="button",
                                className="quiet"),
                    html.Button("Stand-alone page", id="front-html", type="button",
                                className="quiet"),
                ],
                className="controls",
            ),
            dag.AgGrid(
                id="front-table", columnDefs=_columns(snapshot.record.metric), rowData=[],
                defaultColDef={"sortable": True, "resizable": True, "filter": True},
                dashGridOptions={"pagination": True, "paginationPageSize": 20,
                                 "suppressCellFocus": False, "animateRows": False},
                getRowId="params.data.id",
                style={"height": "420px"},
            ),
            html.H2("Bits and thresholds"),
            html.P("Drag along an axis to keep only the policies in that range; the table and the "
                   "figure above follow. w: weight bits, a: activation bits, t: threshold.",
                   className="note"),
            html.Div(parts.graph("front-parallel", "Parallel coordinates of bits and thresholds",
                                 height=460), className="scroll wide-figure"),
            html.H2("Hypervolume"),
            html.P(id="front-course-words", className="note"),
            html.Div(
                html.Fieldset(
                    [
                        html.Legend("Over"),
                        dcc.RadioItems(list(COURSES), view.course, id="front-over", inline=True),
                    ]
                ),
                className="controls",
            ),
            parts.graph("front-course", "Hypervolume over evaluations or time", height=320),
        ]
    )  # fmt: skip


def _marks(low: float, high: float) -> dict[float, str]:
    values = [step * 10.0**decade for decade in range(math.floor(low), math.ceil(high) + 1)
              for step in (1, 2, 5)]  # fmt: skip
    return {math.log10(one): f"{one:g}" for one in values if low <= math.log10(one) <= high}


def _columns(metric: str) -> list[dict[str, Any]]:
    number = {"type": "rightAligned", "width": 132}
    return [
        {"field": "policy", "width": 110},
        {"field": "value", "headerName": metric, **number},
        {"field": "standard_error", "headerName": "± se", **number},
        {"field": "gbops", "headerName": "GBOPs", **number},
        {"field": "gbops_p95", "headerName": "GBOPs p95", **number},
        {"field": "reduction", "headerName": "below 32x32", **number},
        {"field": "mean_exit", "headerName": "mean exit", **number},
        {"field": "weights", "headerName": "weight bits", "width": 130},
        {"field": "activations", "headerName": "activation bits", "width": 140},
        {"field": "thresholds", "width": 240},
        {"field": "source", "width": 120},
        {"field": "trial", **number},
    ]
