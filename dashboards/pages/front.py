"""A study's front: figure, budget, selection, table, parallel coordinates, all in one address."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import dash_ag_grid as dag
from dash import Dash, Input, Output, Patch, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from dashboards import front_figures as figures
from dashboards.front_words import (
    budget_words,
    point_words,
    progress_words,
    selection_words,
    summary_words,
)
from dashboards.pages import parts
from dashboards.report import front_page
from dashboards.snapshot import Snapshot, Snapshots
from dashboards.view import FrontView, selection_of
from search.errors import ExitbitsError
from studies.fronts import FrontSummary
from studies.records import Recorded

REBASE = 2000  # points that came since a page was drawn, before it is drawn anew
TABLE_ROWS = 5000


def layout(snapshot: Snapshot, search: str) -> Any:
    """The page of one study, in the state that its address asks for."""
    view = FrontView.from_query(search)
    name = snapshot.record.config.name
    low, high = (math.log10(one) for one in figures.cost_range(snapshot))
    low = math.floor(low * 100) / 100
    value = high if view.budget is None else math.log10(view.budget)
    return html.Div(
        [
            dcc.Store(id="front-study", data=name),
            dcc.Store(id="front-view", data=view.to_query()),
            dcc.Store(id="front-seen"),
            dcc.Store(id="front-settled"),
            dcc.Interval(id="front-poll", interval=parts.POLL_MS),
            dcc.Download(id="front-file"),
            html.H1(name),
            html.P(id="front-status", **{"aria-live": "polite"}),
            html.Div(
                [
                    html.Fieldset(
                        [
                            html.Legend("Cost axis"),
                            dcc.RadioItems(["log", "linear"], view.x, id="front-x", inline=True),
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
            parts.graph("front-course", "Hypervolume over evaluations", height=320),
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


def table_rows(snapshot: Snapshot, rows: Sequence[Recorded]) -> list[dict[str, Any]]:
    """What the table shows of rows."""
    return [
        {
            "id": str(row.id),
            "policy": row.digest[:8],
            "value": round(row.value, 6),
            "standard_error": round(row.standard_error, 5),
            "gbops": round(row.gbops, 6),
            "gbops_p95": round(row.gbops_p95, 6),
            "reduction": f"{snapshot.summary.reduction(row):.2%}",
            "mean_exit": round(row.mean_exit, 3),
            "weights": " ".join(map(str, row.policy.weight_bits)),
            "activations": " ".join(map(str, row.policy.activation_bits)),
            "thresholds": " ".join(f"{one:.2f}" for one in row.policy.thresholds[:-1]),
            "source": row.source,
            "trial": row.trial,
        }
        for row in rows[:TABLE_ROWS]
    ]


def rows_as_csv(snapshot: Snapshot, rows: Sequence[Recorded]) -> str:
    """Rows as CSV, in the columns of ``exitbits front --csv``."""
    buffer = io.StringIO()
    fields = [snapshot.summary.row_as_dict(row) for row in rows]
    writer = csv.DictWriter(buffer, list(fields[0]) if fields else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(fields)
    return buffer.getvalue()


def zoom_of(event: Mapping[str, Any], scale: str) -> tuple[float, float, float, float] | None:
    """Ranges of Plotly's ``relayoutData`` in GBOPs and metric, None where not all are told."""
    try:
        x0, x1, y0, y1 = (
            float(event[f"{axis}axis.range[{end}]"]) for axis in "xy" for end in (0, 1)
        )
    except KeyError:
        return None
    if scale == "log":
        x0, x1 = 10**x0, 10**x1
    return x0, x1, y0, y1


