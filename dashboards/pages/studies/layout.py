"""All studies of a store: how far each is, who works on it, and the best it has under a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any, Protocol

import numpy as np
from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from dashboards.pages import parts
from dashboards.pages.studies.view import SHARES, SORTS, StudiesView
from dashboards.snapshot import Snapshot, Snapshots
from search.digest import digest_of
from search.errors import ExitbitsError
from search.front import best_under
from studies.records import UnreadableStudy
from studies.store.workers import WorkerState
from studies.words import clock

Found = Snapshot | UnreadableStudy | None
"""A study, why it cannot be read, or None while it is being read."""


class Archivist(Protocol):
    """Whoever archives studies."""

    def set_archived(self, study_id: int, archived: bool) -> str:
        """Archive a study, or bring it back."""


def layout(snapshots: Snapshots, search: str) -> Any:
    """The page as its address asks for it; its rows come by polling."""
    snapshots.names()  # a database that is away is told at once
    view = StudiesView.from_query(search)
    return html.Div(
        [
            dcc.Interval(id="studies-poll", interval=parts.POLL_MS),
            dcc.Store(id="studies-seen"),
            html.H1("Studies"),
            html.P(id="studies-status", **{"aria-live": "polite"}),
            html.Div(
                [
                    html.Div(
                        [
                            html.Label("Search", htmlFor="studies-search"),
                            dcc.Input(
                                id="studies-search", type="search", value=view.search,
                                placeholder="part of a name", debounce=0.25,
                                style={"width": "240px"},
                            ),
                        ]
                    ),
                    _choices("Sort by", dcc.RadioItems(list(SORTS), view.sort, id="studies-sort",
                                                       inline=True)),
                    _choices(
                        "Best under (share of W8A8)",
                        dcc.RadioItems(SHARES, view.share, id="studies-share", inline=True),
                    ),
                    _choices("Archived", dcc.Checklist({"archived": "show archived"},
                                                       ["archived"] * view.archived,
                                                       id="studies-archived")),
                ],
                className="controls",
            ),
            html.Div(html.P("Reading the studies…"), id="studies-table"),
            html.P(id="studies-done", role="status"),
            html.H2("Workers"),
            html.Div(id="studies-workers"),
        ]
    )  # fmt: skip


def _choices(title: str, control: Any) -> html.Fieldset:
    return html.Fieldset([html.Legend(title), control])


def order(found: Mapping[str, Found], search: str, sort: str) -> list[tuple[str, Found]]:
    """The studies whose name contains ``search``, in the order asked for.

    Those that are not read yet, or cannot be, come last, but by name.
    """
    kept = sorted(
        (name, one) for name, one in found.items() if search.strip().lower() in name.lower()
    )
    rank = _RANKS.get(sort)
    if rank is not None:
        kept.sort(key=lambda pair: -rank(pair[1]) if isinstance(pair[1], Snapshot) else np.inf)
    return kept


_RANKS: Mapping[str, Callable[[Snapshot], float]] = {
    "progress": lambda one: one.progress.finished / max(1, one.progress.budget),
    "hypervolume": lambda one: one.hypervolume,
    "evaluations": lambda one: len(one.rows),
}


def state_words(snapshot: Snapshot, alive: int) -> str:
    """Whether a study is done, at work, waits for workers, or cannot go on, and why."""
    progress = snapshot.progress
    if progress.done:
        return "done"
    if progress.blocked:
        return f"blocked: {progress.blocked}"
    if progress.running and alive:
        return "running"
    return "waiting for workers" if not alive else "waiting"


def pace_words(snapshot: Snapshot, alive: int) -> str:
    """Trials a minute, and how long the rest takes at that pace."""
    progress = snapshot.progress
    if not alive or progress.done or (pace := snapshot.pace) is None:
        return ""
    left = progress.budget - progress.finished - progress.failed
    return f"{60 * pace:.3g} a minute, about {clock(left / pace)} left"


def best_words(snapshot: Snapshot, share: float) -> str:
    """The best point under a share of the W8A8 cost."""
    limit = snapshot.summary.w8a8_gbops * share
    front = snapshot.summary.front_rows
    index = best_under(snapshot.points[list(snapshot.front)], limit) if front else None
    if index is None:
        return f"none <= {limit:.3f}"
    return f"{front[index].value:.4f} at {front[index].gbops:.3f}"


def sparkline(snapshot: Snapshot, width: int = 90, height: int = 22) -> Any:
    """Hypervolume over evaluations, as a picture whose meaning is also said."""
    counts, values = snapshot.course.T
    top, across = max(snapshot.hypervolume, 1e-9), max(1, len(snapshot.rows))
    # Of the steps within one pixel, the last.
    columns = np.append(np.round(2 + counts / across * (width - 4)), width - 2)
    levels = np.append(height - 2 - values / top * (height - 4), 2.0)
    last = np.append(np.flatnonzero(np.diff(columns)), len(columns) - 1)
    corners, level = [], height - 2.0
    for x, y in zip(columns[last], levels[last], strict=True):
        corners += [f"{x:.0f},{level:.1f}", f"{x:.0f},{y:.1f}"]
        level = y
    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}'>"
        f"<polyline points='{' '.join(corners)}' fill='none' stroke='%230a84c6' "
        "stroke-width='1.5'/></svg>"
    )
    return html.Img(
        src="data:image/svg+xml;utf8," + picture,
        alt=f"hypervolume rose to {snapshot.hypervolume:.4f}",
        width=width,
        height=height,
    )


def _row(name: str, snapshot: Found, alive: int, share: float, is_archived: bool) -> list[Any]:
    link = dcc.Link(name, href=parts.study_path(name))
    if not isinstance(snapshot, Snapshot):
        words = "is being read…" if snapshot is None else f"cannot be read: {snapshot.reason}"
        return [link, words, *[""] * (len(_HEADINGS) - 2)]
    progress = snapshot.progress
    ended = progress.ended
    return [
        link,
        "archived" if is_archived else state_words(snapshot, alive),
        [html.Progress(value=str(ended), max=str(max(progress.budget, ended, 1)),
                       **{"aria-label": f"{ended} of {progress.budget} trials"}),
         f" {ended}/{progress.budget}"],
        pace_words(snapshot, alive),
        str(alive),
        str(len(snapshot.rows)),
        str(len(snapshot.front)),
        best_words(snapshot, share),
        [f"{snapshot.hypervolume:.4f} ", sparkline(snapshot)],
        html.Button("restore" if is_archived else "archive", type="button", className="quiet",
                    id={"type": "studies-archive", "study": snapshot.id,
                        "archived": not is_archived},
                    **{"aria-label": f"{'restore' if is_archived else 'archive'} {name}"}),
    ]  # fmt: skip


_HEADINGS = (
    "study", "state", "trials", "pace", "workers", "evaluations", "on the front",
    "best metric at GBOPs", "hypervolume", "",
)  # fmt: skip


def register(app: Dash, snapshots: Snapshots) -> None:
    """Connect the page."""

    @app.callback(
        Output("studies-table", "children"),
        Output("studies-workers", "children"),
        Output("studies-status", "children"),
        Output("studies-status", "className"),
        Output("studies-seen", "data"),
        Output("url", "search", allow_duplicate=True),
        Input("studies-poll", "n_intervals"),
        Input("studies-search", "value"),
        Input("studies-sort", "value"),
        Input("studies-share", "value"),
        Input("studies-archived", "value"),
        Input("studies-done", "children"),
        State("studies-seen", "data"),
        prevent_initial_call="initial_duplicate",
    )
    def show(
        _: Any, search: str, sort: str, share: str, archived: list[str], _done: Any,
        seen: dict[str, str] | None,
    ) -> tuple[Any, ...]:  # fmt: skip
        view = StudiesView(search or "", sort, share, bool(archived))
        query = view.to_query()
        try:
            found = snapshots.all(archived=view.archived)
            current = set(snapshots.names()) if view.archived else set(found)
            workers = snapshots.workers()
        except ExitbitsError as error:
            # The address is still what it was; the next answer brings it up to date.
            shown = seen and {**seen, "state": ""}
            return no_update, no_update, f"Not up to date: {error}", "stale", shown, no_update
        state = _state(found, current, workers)
        if seen == {"state": state, "query": query}:
            raise PreventUpdate
        living = sum(one.alive for one in workers)
        return (
            _table(found, current, workers, view), _fleet(workers),
            f"{len(found)} studies, {living} workers alive.", "",
            {"state": state, "query": query},
            no_update if seen is None or seen["query"] == query else query,
        )  # fmt: skip


def _state(found: Mapping[str, Found], current: set[str], workers: Sequence[WorkerState]) -> str:
    """What the page shows, whatever the view: where nothing is new, nothing is sent."""
    studies = [
        [
            name,
            name in current,
            [one.id, len(one.rows), astuple(one.progress)]
            if isinstance(one, Snapshot)
            else one and one.reason,
        ]
        for name, one in found.items()
    ]
    fleet = [[one.name, one.alive, one.study, one.trial, dict(one.refuses)] for one in workers]
    return digest_of([studies, fleet])


def _table(
    found: Mapping[str, Found], current: set[str], workers: Sequence[WorkerState],
    view: StudiesView,
) -> Any:  # fmt: skip
    if not found:
        return parts.empty(
            "No studies yet", "Search the bundled benchmark, or launch a study from here.",
            "exitbits launch fashion",
        )  # fmt: skip
    kept = order(found, view.search, view.sort)
    if not kept:
        return parts.empty("No study matches", f"No name contains {view.search!r}.")
    at_work = Counter(worker.study for worker in workers if worker.alive)
    rows = [
        _row(name, one, at_work[name], float(view.share), name not in current) for name, one in kept
    ]
    return parts.table(_HEADINGS, rows, "Studies of this store")


def _fleet(workers: Sequence[WorkerState]) -> Any:
    if not workers:
        return html.P("No worker has registered: start one with 'exitbits worker'.")
    rows = [
        [worker.name, "alive" if worker.alive else "gone",
         f"{worker.study}, trial {worker.trial}" if worker.study else "nothing",
         "; ".join(f"{study}: {reason}" for study, reason in worker.refuses.items())]
        for worker in workers
    ]  # fmt: skip
    headings = ["worker", "state", "works on", "has given up"]
    return parts.table(headings, rows, "Workers of this store")


def register_actions(app: Dash, archivist: Archivist) -> None:
    """Connect what changes something."""

    @app.callback(
        Output("studies-done", "children"),
        Input({"type": "studies-archive", "study": ALL, "archived": ALL}, "n_clicks"),
        State("studies-done", "children"),
        prevent_initial_call=True,
    )
    def archive(clicks: list[int | None], _: Any) -> str:
        pressed = ctx.triggered_id
        if not pressed or not any(clicks):
            raise PreventUpdate
        try:
            return archivist.set_archived(pressed["study"], bool(pressed["archived"]))
        except ExitbitsError as error:
            return str(error)
