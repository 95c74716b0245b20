"""Launch: submit a study from a form, watch workers take it up, stop it, raise its budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from dashboards.actions import MAX_AT_ONCE, StudyActions, preset_text
from dashboards.pages import parts
from dashboards.pages.launch.parts import (
    PRESET,
    RAISE,
    STATE,
    STOP,
    TRIALS,
    ended_form,
    open_list,
    progress_words,
    study_form,
    submissions_list,
    whole,
)
from search.errors import BadInput, ExitbitsError
from studies.config import MAX_TRIALS
from studies.config_file import preset_names
from studies.store.workers import list_workers

MAX_ROWS = 50


def layout(study_actions: StudyActions) -> Any:
    """The page; submissions and open studies come by polling."""
    return html.Div(
        [
            dcc.Interval(id="launch-poll", interval=parts.POLL_MS),
            html.H1("Launch"),
            html.P(
                "A study as in a TOML file for 'exitbits submit', checked in the same way. "
                "Relative paths are refused here: give whole paths, as they are on the machine of "
                "the dashboard and of every worker."
            ),
            study_form(preset_names()),
            html.Div(id="launch-answer", role="status"),
            html.H2("Submissions"),
            html.P(
                "Submitting measures the full-precision reference, which takes a while; at most "
                f"{MAX_AT_ONCE} run at once.",
                className="note",
            ),
            html.Div(id="launch-submissions", **{"aria-live": "polite"}),
            html.H2("Open studies"),
            html.P(
                "Stopping lets running trials finish and begins no new one. A budget is raised to "
                "the trials of the search itself; what baselines contributed comes on top.",
                className="note",
            ),
            html.Div(id="launch-open"),
            html.Div(id="launch-done", role="status"),
            dcc.Store(id="launch-open-studies"),
            html.H2("Stopped and finished studies"),
            ended_form(),
        ]
    )


def told(step: Callable[[], str]) -> html.P:
    """What came of a step, in words."""
    try:
        return html.P(step())
    except ExitbitsError as error:
        return _problem(error)


def _problem(error: ExitbitsError) -> html.P:
    return html.P(str(error), className="stale", role="alert")


def register(app: Dash, study_actions: StudyActions) -> None:
    """Connect the page."""
    _register_form(app, study_actions)
    _register_lists(app, study_actions)
    _register_changes(app, study_actions)


def _register_form(app: Dash, study_actions: StudyActions) -> None:
    @app.callback(
        Output("launch-text", "value"),
        Input({"type": PRESET, "name": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )
    def fill(clicks: list[int | None]) -> str:
        if not any(clicks):
            raise PreventUpdate
        return preset_text(ctx.triggered_id["name"])

    @app.callback(
        Output("launch-answer", "children"),
        Input("launch-check", "n_clicks"),
        Input("launch-submit", "n_clicks"),
        State("launch-text", "value"),
        State("launch-name", "value"),
        State("launch-trials", "value"),
        running=[(Output("launch-submit", "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def answer(_check: Any, _submit: Any, text: Any, name: Any, trials: Any) -> html.P:
        given = str(text or ""), str(name or "").strip() or None
        if ctx.triggered_id == "launch-submit":
            return told(lambda: _submitted(study_actions, *given, trials))
        return told(lambda: _checked(study_actions, *given, trials))


def _checked(study_actions: StudyActions, text: str, name: str | None, trials: object) -> str:
    config = study_actions.check(text, name, whole(trials))
    section = config.with_anchors().anchors
    anchors = len(section.bits or ()) * len(section.thresholds or ())
    words = (
        f"Valid: study {config.name!r} of {config.model.checkpoint} on {config.data.dataset}, "
        f"sampler {config.sampler.name}, {config.budget.trials} trials with {anchors} anchors."
    )
    study = study_actions.store.find(config.name)
    if study is None:
        return words
    return f"{words} It exists, with a budget of {study.record.config.budget.trials} trials."


def _submitted(study_actions: StudyActions, text: str, name: str | None, trials: object) -> str:
    return f"Submitting study {study_actions.submit(text, name, whole(trials)).study!r}."


def _register_lists(app: Dash, study_actions: StudyActions) -> None:
    @app.callback(
        Output("launch-submissions", "children"),
        Input("launch-poll", "n_intervals"),
        Input("launch-answer", "children"),
    )
    def submissions(_: Any, _answer: Any) -> Any:
        found = study_actions.submissions()
        try:
            workers = list_workers(study_actions.store.database)
        except ExitbitsError:
            return submissions_list(found, 1)  # nobody knows; the list below says why
        return submissions_list(found, sum(worker.alive for worker in workers))

    @app.callback(
        Output("launch-open", "children"),
        Output("launch-open-studies", "data"),
        Output("launch-ended-names", "children"),
        Input("launch-poll", "n_intervals"),
        Input("launch-done", "children"),
        State("launch-open-studies", "data"),
    )
    def rows(_: Any, _done: Any, shown: list[list[Any]] | None) -> tuple[Any, ...]:
        store = study_actions.store
        try:
            versions = sorted(store.open_studies())
            names = {version.name for version in versions}
            ended = [html.Option(value=name) for name in store.names() if name not in names]
            listed = [[version.id, version.name] for version in versions]
            if listed == shown:  # what is typed into a row stays
                return no_update, no_update, ended
            shown_rows = [(version, store.progress(version.id)) for version in versions[:MAX_ROWS]]
        except ExitbitsError as error:
            return _problem(error), None, no_update
        return open_list(shown_rows, len(versions) - len(shown_rows)), listed, ended

    @app.callback(
        Output({"type": STATE, "study": ALL}, "children"),
        Input("launch-poll", "n_intervals"),
        State({"type": STATE, "study": ALL}, "id"),
        prevent_initial_call=True,
    )
    def states(_: Any, keys: list[dict[str, Any]]) -> list[Any]:
        store = study_actions.store
        try:
            there = {version.id for version in store.versions(archived=True)}
            return [
                progress_words(store.progress(key["study"])) if key["study"] in there else no_update
                for key in keys
            ]
        except ExitbitsError:
            return [no_update] * len(keys)  # the rows go with the next poll


def _register_changes(app: Dash, study_actions: StudyActions) -> None:
    @app.callback(
        Output("launch-done", "children"),
        Input({"type": STOP, "study": ALL}, "n_clicks"),
        Input({"type": RAISE, "study": ALL}, "n_clicks"),
        Input("launch-ended-raise", "n_clicks"),
        State({"type": TRIALS, "study": ALL}, "id"),
        State({"type": TRIALS, "study": ALL}, "value"),
        State("launch-ended", "value"),
        State("launch-ended-trials", "value"),
        prevent_initial_call=True,
    )
    def change(
        _stops: Any, _raises: Any, _ended: Any,
        keys: list[dict[str, Any]], typed: list[Any], ended: str | None, ended_trials: Any,
    ) -> html.P:  # fmt: skip
        pressed = ctx.triggered_id
        if not ctx.triggered[0]["value"]:
            raise PreventUpdate  # a row has come, nobody pressed its button
        if pressed == "launch-ended-raise":
            return told(lambda: _raised_by_name(study_actions, ended, ended_trials))
        study_id = pressed["study"]
        if pressed["type"] == STOP:
            return told(lambda: study_actions.stop(study_id))
        given = dict(zip((key["study"] for key in keys), typed, strict=True))
        return told(lambda: _raised(study_actions, study_id, given.get(study_id)))


def _raised_by_name(study_actions: StudyActions, name: str | None, typed: object) -> str:
    if not name:
        raise BadInput("no study is chosen: choose one")
    return _raised(study_actions, study_actions.store.get(name).id, typed)


def _raised(study_actions: StudyActions, study_id: int, typed: object) -> str:
    trials = whole(typed)
    if trials is None:
        raise BadInput(f"no number of trials is given: give one from 1 to {MAX_TRIALS}")
    return study_actions.raise_budget(study_id, trials)