def brushes_of(
    event: Sequence[Any] | None, known: Sequence[tuple[int, float, float]]
) -> tuple[tuple[int, float, float], ...]:
    """The brushes after Plotly's ``restyleData`` of the parallel coordinates."""
    brushes = list(known)
    for key, value in (event[0] if event else {}).items():
        if not key.startswith("dimensions[") or not key.endswith("].constraintrange"):
            continue
        axis = int(key[len("dimensions[") : key.index("]")])
        brushes = [one for one in brushes if one[0] != axis]
        ranges = value[0] if value else None
        if ranges:
            several = ranges if isinstance(ranges[0], list) else [ranges]
            brushes += [(axis, float(low), float(high)) for low, high in several]
    return tuple(sorted(brushes))


def register(app: Dash, snapshots: Snapshots) -> None:
    """Connect the page."""
    _register_view(app)
    _register_figure(app, snapshots)
    _register_chosen(app, snapshots)
    _register_points(app, snapshots)


def _register_view(app: Dash) -> None:
    app.clientside_callback(
        "window.dash_clientside.exitbits.settle",
        Output("front-settled", "data"),
        Input("front-budget", "value"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("front-view", "data"),
        Output("url", "search", allow_duplicate=True),
        Input("front-x", "value"),
        Input("front-show", "value"),
        Input("front-settled", "data"),
        Input("front-figure", "relayoutData"),
        Input("front-figure", "selectedData"),
        Input("front-parallel", "restyleData"),
        Input("front-clear", "n_clicks"),
        State("front-view", "data"),
        State("front-budget", "max"),
        prevent_initial_call=True,
    )
    def look(
        x: str, show: list[str], budget: float, relayout: Any, selected: Any, restyle: Any,
        clear: int | None, query: str, top: float,
    ) -> tuple[Any, Any]:  # fmt: skip
        view, causes = FrontView.from_query(query), set(ctx.triggered_prop_ids)
        if x != view.x:
            view = replace(view, x=x, zoom=None if view.zoom is None else view.zoom)
        view = replace(view, dominated="dominated" in show, errors="errors" in show)
        if "front-settled.data" in causes and budget is not None:
            view = replace(view, budget=None if budget >= top - 1e-9 else 10**budget)
        if "front-figure.relayoutData" in causes and relayout:
            if any(key.endswith("autorange") for key in relayout):
                view = replace(view, zoom=None)
            elif (zoom := zoom_of(relayout, x)) is not None:
                view = replace(view, zoom=zoom)
            if relayout.get("selections") == []:
                view = replace(view, selection=())
        if "front-figure.selectedData" in causes and (corners := selection_of(selected)):
            view = replace(view, selection=corners)
        if "front-parallel.restyleData" in causes:
            view = replace(view, brushes=brushes_of(restyle, view.brushes))
        if "front-clear.n_clicks" in causes and clear:
            view = replace(view, selection=(), brushes=())
        found = view.to_query()
        return (no_update, no_update) if found == query else (found, found)


def _register_figure(app: Dash, snapshots: Snapshots) -> None:
    @app.callback(
        Output("front-figure", "figure"),
        Output("front-seen", "data"),
        Output("front-status", "children"),
        Output("front-status", "className"),
        Input("front-study", "data"),
        Input("front-x", "value"),
        Input("front-show", "value"),
        Input("theme", "data"),
        Input("front-clear", "n_clicks"),
        State("front-view", "data"),
    )
    def draw(
        name: str, x: str, show: list[str], mode: str, _clear: Any, query: str
    ) -> tuple[Any, ...]:
        try:
            snapshot = snapshots.get(name)
        except ExitbitsError as error:
            return no_update, no_update, str(error), "stale"
        view = replace(
            FrontView.from_query(query), x=x, dominated="dominated" in show, errors="errors" in show
        )
        if ctx.triggered_id == "front-clear":
            view = replace(view, selection=(), brushes=())
        figure = figures.front_figure(snapshot, view, mode)
        return figure, _seen(snapshot, snapshot.revision, view), progress_words(snapshot), ""

    @app.callback(
        Output("front-figure", "figure", allow_duplicate=True),
        Output("front-seen", "data", allow_duplicate=True),
        Output("front-status", "children", allow_duplicate=True),
        Output("front-status", "className", allow_duplicate=True),
        Input("front-poll", "n_intervals"),
        Input("front-view", "data"),
        State("front-study", "data"),
        State("front-seen", "data"),
        State("theme", "data"),
        State("front-status", "className"),
        prevent_initial_call=True,
    )
    def follow(
        _: int, query: str, name: str, seen: dict[str, Any] | None, mode: str, was: str
    ) -> tuple[Any, ...]:
        if not seen:
            raise PreventUpdate
        try:
            snapshot = snapshots.get(name)
        except ExitbitsError as error:
            return no_update, no_update, f"Not up to date: {error}", "stale"
        view = FrontView.from_query(query)
        now = _seen(snapshot, seen["base"], view)
        if now == seen:
            if was != "stale":
                raise PreventUpdate
            return no_update, no_update, progress_words(snapshot), ""
        base = seen["base"]
        if len(snapshot.rows) - len(snapshot.until(base)) > REBASE:
            base = snapshot.revision
            return (figures.front_figure(snapshot, view, mode), _seen(snapshot, base, view),
                    progress_words(snapshot), "")  # fmt: skip
        patch = Patch()
        for offset, trace in enumerate(figures.moving_traces(snapshot, base, view, mode)):
            patch["data"][figures.RECENT + offset] = trace.to_plotly_json()
        shapes, annotations = figures.reference_lines(snapshot, view)
        patch["layout"]["shapes"] = shapes
        patch["layout"]["annotations"] = annotations
        return patch, now, progress_words(snapshot), ""


def _seen(snapshot: Snapshot, base: int, view: FrontView) -> dict[str, Any]:
    """What a page shows, so that it is told only what is new.

    An answer that a later request overtakes is dropped by the browser: the next poll then finds
    here that the page does not show what it should.
    """
    progress = snapshot.progress
    trials = [progress.budget, progress.finished, progress.running, progress.failed, progress.lost]
    marks = replace(view, zoom=None).to_query()
    return {"base": base, "revision": snapshot.revision, "trials": trials, "marks": marks}


def _register_chosen(app: Dash, snapshots: Snapshots) -> None:
    @app.callback(
        Output("front-pick", "children"),
        Output("front-summary", "children"),
        Output("front-chosen", "children"),
        Output("front-table", "rowData"),
        Input("front-view", "data"),
        Input("front-seen", "data"),
        State("front-study", "data"),
    )
    def list_chosen(query: str, seen: Any, name: str) -> tuple[Any, ...]:
        if not seen:
            raise PreventUpdate
        snapshot, view = _read(snapshots, name), FrontView.from_query(query)
        rows = figures.chosen_rows(snapshot, view)
        picked = figures.best_index(snapshot, view.budget)
        words = [html.Strong(budget_words(snapshot, view.budget))]
        if picked is not None:
            path = parts.policy_path(name, snapshot.rows[picked].id)
            words += [" ", dcc.Link("Open this policy", href=path)]
        return (words, summary_words(snapshot), selection_words(view, rows, TABLE_ROWS),
                table_rows(snapshot, rows))  # fmt: skip

    @app.callback(
        Output("front-parallel", "figure"),
        Output("front-course", "figure"),
        Output("front-course-words", "children"),
        Input("front-seen", "data"),
        Input("front-view", "data"),
        Input("theme", "data"),
        State("front-study", "data"),
        State("front-parallel", "figure"),
    )
    def draw_others(seen: Any, query: str, mode: str, name: str, drawn: Any) -> tuple[Any, ...]:
        if not seen:
            raise PreventUpdate
        if drawn and ctx.triggered_prop_ids.keys() == {"front-view.data"}:
            # Only the selection matters to these; the brushes are theirs already.
            old = (drawn.get("layout", {}).get("meta") or {}).get("selection")
            if old == _selection_key(query):
                raise PreventUpdate
        snapshot, view = _read(snapshots, name), FrontView.from_query(query)
        parallel = figures.parallel_figure(snapshot, view, mode)
        parallel.update_layout(meta={"selection": _selection_key(query)})
        words = (
            f"The front dominates {snapshot.hypervolume:.4f} of the box from "
            f"{snapshot.record.metric} 0 and {snapshot.summary.w8a8_gbops:.3f} GBOPs (W8A8 at "
            "full depth); it last grew at "
            f"evaluation {int(snapshot.course[-1, 0])} of {len(snapshot.rows)}."
        )
        return parallel, figures.hypervolume_figure(snapshot, mode), words

    @app.callback(
        Output("front-file", "data"),
        Input("front-csv", "n_clicks"),
        Input("front-html", "n_clicks"),
        State("front-study", "data"),
        State("front-view", "data"),
        prevent_initial_call=True,
    )
    def download(_csv: Any, _html: Any, name: str, query: str) -> Any:
        snapshot = _read(snapshots, name)
        if ctx.triggered_id == "front-csv":
            rows = figures.chosen_rows(snapshot, FrontView.from_query(query))
            return dcc.send_string(rows_as_csv(snapshot, rows), f"{_safe(name)}.csv")
        summary = replace(
            snapshot.summary, details=snapshots.reader.details(snapshot.summary.front_rows)
        )
        return dcc.send_string(_page(summary), f"{_safe(name)}.html")


def _page(summary: FrontSummary) -> str:
    return front_page(summary)


def _selection_key(query: str) -> str:
    view = FrontView.from_query(query)
    return replace(FrontView(), selection=view.selection, dominated=view.dominated).to_query()


def _safe(name: str) -> str:
    return "".join(one if one.isalnum() or one in "-_." else "_" for one in name)[:80]


def _read(snapshots: Snapshots, name: str) -> Snapshot:
    try:
        return snapshots.get(name)
    except ExitbitsError as error:
        raise PreventUpdate from error  # the status line says it


def _register_points(app: Dash, snapshots: Snapshots) -> None:
    @app.callback(
        Output("front-hover", "children"),
        Input("front-figure", "hoverData"),
        State("front-study", "data"),
        State("front-seen", "data"),
        prevent_initial_call=True,
    )
    def tell(event: Any, name: str, seen: Any) -> Any:
        snapshot = _read(snapshots, name)
        row = pointed_at(snapshot, event, seen)
        if row is None:
            raise PreventUpdate
        path = parts.policy_path(name, row.id)
        return [html.Span(point_words(snapshot, row)), " ", dcc.Link("Open", href=path)]

    @app.callback(
        Output("url", "href"),
        Input("front-figure", "clickData"),
        Input("front-table", "cellClicked"),
        State("front-study", "data"),
        State("front-seen", "data"),
        prevent_initial_call=True,
    )
    def open_policy(event: Any, cell: Any, name: str, seen: Any) -> Any:
        if ctx.triggered_id == "front-table":
            if not cell or cell.get("colId") != "policy":
                raise PreventUpdate
            return parts.policy_path(name, int(cell["rowId"]))
        row = pointed_at(_read(snapshots, name), event, seen)
        if row is None:
            raise PreventUpdate
        return parts.policy_path(name, row.id)


def pointed_at(snapshot: Snapshot, event: Any, seen: Any) -> Recorded | None:
    """The row behind a point of Plotly's event data.

    The large traces carry no ids: their points are the rows of a kind in the order of recording.
    """
    if not event or not event.get("points") or not seen:
        return None
    point = event["points"][0]
    if (known := point.get("customdata")) is not None:
        number = known[0] if isinstance(known, list) else known
        return next((row for row in reversed(snapshot.rows) if row.id == number), None)
    curve, index = point["curveNumber"], point.get("pointNumber", point.get("pointIndex"))
    if curve >= figures.RECENT or index is None:
        return None
    shown = snapshot.until(seen["base"])
    of_kind = shown[snapshot.kinds[shown] == curve]
    return snapshot.rows[int(of_kind[index])] if index < len(of_kind) else None
