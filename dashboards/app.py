"""The dashboard: pages over the snapshots of one store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dash import Dash, Input, Output, State, dcc, html
from flask import Response

from dashboards import actions, bodies
from dashboards.address import at, inner
from dashboards.logins import Token
from dashboards.pages import parts
from dashboards.pages.compare import layout as compare
from dashboards.pages.launch import layout as launch
from dashboards.pages.policy import layout as policy
from dashboards.pages.studies import layout as studies
from dashboards.pages.study import callbacks as front_callbacks
from dashboards.pages.study import layout as front
from dashboards.public import BehindProxy, Network, PublicUrl
from dashboards.security import CSRF_COOKIE, CSRF_HEADER, LOOPBACK, Guard
from dashboards.snapshot import Snapshots
from search.errors import BadInput, ExitbitsError
from studies.store.writer import StudyStore

NAVIGATION = (("Studies", "/"), ("Compare", "/compare"), ("Launch", "/launch"))


def create_app(
    store: StudyStore,
    *,
    token: Token | None = None,
    local: bool = True,
    public: PublicUrl | None = None,
    proxies: Sequence[Network] = (),
    folders: Sequence[Path] | None = None,
) -> Dash:
    """The application.

    Args:
        store: whose studies are shown.
        token: asked for at a login page; None for none.
        local: whether only this machine reaches it, so that only local names are answered.
        public: the address that a proxy gives it; then no other is answered but local ones.
        proxies: whose word is taken for who asks.
        folders: below which models and images of submitted studies must lie; None for anywhere.

    Raises:
        BadInput: without a token where others can reach it.
    """
    if public is not None and token is None:
        raise BadInput(
            "a dashboard with a public address needs a token: set EXITBITS_TOKEN or "
            "EXITBITS_TOKEN_FILE"
        )
    app = Dash(
        __name__,
        title="exitbits",
        update_title="",
        serve_locally=True,
        suppress_callback_exceptions=True,
        compress=True,
        assets_folder="assets",
        requests_pathname_prefix=f"{public.prefix}/" if public else "/",
        routes_pathname_prefix="/",
        csrf_token_name=CSRF_COOKIE,
        csrf_header_name=CSRF_HEADER,
        enable_mcp=False,
        description="Fronts of depth-precision policies",
    )
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    if public is not None:
        hosts: tuple[str, ...] | None = (*LOOPBACK, public.host)
        app.server.wsgi_app = BehindProxy(app.server.wsgi_app, public, proxies)
    else:
        hosts = LOOPBACK if local else None
    guard = Guard(token, hosts, origin=None if public is None else public.origin)
    guard.protect(app.server, app.csp_hashes)
    snapshots, study_actions = Snapshots(store), actions.StudyActions(store, folders)

    @app.server.get("/health")
    def health() -> Response:
        try:
            store.names()
        except ExitbitsError as error:
            # Asked without a login: where the database is stays out of it.
            words = "the database does not answer" if token else str(error)
            return Response(f"{words}\n", 503, mimetype="text/plain")
        return Response("ok\n", mimetype="text/plain")

    bodies.protect(app)
    app.layout = lambda: _frame(asks=token is not None)
    _register_routes(app, snapshots, study_actions)
    for page in (studies, front_callbacks, policy, compare):
        page.register(app, snapshots)
    studies.register_actions(app, study_actions)
    launch.register(app, study_actions)
    return app


def _frame(*, asks: bool) -> html.Div:
    """What every page has around it; with a way to log out where one logs in."""
    out = html.Button("Log out", type="submit", className="quiet")
    return html.Div(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="theme", storage_type="local", data="light"),
            html.A("Skip to the content", href="#content", className="skip"),
            html.Header(
                [
                    html.A("exitbits", href=at("/"), className="brand"),
                    html.Nav(
                        [dcc.Link(label, href=at(path)) for label, path in NAVIGATION],
                        **{"aria-label": "Pages"},
                    ),
                    html.Button(
                        "Dark theme",
                        id="theme-button",
                        n_clicks=0,
                        type="button",
                        className="quiet",
                    ),
                    *([html.Form(out, method="post", action=at("/logout"))] if asks else []),
                ]
            ),
            html.Main(id="content", tabIndex="-1"),
            html.Footer(
                "Accuracy on these pages was measured on the search split, which also chose the "
                "policies: it flatters them. No policy is certified yet."
            ),
        ]
    )


def _register_routes(app: Dash, snapshots: Snapshots, study_actions: actions.StudyActions) -> None:
    app.clientside_callback(
        "window.dash_clientside.exitbits.toggle_theme",
        Output("theme", "data"),
        Input("theme-button", "n_clicks"),
        State("theme", "data"),
        prevent_initial_call=True,
    )
    app.clientside_callback(
        "window.dash_clientside.exitbits.apply_theme",
        Output("theme-button", "children"),
        Input("theme", "data"),
    )

    @app.callback(
        Output("content", "children"),
        Input("url", "pathname"),
        # There only while the database is away: then the page is tried again.
        Input("reconnect", "n_intervals", allow_optional=True),
        State("url", "search"),
    )
    def show(path: str | None, _again: int | None, search: str | None) -> Any:
        steps = [unquote(step) for step in inner(path or "/").strip("/").split("/") if step]
        return parts.guarded(lambda: _page(steps, search or "", snapshots, study_actions))


def _page(
    steps: Sequence[str], search: str, snapshots: Snapshots, study_actions: actions.StudyActions
) -> Any:
    match steps:
        case []:
            return studies.layout(snapshots, search)
        case ["compare"]:
            return compare.layout(snapshots, search)
        case ["launch"]:
            return launch.layout(study_actions)
        case ["study", name]:
            return front.layout(snapshots.get(name), search)
        case ["study", name, "policy", number] if number.isdecimal() and len(number) < 19:
            return policy.layout(snapshots, name, int(number))
    return parts.problem("There is no such page.", "Go to the studies to begin anew.")
