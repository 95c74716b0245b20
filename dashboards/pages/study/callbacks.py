"""What happens on the front page: the view follows the person, the figures follow both."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

from dash import Dash, Input, Output, Patch, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from dashboards.pages import parts
from dashboards.pages.study import figures
from dashboards.pages.study.choosing import best_index, chosen_rows
from dashboards.pages.study.events import brushes_of, pointed_at, zoom_of
from dashboards.pages.study.side_figures import hypervolume_figure, parallel_figure
from dashboards.pages.study.tables import TABLE_ROWS, table_rows
from dashboards.pages.study.view import FrontView, selection_of
from dashboards.pages.study.words import (
    budget_words,
    point_words,
    progress_words,
    selection_words,
    summary_words,
)
from dashboards.report.page import front_page
from dashboards.snapshot import Snapshot, Snapshots
from search.errors import ExitbitsError
from studies.words import file_name

REBASE = 2000  # points that came since a page was drawn, before it is drawn anew


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

    app.clientside_callback(
        "window.dash_clientside.exitbits.outline",
        Output("front-selected", "data"),
        Input("front-figure", "selectedData"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("front-view", "data"),
        Output("url", "search", allow_duplicate=True),
        Input("front-x", "value"),
        Input("front-show", "value"),
        Input("front-over", "value"),
        Input("front-settled", "data"),
        Input("front-figure", "relayoutData"),
        Input("front-selected", "data"),
        Input("front-parallel", "restyleData"),
        Input("front-clear", "n_clicks"),
        State("front-view", "data"),
        State("front-budget", "max"),
        prevent_initial_call=True,
    )
    def look(
        x: str, show: list[str], over: str, budget: float, relayout: Any, selected: Any,
        restyle: Any, clear: int | None, query: str, top: float,
    ) -> tuple[Any, Any]:  # fmt: skip
        view, causes = FrontView.from_query(query), set(ctx.triggered_prop_ids)
        view = replace(
            view, x=x, dominated="dominated" in show, errors="errors" in show, course=over
        )
        if "front-settled.data" in causes and budget is not None:
            view = replace(view, budget=None if budget >= top - 1e-9 else 10**budget)
        if "front-figure.relayoutData" in causes and relayout:
            if any(key.endswith("autorange") for key in relayout):
                view = replace(view, zoom=None)
            elif (zoom := zoom_of(relayout, x)) is not None:
                view = replace(view, zoom=zoom)
            if relayout.get("selections") == []:
                view = replace(view, selection=())
        if "front-selected.data" in causes and (corners := selection_of(selected)):
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
        if len(snapshot.rows) - len(snapshot.until(seen["base"])) > REBASE:
            now = _seen(snapshot, snapshot.revision, view)
            return figures.front_figure(snapshot, view, mode), now, progress_words(snapshot), ""
        patch = Patch()
        for offset, trace in enumerate(figures.moving_traces(snapshot, seen["base"], view, mode)):
            patch["data"][figures.RECENT + offset] = trace
        shapes, annotations = figures.reference_lines(snapshot, view)
        patch["layout"]["shapes"] = shapes
        patch["layout"]["annotations"] = annotations
        return patch, now, progress_words(snapshot), ""


def _seen(snapshot: Snapshot, base: int, view: FrontView) -> dict[str, Any]:
    """What a page shows, so that it is told only what is new.

    An answer that a later request overtakes is dropped by the browser: the next poll then finds
    here that the page does not show what it should.
    """
    trials = list(astuple(snapshot.progress))
    marks = replace(view, zoom=None, course=FrontView.course).to_query()
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
        rows = chosen_rows(snapshot, view)
        picked = best_index(snapshot, view.budget)
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
        Output("front-drawn", "data"),
        Input("front-seen", "data"),
        Input("front-view", "data"),
        Input("theme", "data"),
        State("front-study", "data"),
        State("front-drawn", "data"),
    )
    def draw_others(
        seen: Any, query: str, mode: str, name: str, drawn: dict[str, Any] | None
    ) -> tuple[Any, ...]:
        if not seen:
            raise PreventUpdate
        snapshot, view = _read(snapshots, name), FrontView.from_query(query)
        lines = [_lines_key(snapshot, view), mode]
        now = {"lines": lines, "course": [len(snapshot.rows), view.course, mode]}
        if drawn == now:
            raise PreventUpdate
        known = drawn is not None and drawn["lines"] == lines
        parallel = no_update if known else parallel_figure(snapshot, view, mode)
        words = (
            f"The front dominates {snapshot.hypervolume:.4f} of the box from "
            f"{snapshot.record.metric} 0 and {snapshot.summary.w8a8_gbops:.3f} GBOPs (W8A8 at "
            "full depth); it last grew at "
            f"evaluation {int(snapshot.course[-1, 0])} of {len(snapshot.rows)}."
        )
        return parallel, hypervolume_figure(snapshot, view, mode), words, now

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
            rows = chosen_rows(snapshot, FrontView.from_query(query))
            details = snapshots.reader.details(rows)
            text = snapshot.summary.rows_to_csv(rows, details)
            return dcc.send_string(text, f"{file_name(name)}.csv")
        summary = replace(
            snapshot.summary, details=snapshots.reader.details(snapshot.summary.front_rows)
        )
        return dcc.send_string(front_page(summary), f"{file_name(name)}.html")


def _lines_key(snapshot: Snapshot, view: FrontView) -> str:
    """What the parallel coordinates depend on; the brushes are theirs already."""
    chosen = replace(FrontView(), selection=view.selection, dominated=view.dominated).to_query()
    # Indices of rows, which never move.
    among = f"{hash(snapshot.front):x}" + (f" {len(snapshot.rows)}" if view.selection else "")
    return f"{among} {chosen}"


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
