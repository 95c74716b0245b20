"""What pages send to their callbacks, checked before any of them runs.

A body that no page of ours can have sent is answered with 400 and one line, and so is one that is
larger in any of its parts than a page needs. What a value may be stands in one table, by the
component and property that it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from dash import Dash
from flask import Response, request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dashboards.address import MAX_QUERY
from dashboards.pages.studies.view import SHARES, SORTS
from dashboards.pages.study.events import brushes_of, zoom_of
from dashboards.pages.study.view import COURSES, SCALES, selection_of

CALLBACK = "/_dash-update-component"
MAX_ITEMS = 10_000  # of a list, and of all lists and objects of a value together
MAX_DEPTH = 20
MAX_WORDS = 20_000  # characters of a text


class BadBody(ValueError):
    """No page of ours sends this."""


def bounded(value: Any, depth: int = MAX_DEPTH, room: list[int] | None = None) -> Any:
    """``value``, if it is no larger than a page needs.

    Raises:
        ValueError: when it is nested too deeply, or holds too much.
    """
    room = [MAX_ITEMS] if room is None else room
    if isinstance(value, str) and len(value) > MAX_WORDS:
        raise ValueError(f"a text of more than {MAX_WORDS} characters")
    if isinstance(value, (list, dict)):
        room[0] -= len(value) + 1
        if room[0] < 0:
            raise ValueError(f"more than {MAX_ITEMS} values")
        if not depth:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        for one in value.values() if isinstance(value, dict) else value:
            bounded(one, depth - 1, room)
    return value


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Pair(_Part):
    x: Annotated[list[float], Field(min_length=2, max_length=2)]
    y: Annotated[list[float], Field(min_length=2, max_length=2)]


class _Corners(_Part):
    x: Annotated[list[float], Field(max_length=MAX_ITEMS)]
    y: Annotated[list[float], Field(max_length=MAX_ITEMS)]


class _Outline(_Part):
    range: _Pair | None = None
    lassoPoints: _Corners | None = None  # noqa: N815 - Plotly's name


Index = Annotated[int, Field(ge=0, le=2**31)]
Identity = Annotated[int, Field(ge=0, le=2**62)]
Exponent = Annotated[float, Field(ge=-300, le=300)]


class _Point(_Part):
    customdata: Identity | Annotated[list[Any], Field(min_length=1)] | None = None
    curveNumber: Index  # noqa: N815
    pointNumber: Index | None = None  # noqa: N815
    pointIndex: Index | None = None  # noqa: N815


class _Event(_Part):
    points: Annotated[list[_Point], Field(max_length=MAX_ITEMS)] = []


class _Cell(_Part):
    colId: str | None = None  # noqa: N815
    rowId: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]  # noqa: N815


class _Shown(_Part):
    base: Identity


class _Drawn(_Part):
    lines: list[Any]
    course: list[Any]


class _Compared(_Part):
    state: str
    drawn: str
    mode: str


class _Listed(_Part):
    state: str
    query: str


class _Choice(_Part):
    label: str
    value: str


class _Policy(_Part):
    study: str
    number: Identity


class _Key(_Part):
    type: str
    study: Identity | None = None
    archived: bool | None = None
    name: str | None = None


def _readable(read: Callable[[Any], object]) -> AfterValidator:
    """What the page's own reader of an event can read."""

    def check(value: Any) -> Any:
        try:
            read(value)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"this event cannot be read ({error})") from error
        return value

    return AfterValidator(check)


Restyled = Annotated[
    list[Any], Field(min_length=1, max_length=2), _readable(lambda event: brushes_of(event, ()))
]
Relayout = Annotated[dict[str, Any], *(_readable(partial(zoom_of, scale=one)) for one in SCALES)]
Outline = Annotated[_Outline, _readable(lambda event: selection_of(event.model_dump()))]
Clicks = Annotated[int, Field(ge=0, le=2**53)] | None
Words = Annotated[str, Field(max_length=MAX_WORDS)] | None
Name = Annotated[str, Field(max_length=512)] | None
Names = Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=MAX_ITEMS)] | None
Marks = Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=5)]
Query = Annotated[str, Field(max_length=MAX_QUERY)] | None
Typed = Name | Annotated[float, Field(allow_inf_nan=False)]
Theme = Literal["light", "dark"] | None

