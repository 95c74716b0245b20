"""Several studies or seeds beside each other: fronts, hypervolumes, and who dominates whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import plotly.graph_objects as go
from dash import Dash, Input, Output, State, dcc, html, no_update, set_props
from dash.exceptions import PreventUpdate

from dashboards.address import inner, query_fields
from dashboards.pages import parts
from dashboards.pages.compare.comparison import Comparison, summary_text
from dashboards.pages.compare.figures import MAX_STUDIES, as_patch, compare_figure, compare_traces
from dashboards.pages.compare.tables import tables
from dashboards.snapshot import Snapshot, Snapshots
from search.digest import digest_of
from search.errors import BadInput

PATH = "/compare"

Seen = dict[str, str]
"""What a page shows: the state of the store, what is drawn in the figure, and the theme."""


@dataclass(frozen=True)
class Selection:
    """What the page's address asks for.

    Attributes:
        names: of the studies, each once, in the order of choosing.
        group: whether they are seeds of one search.
    """

    names: tuple[str, ...] = ()
    group: bool = False

    def to_query(self) -> str:
        """As the query part of an address; empty where nothing is chosen."""
        fields = [("study", name) for name in self.names] + [("group", "1")] * self.group
        return f"?{urlencode(fields)}" if fields else ""

    @classmethod
    def from_query(cls, query: str | None) -> Selection:
        """Read an address."""
        given = query_fields(query or "")
        return cls(
            tuple(dict.fromkeys(given.get("study", []))), given.get("group", [""])[-1] == "1"
        )


def layout(snapshots: Snapshots, search: str) -> Any:
    """The page as its address asks for it; what is compared comes by polling."""
    options = _options(snapshots)
    selection, known = Selection.from_query(search), {one["value"] for one in options}
    return html.Div(
        [
            dcc.Interval(id="compare-poll", interval=parts.POLL_MS),
            dcc.Store(id="compare-seen"),
            dcc.Store(id="compare-agreed", data=search),
            html.H1("Compare studies"),
            html.Div(
                [
                    html.Div(
                        [
                            html.Label("Studies", htmlFor="compare-studies", id="compare-label"),
                            dcc.Dropdown(
                                options,
                                [name for name in selection.names if name in known],
                                id="compare-studies", multi=True,
                                placeholder="Choose studies to compare",
                            ),
                        ],
                        # The list names itself after what is chosen.
                        className="wide", role="group", **{"aria-labelledby": "compare-label"},
                    ),
                    dcc.Checklist(
                        {"group": "treat them as seeds of one search"},
                        ["group"] * selection.group, id="compare-seeds",
                    ),
                ],
                className="controls",
            ),
            html.Div(
                html.P("Loading the studies…"), id="compare-notes", **{"aria-live": "polite"}
            ),
            html.Div(
                [
                    parts.graph("compare-figure", "Metric against cost of the chosen studies",
                                height=560),
                    html.P(id="compare-summary"),
                    html.Div(id="compare-tables"),
                ],
                id="compare-shown", hidden=True,
            ),
        ]
    )  # fmt: skip


def _options(snapshots: Snapshots) -> list[dict[str, str]]:
    current = set(snapshots.names())
    return [
        {"label": name if name in current else f"{name} (archived)", "value": name}
        for name in snapshots.names(archived=True)
    ]


def register(app: Dash, snapshots: Snapshots) -> None:
    """Attach the page's callbacks.

    The address is what the page shows. Choosing writes the address; going back in the browser's
    history changes the address alone, and the choice follows it. ``compare-agreed`` holds the
    address that the choice was last in agreement with: it tells a person's choice from one that
    followed.
    """

    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Output("compare-agreed", "data"),
        Input("compare-studies", "value"),
        Input("compare-seeds", "value"),
        State("compare-agreed", "data"),
        State("compare-studies", "options"),
        prevent_initial_call=True,
    )
    def write(
        names: list[str] | None, seeds: list[str], agreed: str, options: list[dict[str, str]]
    ) -> tuple[str, str]:
        # Compared with what the list was set to: the address itself may have moved on already.
        query = written_query(names or (), bool(seeds), agreed, {one["value"] for one in options})
        if query == agreed:
            raise PreventUpdate
        return query, query

    @app.callback(
        *(Output(f"compare-{name}", key) for name, key in _DRAWN),
        Input("url", "search"),
        Input("theme", "data"),
        Input("compare-poll", "n_intervals"),
        State("compare-seen", "data"),
        State("compare-agreed", "data"),
        State("url", "pathname"),
        State("compare-studies", "options"),
    )
    def draw(
        query: str | None,
        mode: str,
        _: Any,
        seen: Seen | None,
        agreed: str,
        path: str,
        options: list[dict[str, str]],
    ) -> tuple[Any, ...]:
        if inner(path) != PATH:
            raise PreventUpdate  # on the way to another page
        query = query or ""
        # Whatever triggered this: the call that the address caused may have been overtaken.
        moved = query != agreed
        if moved:
            selection, known = Selection.from_query(query), {one["value"] for one in options}
            chosen = [name for name in selection.names if name in known]
            set_props("compare-studies", {"value": chosen})
            set_props("compare-seeds", {"value": ["group"] * selection.group})
            set_props("compare-agreed", {"data": query})
        found = answer(snapshots, query, mode, seen)
        if found is _SAME and not moved:
            raise PreventUpdate
        return found


def written_query(names: Sequence[str], group: bool, query: str, known: set[str]) -> str:
    """The address for what is chosen: the one there was as long as it means the same.

    Args:
        names: chosen, in the order of choosing.
        group: whether they are seeds of one search.
        query: the address before; names in it that do not exist stay until another choice.
        known: names that can be chosen.
    """
    there, chosen = Selection.from_query(query), Selection(tuple(names), group)
    if Selection(tuple(name for name in there.names if name in known), there.group) == chosen:
        return query
    return chosen.to_query()


# What a drawing changes: options of the list, notes, whether the rest is hidden, the rest, and
# the state of store and page that it shows.
_DRAWN = (
    ("studies", "options"), ("notes", "children"), ("shown", "hidden"), ("figure", "figure"),
    ("summary", "children"), ("tables", "children"), ("seen", "data"),
)  # fmt: skip
_SAME = (no_update,) * len(_DRAWN)


def answer(snapshots: Snapshots, query: str, mode: str, seen: Seen | None) -> tuple[Any, ...]:
    """What the page shows for an address, in the order of ``_DRAWN``.

    Args:
        snapshots: of the store.
        query: the address.
        mode: theme.
        seen: what the page shows already: where nothing is new, nothing is sent.
    """
    seen = seen or {"state": "", "drawn": "", "mode": ""}
    found = parts.guarded(lambda: _answer(snapshots, query, mode, seen))
    if isinstance(found, tuple):
        return found
    # An error stands above what was shown before, and the next drawing takes it away.
    return (no_update, found, *_SAME[2:-1], {**seen, "state": ""})


def _answer(snapshots: Snapshots, query: str, mode: str, seen: Seen) -> tuple[Any, ...]:
    options, selection = _options(snapshots), Selection.from_query(query)
    known = {one["value"] for one in options}
    names = [name for name in selection.names if name in known]
    found = tuple(snapshots.get(name) for name in names[:MAX_STUDIES])
    trials = [(one.progress.budget, one.progress.finished, one.progress.failed) for one in found]
    now = digest_of([query, mode, options, [one.revision for one in found], trials])
    if now == seen["state"]:
        return _SAME
    notes: list[Any] = [
        html.P(f"There is no study {name!r} in this store: it is left out.", role="alert")
        for name in selection.names
        if name not in known
    ]
    if len(names) > MAX_STUDIES:
        notes.append(html.P(f"Only the first {MAX_STUDIES} of {len(names)} studies are compared."))
    try:
        stop = _empty(options, found)
        comparison = Comparison(found) if stop is None else None
    except BadInput as error:
        stop = html.P(str(error), role="alert")
    if stop is not None or comparison is None:
        state = {"state": now, "drawn": "", "mode": mode}
        return options, [*notes, stop], True, *_SAME[3:-1], state
    notes += [html.P(text, className="note") for text in comparison.cautions(selection.group)]
    if comparison.waiting:
        listing = ", ".join(comparison.waiting)
        notes.append(html.P(f"Without an evaluation so far, so not in the figure: {listing}."))
    drawn = digest_of([names, selection.group, comparison.metric, comparison.reference])
    if (drawn, mode) == (seen["drawn"], seen["mode"]):
        # Most of the time that a figure takes is its layout's.
        traces = compare_traces(comparison, selection.group, mode)
        figure: Any = as_patch(go.Figure(traces), restyled=False)
    else:
        figure = compare_figure(comparison, selection.group, mode, drawn)
        if drawn == seen["drawn"]:
            figure = as_patch(figure, restyled=True)
    return (
        options, notes, False, figure, summary_text(comparison, selection.group),
        tables(comparison), {"state": now, "drawn": drawn, "mode": mode},
    )  # fmt: skip


def _empty(options: Sequence[Any], found: Sequence[Snapshot]) -> Any:
    """What stands in for a comparison where there is nothing to compare; None where there is."""
    if not options:
        return parts.empty(
            "There is no study in this store yet.",
            "Launch one on the Launch page, or with the command:",
            "exitbits launch",
        )
    if not found:
        return parts.empty(
            "No study is chosen.", "Choose two or more in the list above to see them together."
        )
    if not any(one.front for one in found):
        return parts.empty(
            "None of the chosen studies has an evaluation yet.",
            "The figure appears with the first one. Workers begin with the command:",
            "exitbits worker --store STORE",
        )
    return None
