"""All studies of a store: how far each is, who works on it, and the best it has under a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from dashboards.pages import parts
from dashboards.snapshot import Snapshot, Snapshots
from search.errors import ExitbitsError
from search.front import best_under
from studies.fleet import WorkerState

SORTS = {
    "name": "name",
    "progress": "progress",
    "hypervolume": "hypervolume",
    "evaluations": "evaluations",
}


class Archivist(Protocol):
    """Whoever archives studies."""

    def set_archived(self, name: str, archived: bool) -> str:
        """Archive a study, or bring it back."""


def layout(snapshots: Snapshots) -> Any:
    """The page; its rows come by polling."""
    snapshots.names()  # a database that is away is told at once
    return html.Div(
        [
            dcc.Interval(id="studies-poll", interval=parts.POLL_MS),
            html.H1("Studies"),
            html.P(id="studies-status", **{"aria-live": "polite"}),
            html.Div(
                [
                    html.Div(
                        [
                            html.Label("Search", htmlFor="studies-search"),
                            dcc.Input(
                                id="studies-search", type="search", value="",
                                placeholder="part of a name",
                            ),
                        ]
                    ),
                    _choices("Sort by", dcc.RadioItems(SORTS, "name", id="studies-sort",
                                                       inline=True)),
                    _choices(
                        "Best under (share of W8A8)",
                        dcc.RadioItems({"0.5": "1/2", "0.25": "1/4", "0.125": "1/8"}, "0.25",
                                       id="studies-share", inline=True),
                    ),
                    _choices("Archived", dcc.Checklist({"archived": "show archived"}, [],
                                                       id="studies-archived")),
                ],
                className="controls",
            ),
            html.Div(id="studies-table"),
            html.P(id="studies-done", role="status"),
            html.H2("Workers"),
            html.Div(id="studies-workers"),
        ]
    )  # fmt: skip


def _choices(title: str, control: Any) -> html.Fieldset:
    return html.Fieldset([html.Legend(title), control])


def order(found: Sequence[Snapshot], search: str, sort: str) -> list[Snapshot]:
    """The studies whose name contains ``search``, in the order asked for."""
    kept = [one for one in found if search.strip().lower() in one.record.config.name.lower()]
    kept.sort(key=lambda one: one.record.config.name)
    if sort == "progress":
        kept.sort(key=lambda one: -(one.progress.finished / max(1, one.progress.budget)))
    elif sort == "hypervolume":
        kept.sort(key=lambda one: -one.hypervolume)
    elif sort == "evaluations":
        kept.sort(key=lambda one: -len(one.rows))
    return kept


def state_words(snapshot: Snapshot, alive: int) -> str:
    """Whether a study is done, at work, or waits for workers."""
    progress = snapshot.progress
    if progress.done:
        return "done"
    if progress.running and alive:
        return "running"
    return "waiting for workers" if not alive else "waiting"


def best_words(snapshot: Snapshot, share: float) -> str:
    """The best point under a share of the W8A8 cost."""
    limit = snapshot.summary.w8a8_gbops * share
    index = best_under(snapshot.points, limit) if snapshot.rows else None
    if index is None:
        return f"none <= {limit:.3f}"
    row = snapshot.rows[index]
    return f"{row.value:.4f} at {row.gbops:.3f}"


def sparkline(snapshot: Snapshot, width: int = 90, height: int = 22) -> Any:
    """Hypervolume over evaluations, as a picture whose meaning is also said."""
    course = [*snapshot.course.tolist(), [len(snapshot.rows), snapshot.hypervolume]]
    top = max(snapshot.hypervolume, 1e-9)
    across = max(1, len(snapshot.rows))
    corners, level = [], height - 2.0
    for count, value in course:
        x = 2 + count / across * (width - 4)
        corners.append(f"{x:.1f},{level:.1f}")
        level = height - 2 - value / top * (height - 4)
        corners.append(f"{x:.1f},{level:.1f}")
    points = " ".join(corners)
    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}'>"
        f"<polyline points='{points}' fill='none' stroke='%230a84c6' stroke-width='1.5'/></svg>"
    )
    return html.Img(
        src="data:image/svg+xml;utf8," + picture.replace("#", "%23"),
        alt=f"hypervolume rose to {snapshot.hypervolume:.4f}",
        width=width,
        height=height,
    )


def _row(snapshot: Snapshot, alive: int, share: float, is_archived: bool) -> list[Any]:
    name, progress = snapshot.record.config.name, snapshot.progress
    ended = progress.finished + progress.failed
    return [
        dcc.Link(name, href=parts.study_path(name)),
        "archived" if is_archived else state_words(snapshot, alive),
        [html.Progress(value=str(ended), max=str(max(progress.budget, ended, 1)),
                       **{"aria-label": f"{ended} of {progress.budget} trials"}),
         f" {ended}/{progress.budget}"],
        str(alive),
        str(len(snapshot.rows)),
        str(len(snapshot.front)),
        best_words(snapshot, share),
        [f"{snapshot.hypervolume:.4f} ", sparkline(snapshot)],
        html.Button("restore" if is_archived else "archive", type="button", className="quiet",
                    id={"type": "studies-archive", "study": name, "archived": not is_archived},
                    **{"aria-label": f"{'restore' if is_archived else 'archive'} {name}"}),
    ]  # fmt: skip


def register(app: Dash, snapshots: Snapshots) -> None:
    """Connect the page."""

    @app.callback(
        Output("studies-table", "children"),
        Output("studies-workers", "children"),
        Output("studies-status", "children"),
        Output("studies-status", "className"),
        Input("studies-poll", "n_intervals"),
        Input("studies-search", "value"),
        Input("studies-sort", "value"),
        Input("studies-share", "value"),
        Input("studies-archived", "value"),
        Input("studies-done", "children"),
    )
    def show(
        _: Any, search: str, sort: str, share: str, archived: list[str], _done: Any
    ) -> tuple[Any, ...]:
        try:
            current = snapshots.names()
            names = snapshots.names(archived=True) if archived else current
            found = [snapshots.get(name) for name in names]
            workers = snapshots.workers()
        except ExitbitsError as error:
            return no_update, no_update, f"Not up to date: {error}", "stale"
        kept = order(found, search or "", sort)
        if not names:
            table: Any = parts.empty(
                "No studies yet", "Search the bundled benchmark, or launch a study from here.",
                "exitbits launch fashion",
            )  # fmt: skip
        elif not kept:
            table = parts.empty("No study matches", f"No name contains {search!r}.")
        else:
            rows = [
                _row(one, _alive_on(one, workers), float(share),
                     one.record.config.name not in current)
                for one in kept
            ]  # fmt: skip
            table = parts.table(
                ["study", "state", "trials", "workers", "evaluations", "on the front",
                 "best metric at GBOPs", "hypervolume", ""],
                rows, "Studies of this store",
            )  # fmt: skip
        living = sum(one.alive for one in workers)
        words = f"{len(names)} studies, {living} workers alive."
        return table, _fleet(workers), words, ""


def _alive_on(snapshot: Snapshot, workers: Sequence[WorkerState]) -> int:
    name = snapshot.record.config.name
    return sum(worker.alive and worker.study == name for worker in workers)


def _fleet(workers: Sequence[WorkerState]) -> Any:
    if not workers:
        return html.P("No worker has registered: start one with 'exitbits worker'.")
    rows = [
        [worker.name, "alive" if worker.alive else "gone",
         f"{worker.study}, trial {worker.trial}" if worker.study else "nothing"]
        for worker in workers
    ]  # fmt: skip
    return parts.table(["worker", "state", "works on"], rows, "Workers of this store")


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
