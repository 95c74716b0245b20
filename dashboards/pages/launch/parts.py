"""What the launch page is made of: forms, lists, and the numbers that are typed into them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from dashboards.actions import MAX_TEXT, Submission, preset_text
from dashboards.pages import parts
from search.errors import BadInput
from studies.config import MAX_TRIALS
from studies.records import Progress, StudyVersion

MONOSPACE = "ui-monospace, 'SF Mono', Menlo, Consolas, monospace"
_IN_LINE = {"display": "flex", "gap": "8px", "alignItems": "center"}
PRESET = "launch-preset"
STOP, RAISE, TRIALS, STATE = "launch-stop", "launch-raise", "launch-trials", "launch-state"


def study_form(presets: Sequence[str]) -> html.Div:
    """The form of a new study, filled in with the first preset."""
    return html.Div(
        [
            html.Div(
                [
                    html.Button(
                        f"Fill in the preset {name}", id={"type": PRESET, "name": name},
                        type="button", className="quiet",
                    )
                    for name in presets
                ],
                className="controls",
            ),
            html.Label(f"Study, in TOML (at most {MAX_TEXT} characters)", htmlFor="launch-text"),
            dcc.Textarea(
                id="launch-text", value=preset_text(presets[0]), rows=22, spellCheck=False,
                style={"width": "100%", "fontFamily": MONOSPACE, "fontSize": "13px"},
            ),
            html.Div(
                [
                    _field("Name (empty: as in the text)", "launch-name"),
                    _field("Trials (empty: as in the text)", "launch-trials", inputMode="numeric"),
                    html.Button("Check", id="launch-check", type="button", className="quiet"),
                    html.Button("Submit", id="launch-submit", type="button"),
                ],
                className="controls",
            ),
        ],
        className="panel",
        role="group",
        **{"aria-label": "New study"},
    )  # fmt: skip


def ended_form() -> html.Div:
    """The form that lets a stopped or finished study go on."""
    return html.Div(
        [
            # A list of the browser's own: Dash's hides a field that takes the focus.
            html.Datalist(id="launch-ended-names"),
            _field("Study", "launch-ended", list="launch-ended-names", autoComplete="off"),
            _field("Trials", "launch-ended-trials", inputMode="numeric"),
            html.Button("Raise its budget", id="launch-ended-raise", type="button"),
        ],
        className="controls",
        role="group",
        **{"aria-label": "Let a study go on"},
    )


def _field(label: str, name: Any, **more: Any) -> html.Label:
    # A number field would silently send nothing for what is no number.
    # Dash's field takes no room of its own, so its width is given.
    return html.Label(
        [
            html.Span(label, style={"display": "block"}),
            dcc.Input(id=name, type="text", value="", style={"width": "240px"}, **more),
        ]
    )


def _key(kind: str, study_id: int) -> dict[str, Any]:
    """Id of a part of a study's row."""
    return {"type": kind, "study": study_id}


def whole(text: object) -> int | None:
    """A number of trials as it was typed, or None where nothing was.

    Raises:
        BadInput: for anything but a whole number from 1.
    """
    shown = str(text or "").strip()
    if not shown:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", shown) or not 1 <= int(shown) <= MAX_TRIALS:
        raise BadInput(f"trials = {shown[:40]!r}: give a whole number from 1 to {MAX_TRIALS}")
    return int(shown)


def progress_words(progress: Progress) -> str:
    """How far an open study is."""
    ended = progress.ended
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{ended} of {progress.budget} trials{failed}, {progress.running} running"


def submissions_list(found: Sequence[Submission], alive: int) -> Any:
    """The submissions, the newest first.

    Args:
        found: as the actions give them.
        alive: how many workers live, so that one who waits for them knows.
    """
    if not found:
        return html.P("None since the dashboard was started.", className="note")
    return html.Ul([html.Li(_submission(one, alive), className=one.state) for one in found])


def _submission(one: Submission, alive: int) -> list[Any]:
    if one.state == "measuring":
        return [f"{one.study}: measuring the full-precision reference"]
    if one.state == "failed":
        return [html.Span(f"{one.study}: {one.words}", className="stale")]
    waiting = (
        [" No worker is alive: run ", html.Code("exitbits worker"), " on this store."]
        if not alive
        else []
    )
    link = dcc.Link("Open its page", href=parts.study_path(one.study))
    return [f"{one.words}. ", link, ".", *waiting]


def open_list(shown: Sequence[tuple[StudyVersion, Progress]], more: int) -> Any:
    """What can be done with each open study.

    Args:
        shown: studies, and how far they are.
        more: how many further ones are not shown.
    """
    if not shown:
        return parts.empty("No open study", "Submit one above.")
    rest = [html.P(f"{more} more open studies are not shown.", className="note")] if more else []
    return html.Div([*(_open_study(study, progress) for study, progress in shown), *rest])


def _open_study(study: StudyVersion, progress: Progress) -> html.Div:
    name = study.name
    return html.Div(
        [
            html.Div(
                [
                    dcc.Link(name, href=parts.study_path(name)),
                    html.Div(progress_words(progress), id=_key(STATE, study.id)),
                ],
                className="wide",
                style={"overflowWrap": "anywhere"},
            ),
            html.Button(
                "Stop", id=_key(STOP, study.id), type="button", className="quiet",
                **{"aria-label": f"Stop {name}"},
            ),
            html.Div(
                [
                    html.Label(["to trials", _trials_of(study.id)], style=_IN_LINE),
                    html.Button(
                        "Raise", id=_key(RAISE, study.id), type="button", className="quiet",
                        **{"aria-label": f"Raise the budget of {name}"},
                    ),
                ],
                style=_IN_LINE,
            ),
        ],
        className="panel controls",
        role="group",
        **{"aria-label": name},
    )  # fmt: skip


def _trials_of(study_id: int) -> dcc.Input:
    return dcc.Input(
        id=_key(TRIALS, study_id),
        type="text",
        value="",
        inputMode="numeric",
        style={"width": "90px"},
    )