VALUES: Mapping[str, Any] = {
    "compare-agreed.data": Query,
    "compare-poll.n_intervals": Clicks,
    "compare-seeds.value": Marks,
    "compare-seen.data": _Compared | None,
    "compare-studies.options": Annotated[list[_Choice], Field(max_length=MAX_ITEMS)],
    "compare-studies.value": Names,
    "front-budget.max": Exponent | None,
    "front-clear.n_clicks": Clicks,
    "front-csv.n_clicks": Clicks,
    "front-drawn.data": _Drawn | None,
    "front-figure.clickData": _Event | None,
    "front-figure.hoverData": _Event | None,
    "front-figure.relayoutData": Relayout | None,
    "front-html.n_clicks": Clicks,
    "front-over.value": Literal[COURSES],
    "front-parallel.restyleData": Restyled | None,
    "front-poll.n_intervals": Clicks,
    "front-seen.data": _Shown | None,
    "front-selected.data": Outline | None,
    "front-settled.data": Exponent | None,
    "front-show.value": Marks,
    "front-status.className": Words,
    "front-study.data": Name,
    "front-table.cellClicked": _Cell | None,
    "front-view.data": Query,
    "front-x.value": Literal[SCALES],
    "launch-answer.children": Any,
    "launch-check.n_clicks": Clicks,
    "launch-done.children": Any,
    "launch-ended-raise.n_clicks": Clicks,
    "launch-ended-trials.value": Typed,
    "launch-ended.value": Name,
    "launch-name.value": Words,
    "launch-open-studies.data": Annotated[
        list[Annotated[list[Identity | str], Field(max_length=2)]], Field(max_length=MAX_ITEMS)
    ]
    | None,
    "launch-poll.n_intervals": Clicks,
    "launch-preset.n_clicks": Clicks,
    "launch-raise.n_clicks": Clicks,
    "launch-state.id": _Key,
    "launch-stop.n_clicks": Clicks,
    "launch-submit.n_clicks": Clicks,
    "launch-text.value": Words,
    "launch-trials.id": _Key,
    "launch-trials.value": Typed,
    "policy-button.n_clicks": Clicks,
    "policy-view.data": _Policy,
    "reconnect.n_intervals": Clicks,
    "studies-archive.n_clicks": Clicks,
    "studies-archived.value": Marks,
    "studies-done.children": Any,
    "studies-poll.n_intervals": Clicks,
    "studies-search.value": Name,
    "studies-seen.data": _Listed | None,
    "studies-share.value": Literal[tuple(SHARES)],
    "studies-sort.value": Literal[SORTS],
    "theme.data": Theme,
    "url.pathname": Query,
    "url.search": Query,
}
"""What a component's property may be, by ``id.property``; a pattern's id is its type."""

_ADAPTERS = {key: TypeAdapter[Any](kind, config=None) for key, kind in VALUES.items()}


def protect(app: Dash) -> None:
    """Check every callback's body before Dash reads it."""

    @app.server.before_request
    def check() -> Response | None:
        if request.path != CALLBACK or request.method != "POST" or not request.is_json:
            return None  # refused elsewhere
        try:
            check_body(app, json.loads(request.get_data(), parse_constant=_refuse_constant))
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0][:200]
            words = f"exitbits: no page sends this ({reason}): reload the page\n"
            return Response(words, 400, mimetype="text/plain")
        return None


def check_body(app: Dash, body: Any) -> None:
    """Raise ``ValueError`` unless a page of ``app`` can have sent this."""
    if not isinstance(body, dict):
        raise BadBody("the body is no object")
    output = body.get("output")
    callback = app.callback_map.get(output) if isinstance(output, str) else None
    if callback is None:
        raise BadBody("there is no such callback")
    sent = set()
    for key, parts in (("inputs", callback["inputs"]), ("state", callback["state"])):
        sent |= set(_checked(parts, body.get(key, [])))
    _check_outputs(str(output), body.get("outputs"))
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not {*map(str, changed)} <= sent:
        raise BadBody("changedPropIds names what was not sent")


def _checked(expected: Sequence[Mapping[str, str]], given: Any) -> Iterator[str]:
    """Names ``id.property`` of all that was sent, each value looked at."""
    if not isinstance(given, list) or len(given) != len(expected):
        raise BadBody(f"{len(expected)} values belong here")
    for part, one in zip(expected, given, strict=True):
        name, prop = part["id"], part["property"]
        if not name.startswith("{"):
            yield _check_value(f"{name}.{prop}", one, name, prop)
            continue
        pattern = json.loads(name)
        if not isinstance(one, list) or len(one) > MAX_ITEMS:
            raise BadBody(f"{pattern['type']} needs a list of at most {MAX_ITEMS}")
        for each in one:
            own = each.get("id") if isinstance(each, dict) else None
            if not isinstance(own, dict) or own.keys() != pattern.keys():
                raise BadBody(f"{pattern['type']} has other ids")
            _KEY.validate_python(own)
            yield _check_value(f"{pattern['type']}.{prop}", each, own, prop)


def _check_value(key: str, given: Any, name: Any, prop: str) -> str:
    if not isinstance(given, dict) or given.get("id") != name or given.get("property") != prop:
        raise BadBody(f"{key} belongs here")
    value = bounded(given.get("value"))
    if key in _ADAPTERS:
        try:
            _ADAPTERS[key].validate_python(value, strict=True)
        except ValidationError as error:
            raise BadBody(f"{key}: {error.errors(include_url=False)[0]['msg']}") from error
    if not isinstance(name, str):
        name = json.dumps(name, sort_keys=True, separators=(",", ":"))
    return f"{name}.{prop}"


def _check_outputs(output: str, given: Any) -> None:
    several = output.startswith("..")
    parts = output.strip(".").split("...")
    if not isinstance(given, list if several else (dict, list)):
        raise BadBody("outputs are missing")
    listed = given if several else [given]
    if len(listed) != len(parts):
        raise BadBody(f"{len(parts)} outputs belong here")
    for part, one in zip(parts, listed, strict=True):
        for each in bounded(one) if isinstance(one, list) else [one]:
            if not isinstance(each, dict) or not isinstance(each.get("property"), str):
                raise BadBody("an output has no property")
            if isinstance(each.get("id"), dict):
                _KEY.validate_python(each["id"])
            elif f"{each.get('id')}.{each['property']}" != part:
                raise BadBody("an output of another callback")


def _refuse_constant(name: str) -> None:
    raise BadBody(f"{name} is no number")


_KEY = TypeAdapter(_Key)
